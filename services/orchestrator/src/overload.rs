//! What is too much: refuses a share of the new runs when the process is late, so that those under way keep their pace.

mod pace;
mod throttle;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub use self::pace::StorePace;
use self::throttle::{Throttle, most_delay};

/// How often it is measured how late the process is.
const PROBE: Duration = Duration::from_millis(5);
/// So many runs may always begin: fewer are no crowd, whatever makes the process late.
const ALWAYS: usize = 16;
/// It has ended when nothing was refused for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What measures the store for a throttle of this target.
pub fn pace(target: Duration) -> StorePace {
    StorePace::new(most_delay(target))
}

/// The throttle of this process, and what it goes by.
#[derive(Debug)]
pub struct Overload {
    /// None where nothing is refused.
    throttle: Option<Mutex<Throttle>>,
    /// Refusals since the start.
    refused: AtomicU64,
}

impl Overload {
    /// Holds the process at about this delay; at any, if it is zero.
    pub fn new(target: Duration) -> Self {
        Self {
            throttle: (!target.is_zero()).then(|| Mutex::new(Throttle::new(target))),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether a new run may begin where `running` are under way already.
    pub fn admits(&self, running: usize) -> bool {
        let Some(throttle) = &self.throttle else {
            return true;
        };
        let admits = running < ALWAYS || lock(throttle).admit();
        if !admits {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admits
    }

    /// The share of new runs that is refused, in percent, and how many were since the start.
    pub fn status(&self) -> (u32, u64) {
        let share = self.throttle.as_ref().map_or(0.0, |it| lock(it).share());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share is from 0 to 1"
        )]
        let percent = (share * 100.0).round() as u32;
        (percent, self.refused.load(Ordering::Relaxed))
    }

    /// Measures how late the process is, for as long as it is polled: a wake-up that comes late is what all streams
    /// wait for too, and so is the store.
    pub async fn watch(&self, store: &StorePace) {
        let Some(throttle) = &self.throttle else {
            return;
        };
        let mut episode = Episode::default();
        loop {
            let due = Instant::now() + PROBE;
            sleep_until(due).await;
            let now = Instant::now();
            let late = (now - due).max(store.excess(now.into_std()));
            lock(throttle).observe(now.into_std(), late);
            let refused = self.refused.load(Ordering::Relaxed);
            match episode.look(now, refused) {
                None => {}
                Some(Turn::Begins) => {
                    let delay_ms = lock(throttle).delay().as_millis();
                    tracing::warn!(delay_ms, "overloaded: refuses a part of the new runs");
                }
                Some(Turn::Ended { refused, lasted }) => {
                    let seconds = lasted.as_secs();
                    tracing::warn!(refused, seconds, "not overloaded any more");
                }
            }
        }
    }
}

fn lock(throttle: &Mutex<Throttle>) -> MutexGuard<'_, Throttle> {
    // Nothing panics while it holds the lock.
    throttle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether refusals are being made, as the log tells it: from the first until there were none for a while.
#[derive(Debug, Default)]
struct Episode {
    /// When it began and how many had been refused before; none outside of one.
    began: Option<(Instant, u64)>,
    /// How many had been refused when that last changed, and when that was.
    latest: Option<(Instant, u64)>,
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Begins,
    Ended { refused: u64, lasted: Duration },
}

impl Episode {
    fn look(&mut self, now: Instant, refused: u64) -> Option<Turn> {
        let before = self.latest.map_or(0, |(_, refused)| refused);
        if refused > before {
            self.latest = Some((now, refused));
            if self.began.is_some() {
                return None;
            }
            self.began = Some((now, before));
            return Some(Turn::Begins);
        }
        let ((began, refused_before), (latest, refused)) = (self.began?, self.latest?);
        if now.saturating_duration_since(latest) < QUIET {
            return None;
        }
        self.began = None;
        Some(Turn::Ended {
            refused: refused - refused_before,
            lasted: latest - began,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_an_episode_once_when_it_begins_and_once_when_it_ended() {
        let (mut episode, start) = (Episode::default(), Instant::now());
        let mut look = |ms, refused| episode.look(start + Duration::from_millis(ms), refused);
        let ended = |refused, ms| Turn::Ended {
            refused,
            lasted: Duration::from_millis(ms),
        };

        assert_eq!(look(0, 0), None);
        assert_eq!(look(5, 1), Some(Turn::Begins));
        assert_eq!(look(10, 7), None);
        assert_eq!(look(5_000, 7), None);
        assert_eq!(look(5_005, 8), None);
        assert_eq!(look(10_004, 8), None);
        assert_eq!(look(10_005, 8), Some(ended(8, 5_000)));
        assert_eq!(look(20_000, 8), None);
        assert_eq!(look(20_005, 9), Some(Turn::Begins));
        assert_eq!(look(25_005, 9), Some(ended(1, 0)));
    }

    #[test]
    fn without_a_target_nothing_is_refused() {
        let overload = Overload::new(Duration::ZERO);
        assert!(overload.admits(10_000));
        assert_eq!(overload.status(), (0, 0));
    }
}
