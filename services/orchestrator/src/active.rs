//! The runs that are active in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

    /// The ids of all active runs.
    pub fn ids(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, ActiveRun>> {
        // Nothing panics while it holds the lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
