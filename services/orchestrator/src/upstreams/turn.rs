//! Whose turn it is to ask an upstream, as its breaker says.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::breaker::{Admitted, Breaker, Refusal};

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

    /// An answer begins, though it may say nothing for a long time yet.
    pub(super) fn began(&self) {
        self.health.send_if_modified(Breaker::began);
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
    /// The upstream answered.
    pub fn answered(mut self) {
        self.admitted = None;
        self.upstream.health.send_if_modified(Breaker::answered);
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::{Kind, UpstreamConfig};
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// An upstream that was left alone until a moment ago.
    fn was_down() -> Upstream {
        let upstream = Upstream::new(UpstreamConfig {
            name: "test".to_owned(),
            kind: Kind::Responses,
            base_url: "http://127.0.0.1:1/v1".to_owned(),
            api_key: None,
            connect_timeout: MINUTE,
            first_byte_timeout: MINUTE,
            idle_timeout: MINUTE,
            total_timeout: MINUTE,
            max_retries: 0,
            resumable: false,
        });
        let upstream = upstream.unwrap();
        let before = Instant::now().checked_sub(Duration::from_secs(16)).unwrap();
        upstream.health.send_modify(|breaker| {
            for _ in 0..5 {
                let call = breaker.admit(before, MINUTE).unwrap();
                breaker.failed(&call, before);
            }
        });
        upstream
    }

    #[tokio::test]
    async fn whoever_waits_goes_as_soon_as_the_answer_of_the_call_that_tries_begins() {
        let upstream = was_down();
        let _probe = upstream.turn().unwrap();
        assert!(matches!(upstream.turn(), Err(Refusal::Probing(_))));
        let mut waits = Box::pin(upstream.probe_is_over(MINUTE));
        assert_eq!(waits.as_mut().now_or_never(), None);

        upstream.began();

        waits.await;
        assert!(upstream.turn().is_ok());
        assert!(upstream.turn().is_ok());
    }

    #[tokio::test]
    async fn when_the_call_that_tries_fails_nobody_goes_and_when_it_is_dropped_one_does() {
        let failing = was_down();
        let probe = failing.turn().unwrap();
        let waits = failing.probe_is_over(MINUTE);
        probe.failed();
        waits.await;
        assert!(matches!(failing.turn(), Err(Refusal::Open(_))));

        let dropped = was_down();
        drop(dropped.turn().unwrap());
        dropped.probe_is_over(MINUTE).await;
        let probe = dropped.turn();
        assert!(probe.is_ok());
        assert!(matches!(dropped.turn(), Err(Refusal::Probing(_))));
    }
}
