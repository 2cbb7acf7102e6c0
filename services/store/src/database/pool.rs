//! Keeping connections, and finding out which of them still lead anywhere.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;

use super::door::{Door, NotOpened, session_check};

pub type Pool = managed::Pool<Manager>;

/// How long a doubtful connection may take to answer.
const CHECK: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Whether the trip that runs has been given up.
    pub static TRIP: GivenUp;
}

/// Whether a trip was given up before its end.
#[derive(Clone, Debug, Default)]
pub struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection out of a pool. When it is dropped it goes back, unless the trip that it was taken out for was given up:
/// its server may be busy with what nobody waits for any more.
#[derive(Debug)]
pub struct Object {
    /// None only while it is dropped.
    client: Option<managed::Object<Manager>>,
    given_up: Option<GivenUp>,
}

impl Object {
    pub fn new(client: managed::Object<Manager>) -> Self {
        Self {
            client: Some(client),
            given_up: TRIP.try_with(GivenUp::clone).ok(),
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.given_up.as_ref().is_some_and(GivenUp::is_set)
            && let Some(client) = self.client.take()
        {
            drop(managed::Object::take(client));
        }
    }
}

impl Deref for Object {
    type Target = ClientWrapper;

    #[expect(clippy::expect_used, reason = "it is there until it is dropped")]
    fn deref(&self) -> &ClientWrapper {
        self.client.as_ref().expect("not dropped")
    }
}

impl DerefMut for Object {
    #[expect(clippy::expect_used, reason = "it is there until it is dropped")]
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.client.as_mut().expect("not dropped")
    }
}

/// Which connections can be trusted. After trouble each is asked once, before it is used again: it may lead nowhere, and
/// its server may be one that only reads.
#[derive(Debug, Default)]
pub struct Trust {
    lost: Mutex<Lost>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    /// What was taken out before this has to be asked.
    doubted: Option<Instant>,
    /// The last that was asked gave no answer.
    was_silent: bool,
    /// What was taken out before this leads nowhere.
    void: Option<Instant>,
}

impl Trust {
    /// All connections have to be asked.
    pub fn doubt(&self) {
        self.lost().doubted = Some(Instant::now());
    }

    /// One was asked. When two give no answer one after the other, the rest, which may lead to the same place, are not
    /// even asked; one alone may only be slow.
    fn asked(&self, answered: bool) {
        let mut lost = self.lost();
        if !answered && lost.was_silent {
            lost.void = Some(Instant::now());
        }
        lost.was_silent = !answered;
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        // Nothing panics while it holds the lock.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lost = *self.trust.lost();
        if before(lost.void) {
            return Err(RecycleError::message("connections of its age lead nowhere"));
        }
        if !before(lost.doubted) {
            return Ok(());
        }
        let answer = tokio::time::timeout(CHECK, session_check(client)).await;
        self.trust.asked(answer.is_ok());
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(RecycleError::message("the server does not take writes")),
            Err(_) => Err(RecycleError::message("the connection leads nowhere")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_void_when_two_after_each_other_gave_no_answer() {
        let is_void = |answers: &[bool]| {
            let trust = Trust::default();
            for answer in answers {
                trust.asked(*answer);
            }
            trust.lost().void.is_some()
        };

        assert!(!is_void(&[false]));
        assert!(!is_void(&[false, true, false]));
        assert!(is_void(&[true, false, false]));
    }
}
