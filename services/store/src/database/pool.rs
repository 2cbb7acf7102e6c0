//! Keeping connections, and finding out which of them still lead anywhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;

use super::door::{Door, NotOpened, session_check};

pub type Pool = managed::Pool<Manager>;

/// How long a doubtful connection may take to answer.
const CHECK: Duration = Duration::from_secs(1);

/// Which connections can be trusted. After trouble each is asked once, before it is used again: a trip that was given up
/// may have left it waiting for an answer that never comes, and its server may be one that only reads.
#[derive(Debug, Default)]
pub struct Trust {
    lost: Mutex<Lost>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    /// What was taken out before this has to be asked.
    doubted: Option<Instant>,
    /// What was taken out before this leads nowhere.
    void: Option<Instant>,
}

impl Trust {
    /// All connections have to be asked.
    pub fn doubt(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.doubted = Some(Instant::now());
    }

    /// One of them gave no answer: others, which may lead to the same place, are not even asked.
    fn give_up(&self) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.void = Some(Instant::now());
    }

    fn lost(&self) -> Lost {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes and checks a pool's connections.
#[derive(Debug)]
pub struct Manager {
    pub door: Arc<Door>,
    pub trust: Arc<Trust>,
}

impl managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = NotOpened;

    async fn create(&self) -> Result<ClientWrapper, NotOpened> {
        self.door.open().await
    }

    async fn recycle(
        &self,
        client: &mut ClientWrapper,
        metrics: &Metrics,
    ) -> RecycleResult<NotOpened> {
        if client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        let taken_out = metrics.recycled.unwrap_or(metrics.created);
        let before = |moment: Option<Instant>| moment.is_some_and(|moment| taken_out <= moment);
        let lost = self.trust.lost();
        if before(lost.void) {
            return Err(RecycleError::message("connections of its age lead nowhere"));
        }
        if !before(lost.doubted) {
            return Ok(());
        }
        match tokio::time::timeout(CHECK, session_check(client)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RecycleError::message("the server does not take writes")),
            Err(_) => {
                self.trust.give_up();
                Err(RecycleError::message("the connection leads nowhere"))
            }
        }
    }
}
