//! Which upstreams are left alone for a while because they failed too often.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// So many failures within this time open the circuit.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long it stays open; then one call may try.
const OPEN: Duration = Duration::from_secs(15);
/// How long others wait for the call that tries.
const PROBE: Duration = Duration::from_secs(1);

/// What is known of one upstream's health.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: VecDeque<Instant>,
    open_until: Option<Instant>,
    /// Until when the call that tries keeps others away.
    probing_until: Option<Instant>,
}

impl Breaker {
    /// Lets a call through, or says how long it should wait.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(open_until) = self.open_until else {
            return Ok(());
        };
        let closed_until = self.probing_until.unwrap_or(open_until);
        if now < closed_until {
            return Err(closed_until - now);
        }
        // A call that was dropped without an end keeps nobody away for longer than this.
        self.probing_until = Some(now + PROBE);
        Ok(())
    }

    /// Takes in that an answer begins: the circuit closes, though the call may fail yet.
    pub fn began(&mut self) {
        if self.open_until.is_some() {
            *self = Self::default();
        }
    }

    /// Takes in that the upstream answered, be it with a refusal.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// Takes in that a call failed; true if it was this failure that opened the circuit.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|failure| now - *failure > WINDOW)
        {
            self.failures.pop_front();
        }
        let probe_failed = self.probing_until.take().is_some();
        if !probe_failed && self.failures.len() < FAILURES {
            return false;
        }
        let was_open = self.open_until.is_some();
        self.failures.clear();
        self.open_until = Some(now + OPEN);
        !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn broken(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn five_failures_in_ten_seconds_open_the_circuit_for_fifteen() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let opened: Vec<bool> = (0..5).map(|n| breaker.failed(start + SECOND * n)).collect();

        assert_eq!(opened, [false, false, false, false, true]);
        let last = start + SECOND * 4;
        assert_eq!(breaker.admit(last), Err(OPEN));
        assert_eq!(breaker.admit(last + SECOND * 14), Err(SECOND));
        assert_eq!(breaker.admit(last + OPEN), Ok(()));
    }

    #[test]
    fn failures_that_are_far_apart_or_have_answers_between_them_open_nothing() {
        let start = Instant::now();
        let mut apart = Breaker::default();
        let mut mixed = Breaker::default();
        for n in 0..20 {
            assert!(!apart.failed(start + SECOND * 3 * n));
            assert!(!mixed.failed(start));
            if n % 4 == 3 {
                mixed.answered();
            }
        }
    }

    #[test]
    fn one_call_tries_and_the_others_wait_for_it() {
        let start = Instant::now();
        let later = start + OPEN;
        let mut breaker = broken(start);
        assert_eq!(breaker.admit(later), Ok(()));
        assert_eq!(breaker.admit(later), Err(PROBE));

        breaker.answered();
        assert_eq!(breaker.admit(later), Ok(()));
        assert_eq!(breaker.admit(later), Ok(()));
    }

    #[test]
    fn a_try_that_fails_opens_the_circuit_again() {
        let start = Instant::now();
        let later = start + OPEN;
        let mut breaker = broken(start);
        assert_eq!(breaker.admit(later), Ok(()));

        assert!(!breaker.failed(later));
        assert_eq!(breaker.admit(later), Err(OPEN));
    }
}
