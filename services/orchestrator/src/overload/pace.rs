//! How long the store takes to write, beyond what is usual for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was quickest in this time and the one before is usual: what lasts for longer is not for want of room, and cannot
/// be helped by refusing anything.
const STRETCH: Duration = Duration::from_secs(15);

/// The times of small writes that succeeded. Large ones take what they take; those that fail say nothing about pace, and
/// are told of in other ways.
#[derive(Debug)]
pub struct StorePace {
    /// What one write counts as at most, beyond what is usual.
    most: Duration,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    stretch_began: Option<Instant>,
    quickest: Option<Duration>,
    quickest_before: Option<Duration>,
    /// What writes took beyond the usual since it was last asked: the sum, and how many.
    sum: Duration,
    count: u32,
    /// The mean of that when it was last asked and there were any, when that was, and for how long it holds.
    latest: Option<Latest>,
    /// Of the latest write.
    took: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    excess: Duration,
    until: Instant,
}

impl StorePace {
    pub fn new(most: Duration) -> Self {
        Self {
            most,
            times: Mutex::default(),
        }
    }

    /// Takes in a write that ended at `now`.
    pub fn note(&self, now: Instant, took: Duration) {
        let mut times = self.lock();
        let began = *times.stretch_began.get_or_insert(now);
        if now.saturating_duration_since(began) >= STRETCH {
            times.stretch_began = Some(now);
            times.quickest_before = times.quickest.take();
        }
        let quickest = times.quickest.map_or(took, |quickest| quickest.min(took));
        times.quickest = Some(quickest);
        let usual = times
            .quickest_before
            .map_or(quickest, |before| before.min(quickest));
        times.sum += took.saturating_sub(usual).min(self.most);
        times.count += 1;
        times.took = took;
    }

    /// How much longer than usual writes take. What the latest took holds until there is another, but for no longer than it
    /// took.
    pub fn excess(&self, now: Instant) -> Duration {
        let mut times = self.lock();
        if times.count > 0 {
            times.latest = Some(Latest {
                excess: times.sum / times.count,
                until: now + times.took,
            });
            (times.sum, times.count) = (Duration::ZERO, 0);
        }
        match times.latest {
            Some(Latest { excess, until }) if now <= until => excess,
            Some(_) | None => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        // Nothing panics while it holds the lock.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_usual_is_no_excess_however_long_it_takes() {
        let start = Instant::now();
        for took in [3, 200] {
            let pace = StorePace::new(ms(100));
            assert_eq!(pace.excess(start), ms(0));
            for n in 0..10 {
                pace.note(start + ms(n), ms(took));
            }
            assert_eq!(pace.excess(start + ms(10)), ms(0), "{took}");
        }
    }

    #[test]
    fn a_write_that_took_longer_counts_until_the_next_or_for_as_long_as_it_took() {
        let (pace, start) = (StorePace::new(ms(100)), Instant::now());
        pace.note(start, ms(5));
        assert_eq!(pace.excess(start), ms(0));
        pace.note(start + ms(100), ms(35));
        pace.note(start + ms(100), ms(65));

        // On the average of all since it was asked.
        assert_eq!(pace.excess(start + ms(100)), ms(45));
        assert_eq!(pace.excess(start + ms(165)), ms(45));
        assert_eq!(pace.excess(start + ms(166)), ms(0));
        pace.note(start + ms(170), ms(3_000));
        assert_eq!(pace.excess(start + ms(170)), ms(100));
        pace.note(start + ms(180), ms(6));
        assert_eq!(pace.excess(start + ms(180)), ms(1));
    }

    #[test]
    fn after_half_a_minute_a_slow_store_is_usual() {
        let (pace, start) = (StorePace::new(ms(1_000)), Instant::now());
        let excess = |second: u64, took| {
            let now = start + Duration::from_secs(second);
            pace.note(now, ms(took));
            pace.excess(now)
        };
        assert_eq!(excess(0, 5), ms(0));
        assert_eq!(excess(10, 500), ms(495));
        assert_eq!(excess(16, 500), ms(495));
        assert_eq!(excess(29, 500), ms(495));
        assert_eq!(excess(31, 500), ms(0));
        assert_eq!(excess(32, 5), ms(0));
        assert_eq!(excess(33, 500), ms(495));
    }
}
