//! Runs that this process has left, until the store knows.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use talaria_proto::v1::ReleasedRun;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Runs to hand over: one for each that was executed here at most.
#[derive(Debug)]
pub struct Released {
    runs: Mutex<Runs>,
    /// Who has it hands over all that there are.
    pub turn: Semaphore,
}

#[derive(Debug, Default)]
struct Runs {
    waiting: HashMap<Uuid, ReleasedRun>,
    /// The store is being told of them.
    under_way: Vec<Uuid>,
}

impl Default for Released {
    fn default() -> Self {
        Self {
            runs: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Released {
    pub fn add(&self, id: Uuid, run: ReleasedRun) {
        self.lock().waiting.insert(id, run);
    }

    /// Takes all that wait; for whoever has the turn, until it is [`Released::done`].
    pub fn take(&self) -> Vec<ReleasedRun> {
        let mut runs = self.lock();
        let (ids, taken) = std::mem::take(&mut runs.waiting).into_iter().unzip();
        runs.under_way = ids;
        taken
    }

    /// The store knows of those that were taken, or will not.
    pub fn done(&self) {
        self.lock().under_way.clear();
    }

    /// All that the store may still take for this process's own.
    pub fn ids(&self) -> Vec<Uuid> {
        let runs = self.lock();
        runs.waiting
            .keys()
            .chain(&runs.under_way)
            .copied()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        // Nothing panics while it holds the lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_as_released_until_the_store_was_told() {
        let (released, id) = (Released::default(), Uuid::from_u128(7));
        released.add(id, ReleasedRun::default());
        assert_eq!(released.ids(), [id]);
        assert_eq!(released.take(), [ReleasedRun::default()]);
        assert_eq!(released.ids(), [id]);

        released.done();

        assert!(released.ids().is_empty());
        assert!(released.take().is_empty());
    }
}
