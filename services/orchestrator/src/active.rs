//! The runs that are active in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    /// Asks whoever executes it to leave it; none while it is admitted.
    pub leave: Option<CancellationToken>,
}

impl ActiveRun {
    fn leave(&self) {
        if let Some(leave) = &self.leave {
            leave.cancel();
        }
    }
}

impl ActiveRuns {
    /// Knows a run by its id. An earlier execution of it, which lost it and has yet to notice, is asked to leave it: it
    /// touches nothing of the later one's until it does.
    pub fn insert(&self, id: Uuid, run: ActiveRun) {
        let feed = Arc::clone(&run.feed);
        let earlier = self.lock().insert(id, run);
        if let Some(earlier) = earlier.filter(|earlier| !Arc::ptr_eq(&earlier.feed, &feed)) {
            earlier.leave();
        }
    }

    /// Notes that a run which was begun here is admitted: from then on others may take it over, and `leave` asks whoever
    /// executes it to leave it. One that has ended meanwhile stays forgotten.
    pub fn execute(&self, id: Uuid, feed: &Arc<Feed>, leave: CancellationToken) {
        let mut runs = self.lock();
        let run = runs.get_mut(&id);
        if let Some(run) = run.filter(|run| Arc::ptr_eq(&run.feed, feed)) {
            run.leave = Some(leave);
        }
    }

    /// Forgets the execution that this feed belongs to; not one that came after it.
    pub fn remove(&self, id: Uuid, feed: &Arc<Feed>) {
        let mut runs = self.lock();
        if runs
            .get(&id)
            .is_some_and(|run| Arc::ptr_eq(&run.feed, feed))
        {
            runs.remove(&id);
        }
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

    /// Asks a run to stop, whoever's it is.
    pub fn cancel(&self, id: Uuid) {
        if let Some(run) = self.lock().get(&id) {
            run.cancel.cancel();
        }
    }

    /// Asks whoever executes a run here to leave it.
    pub fn leave(&self, id: Uuid) {
        if let Some(run) = self.lock().get(&id) {
            run.leave();
        }
    }

    /// The same for all of them.
    pub fn leave_all(&self) {
        for run in self.lock().values() {
            run.leave();
        }
    }

    /// Lets the feeds of all of them let go of what was said long ago.
    pub fn forget_old_events(&self) {
        let now = Instant::now();
        for run in self.lock().values() {
            run.feed.forget_old(now);
        }
    }

    /// The ids of the runs that are executed.
    pub fn executing(&self) -> Vec<Uuid> {
        let runs = self.lock();
        let executing = runs.iter().filter(|(_, run)| run.leave.is_some());
        executing.map(|(id, _)| *id).collect()
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
