//! Runs that this process has left, until the store knows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use talaria_proto::v1::ReleasedRun;
use tokio::sync::Semaphore;

/// Runs to hand over: one for each that was executed here at most.
#[derive(Debug)]
pub struct Released {
    runs: Mutex<Vec<ReleasedRun>>,
    /// Who has it hands over all that there are.
    pub turn: Semaphore,
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
    pub fn add(&self, run: ReleasedRun) {
        self.lock().push(run);
    }

    pub fn take(&self) -> Vec<ReleasedRun> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ReleasedRun>> {
        // Nothing panics while it holds the lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
