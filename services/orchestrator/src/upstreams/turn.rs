//! Whose turn it is to ask an upstream, as its breaker says.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::breaker::{Admitted, Refusal};

/// Leave to make one call. Dropped without a word, it leaves its place to another.
#[derive(Debug)]
pub struct Turn<'a> {
    upstream: &'a Upstream,
    admitted: Option<Admitted>,
}

impl Upstream {
    /// Leave to make one call, or what keeps it.
    pub fn turn(&self) -> Result<Turn<'_>, Refusal> {
        let mut turn = Err(Refusal::Open(Duration::ZERO));
        self.health.send_if_modified(|breaker| {
            turn = breaker.admit(Instant::now(), self.first_byte_timeout);
            false
        });
        Ok(Turn {
            upstream: self,
            admitted: Some(turn?),
        })
    }

    /// Waits until the call that tries is over, or `at_most` so long.
    pub async fn probe_is_over(&self, at_most: Duration) {
        let mut health = self.health.subscribe();
        let is_over = health.wait_for(|breaker| !breaker.is_probing());
        // Late or over, what comes next is the breaker's to say.
        let _ = timeout(at_most, is_over).await;
    }
}

impl Turn<'_> {
    /// The answer begins.
    pub fn began(&self) {
        self.upstream
            .health
            .send_if_modified(|breaker| breaker.began());
    }

    /// The upstream answered.
    pub fn answered(mut self) {
        self.admitted = None;
        self.upstream
            .health
            .send_if_modified(|breaker| breaker.answered());
    }

    /// The call failed.
    pub fn failed(mut self) {
        let Some(admitted) = self.admitted.take() else {
            return;
        };
        let mut has_opened = false;
        self.upstream.health.send_modify(|breaker| {
            has_opened = breaker.failed(&admitted, Instant::now());
        });
        if has_opened {
            let upstream = self.upstream.name();
            tracing::error!(upstream, "an upstream fails and is left alone");
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.upstream
                .health
                .send_if_modified(|breaker| breaker.gave_up(&admitted));
        }
    }
}
