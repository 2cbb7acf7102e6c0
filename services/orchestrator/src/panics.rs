//! Runs whose execution panicked here before anything of it was written: the store takes such a claim for one that was
//! never heard of, and counts no attempt.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// How often in a row each of them did so, and where its log ended then. At most one entry for each run that was executed
/// here and ended badly; those that end otherwise are forgotten.
#[derive(Debug, Default)]
pub struct Panics(Mutex<HashMap<Uuid, (u64, u32)>>);

impl Panics {
    /// Takes in that an execution panicked which began with `next_sequence_number`.
    pub fn add(&self, run: Uuid, next_sequence_number: u64) {
        let mut panics = self.lock();
        let (at, count) = panics.entry(run).or_default();
        if *at != next_sequence_number {
            (*at, *count) = (next_sequence_number, 0);
        }
        *count += 1;
    }

    /// How many panicked in a row where the log still ends.
    pub fn of(&self, run: Uuid, next_sequence_number: u64) -> u32 {
        match self.lock().get(&run) {
            Some((at, count)) if *at == next_sequence_number => *count,
            Some(_) | None => 0,
        }
    }

    pub fn forget(&self, run: Uuid) {
        self.lock().remove(&run);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (u64, u32)>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_without_a_write_between_them_add_up() {
        let (panics, run) = (Panics::default(), Uuid::from_u128(7));
        assert_eq!(panics.of(run, 0), 0);
        panics.add(run, 0);
        panics.add(run, 0);
        assert_eq!((panics.of(run, 0), panics.of(run, 4)), (2, 0));

        panics.add(run, 4);
        assert_eq!((panics.of(run, 0), panics.of(run, 4)), (0, 1));

        panics.forget(run);
        assert_eq!(panics.of(run, 4), 0);
    }
}
