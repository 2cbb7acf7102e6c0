//! The runs that are active in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use talaria_runtime::ids;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::feed::Feed;

/// Active runs, by response id.
#[derive(Debug, Default)]
pub struct ActiveRuns {
    runs: Mutex<HashMap<Uuid, ActiveRun>>,
}

/// How others reach an active run.
#[derive(Clone, Debug)]
pub struct ActiveRun {
    pub tenant: String,
    pub feed: Arc<Feed>,
    /// Asks it to stop, as cancelled.
    pub cancel: CancellationToken,
}

impl ActiveRuns {
    pub fn insert(&self, id: Uuid, run: ActiveRun) {
        self.lock().insert(id, run);
    }

    pub fn remove(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    /// The active run of this tenant.
    pub fn get(&self, tenant: &str, id: Uuid) -> Option<ActiveRun> {
        self.lock()
            .get(&id)
            .filter(|run| run.tenant == tenant)
            .cloned()
    }

    /// Makes the id of a new run, and knows the run by it from then on.
    pub fn begin(&self, run: ActiveRun) -> Uuid {
        let mut runs = self.lock();
        let id = ids::new_id();
        runs.insert(id, run);
        id
    }

    /// The ids of all active runs, and one that is later than those of all runs that began before.
    pub fn ids(&self) -> (Vec<Uuid>, Uuid) {
        let runs = self.lock();
        (runs.keys().copied().collect(), ids::new_id())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, ActiveRun>> {
        // Nothing panics while it holds the lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
