//! Which upstreams are left alone for a while because they failed too often.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// So many failures within this time open the circuit.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long it stays open; then one call may try.
const OPEN: Duration = Duration::from_secs(15);

/// What is known of one upstream's health.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: VecDeque<Instant>,
    open_until: Option<Instant>,
    /// The call that tries, while the others wait for what comes of it.
    probe: Option<Probe>,
    probes: u64,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    /// Until when it keeps others away.
    until: Instant,
}

/// A call that was let through; to be handed back with what came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The call is the one that tries.
    probe: Option<u64>,
}

/// Why a call is not let through.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The upstream is left alone for this long.
    Open(Duration),
    /// Another call tries; what comes of it is known after this long at the latest.
    Probing(Duration),
}

impl Breaker {
    /// Lets a call through, or says what keeps it. A call that tries has `longest_probe` to show that it is answered.
    pub fn admit(&mut self, now: Instant, longest_probe: Duration) -> Result<Admitted, Refusal> {
        let Some(open_until) = self.open_until else {
            return Ok(Admitted { probe: None });
        };
        if now < open_until {
            return Err(Refusal::Open(open_until - now));
        }
        if let Some(probe) = self.probe.as_ref().filter(|probe| now < probe.until) {
            return Err(Refusal::Probing(probe.until - now));
        }
        self.probes += 1;
        self.probe = Some(Probe {
            number: self.probes,
            until: now + longest_probe,
        });
        Ok(Admitted {
            probe: Some(self.probes),
        })
    }

    /// Takes in that an answer begins: the circuit closes, though the call may fail yet. True if that changed anything.
    pub fn began(&mut self) -> bool {
        let was_open = self.open_until.is_some();
        if was_open {
            self.close();
        }
        was_open
    }

    /// Takes in that the upstream answered, be it with a refusal.
    pub fn answered(&mut self) -> bool {
        self.failures.clear();
        self.began()
    }

    /// Takes in that a call failed; true if it was this failure that opened the circuit.
    pub fn failed(&mut self, call: &Admitted, now: Instant) -> bool {
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|failure| now - *failure > WINDOW)
        {
            self.failures.pop_front();
        }
        let probe_failed = self.gave_up(call);
        if !probe_failed && self.failures.len() < FAILURES {
            return false;
        }
        let was_open = self.open_until.is_some();
        self.failures.clear();
        self.open_until = Some(now + OPEN);
        !was_open
    }

    /// Takes in that nobody will know what came of a call: another may try. True if it was the one that tried.
    pub fn gave_up(&mut self, call: &Admitted) -> bool {
        let probing = self.probe.as_ref().map(|probe| probe.number);
        let was_probe = call.probe.is_some() && call.probe == probing;
        if was_probe {
            self.probe = None;
        }
        was_probe
    }

    /// Whether a call tries.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    fn close(&mut self) {
        self.failures.clear();
        self.open_until = None;
        self.probe = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PROBE: Duration = Duration::from_secs(70);
    const REST: Duration = Duration::from_secs(69);
    const USUAL: Admitted = Admitted { probe: None };
    const OPEN_YET: Result<Admitted, Refusal> = Err(Refusal::Open(OPEN));

    fn broken(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            breaker.failed(&USUAL, now);
        }
        breaker
    }

    fn try_at(breaker: &mut Breaker, now: Instant) -> Result<Admitted, Refusal> {
        breaker.admit(now, PROBE)
    }

    #[test]
    fn five_failures_in_ten_seconds_open_the_circuit_for_fifteen() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let opened: Vec<bool> = (0..5)
            .map(|n| breaker.failed(&USUAL, start + SECOND * n))
            .collect();

        assert_eq!(opened, [false, false, false, false, true]);
        let last = start + SECOND * 4;
        assert_eq!(try_at(&mut breaker, last), OPEN_YET);
        let shortly_before = try_at(&mut breaker, last + SECOND * 14);
        assert_eq!(shortly_before, Err(Refusal::Open(SECOND)));
        assert!(try_at(&mut breaker, last + OPEN).is_ok());
    }

    #[test]
    fn failures_that_are_far_apart_or_have_answers_between_them_open_nothing() {
        let start = Instant::now();
        let mut apart = Breaker::default();
        let mut mixed = Breaker::default();
        for n in 0..20 {
            assert!(!apart.failed(&USUAL, start + SECOND * 3 * n));
            assert!(!mixed.failed(&USUAL, start));
            if n % 4 == 3 {
                mixed.answered();
            }
        }
    }

    #[test]
    fn one_call_tries_and_the_others_wait_for_what_comes_of_it() {
        let start = Instant::now();
        let later = start + OPEN;
        let mut breaker = broken(start);
        assert!(try_at(&mut breaker, later).is_ok());
        let waits = try_at(&mut breaker, later + SECOND);
        assert_eq!(waits, Err(Refusal::Probing(REST)));

        assert!(breaker.began());
        assert_eq!(try_at(&mut breaker, later), Ok(USUAL));
        assert_eq!(try_at(&mut breaker, later), Ok(USUAL));
    }

    #[test]
    fn a_try_that_fails_opens_the_circuit_again() {
        let start = Instant::now();
        let later = start + OPEN;
        let mut breaker = broken(start);
        let probe = try_at(&mut breaker, later).unwrap();
        // A call from before the circuit opened says nothing about the one that tries.
        assert!(!breaker.failed(&USUAL, later));
        assert_eq!(try_at(&mut breaker, later), Err(Refusal::Probing(PROBE)));

        assert!(!breaker.failed(&probe, later));
        assert_eq!(try_at(&mut breaker, later), OPEN_YET);
    }

    #[test]
    fn a_try_of_which_nobody_hears_leaves_its_place_to_another() {
        let start = Instant::now();
        let later = start + OPEN;
        let mut breaker = broken(start);
        let given_up = try_at(&mut breaker, later).unwrap();
        breaker.gave_up(&given_up);
        let silent = try_at(&mut breaker, later).unwrap();
        let third = try_at(&mut breaker, later + PROBE).unwrap();

        assert!(!breaker.gave_up(&silent), "it tries no longer");
        assert!(breaker.gave_up(&third));
    }
}
