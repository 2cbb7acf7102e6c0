//! What is too much: only so many runs may begin at the same time, so that those under way keep their pace.
//!
//! A run that has begun mostly waits for its model. What costs is its beginning: reading the request, asking the model,
//! and writing it down. So the runs in that stage are what is bounded, whatever makes it slow: too many requests, too
//! little of a processor, or a slow database.
//!
//! Those beyond the bound wait in a line. A burst is soon worked off, so all of it may wait; a line that stands helps nobody, so
//! it is kept short, and whoever comes to it in vain is told so at once. To tell the two apart by how long ago the line was
//! empty is the idea of `CoDel` (Nichols and Jacobson, RFC 8289) in the form that Ben Maurer gave it for servers ("Fail at
//! Scale", ACM Queue 13/8, 2015). There it is the wait that is cut short; here it is the line, which costs less: nobody
//! waits in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, timeout};

/// How long a run waits for those that begin. It is a burst for as long: `N` of the article.
const BURST: Duration = Duration::from_millis(100);
/// The length of a line that has stood for longer, as a multiple of how many may begin at a time.
const STANDING: usize = 2;
/// How often it is looked whether anything was refused.
const LOOK: Duration = Duration::from_secs(1);
/// It has ended when nothing was refused for so long.
const QUIET: Duration = Duration::from_secs(5);

/// The runs that begin, and the line before them. Who waits in it has a place among the concurrent runs, which bounds it.
#[derive(Debug)]
pub struct Beginnings {
    slots: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    since: Instant,
    /// When a run last began without waiting, in nanoseconds after `since`.
    free_at: AtomicU64,
    /// Refusals since then.
    refused: AtomicU64,
}

impl Beginnings {
    /// At most so many at a time.
    pub fn new(most: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(most)),
            most,
            waiting: AtomicUsize::new(0),
            since: Instant::now(),
            free_at: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether a run that came now would be refused at once: then it is, and nothing else need be done for it.
    pub fn turns_away(&self) -> bool {
        let turns_away = self.is_full(Instant::now());
        if turns_away {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        turns_away
    }

    /// Lets a run begin, after those that wait already; for as long as what it is given is kept. None where there are too
    /// many.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let now = Instant::now();
        // Fails while others wait: whatever gets free is theirs.
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            let since = now.duration_since(self.since).as_nanos();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            self.free_at.store(since, Ordering::Relaxed);
            return Some(slot);
        }
        if self.turns_away() {
            return None;
        }
        let _waits = Waits::begin(&self.waiting);
        let slot = timeout(BURST, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.ok().and_then(Result::ok);
        if slot.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    /// Whether the line has stood for so long that it is no burst, and is as long as it may be.
    fn is_full(&self, now: Instant) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let free_at = Duration::from_nanos(self.free_at.load(Ordering::Relaxed));
        waiting >= STANDING * self.most
            && now.duration_since(self.since).saturating_sub(free_at) > BURST
    }

    /// How many begin at this moment.
    pub fn count(&self) -> usize {
        self.most.saturating_sub(self.slots.available_permits())
    }

    /// How many were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Tells the log of it for as long as it is polled.
    pub async fn watch(&self) {
        let mut episode = Episode::default();
        let mut looks = interval(LOOK);
        loop {
            let now = looks.tick().await;
            match episode.look(now, self.refused()) {
                None => {}
                Some(Turn::Begins) => {
                    let most = self.most;
                    tracing::warn!(most, "overloaded: too many runs begin, refuses others");
                }
                Some(Turn::Ended { refused, lasted }) => {
                    let seconds = lasted.as_secs();
                    tracing::warn!(refused, seconds, "not overloaded any more");
                }
            }
        }
    }
}

/// A run in the line, until this is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
    use std::pin::pin;

    use futures::future::join_all;
    use futures::poll;

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

    #[tokio::test]
    async fn a_burst_waits_its_turn() {
        let beginnings = Beginnings::new(2);
        let slots = (beginnings.enter().await, beginnings.enter().await);
        assert!(slots.0.is_some() && slots.1.is_some());
        let (mut third, mut fourth) = (pin!(beginnings.enter()), pin!(beginnings.enter()));
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        assert_eq!(beginnings.count(), 2);

        drop(slots.1);
        assert!(poll!(&mut fourth).is_pending());
        let third = third.await;
        assert!(third.is_some());
        drop(slots.0);
        assert!(fourth.await.is_some());
        assert_eq!((beginnings.count(), beginnings.refused()), (1, 0));
        drop(third);
        assert_eq!(beginnings.count(), 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_refused() {
        let beginnings = Beginnings::new(1);
        let first = beginnings.enter().await;
        assert!(first.is_some());
        assert!(beginnings.enter().await.is_none());
        assert_eq!((beginnings.count(), beginnings.refused()), (1, 1));
    }

    #[tokio::test]
    async fn a_line_that_stands_is_short_until_somebody_finds_it_empty() {
        let beginnings = Beginnings::new(1);
        let first = beginnings.enter().await;
        let free_at = Duration::from_nanos(beginnings.free_at.load(Ordering::Relaxed));
        let burst_ends = beginnings.since + free_at + BURST;
        let is_full = |at| (beginnings.is_full(burst_ends), beginnings.is_full(at));
        let later = burst_ends + Duration::from_nanos(1);
        let (mut second, mut third) = (pin!(beginnings.enter()), pin!(beginnings.enter()));

        assert!(poll!(&mut second).is_pending());
        assert_eq!(is_full(later), (false, false));
        assert!(poll!(&mut third).is_pending());
        assert_eq!(is_full(later), (false, true));

        // Who comes in through the line leaves it standing.
        drop(first);
        let second = second.await;
        assert!(second.is_some());
        assert_eq!(is_full(later), (false, false));
        let mut fourth = pin!(beginnings.enter());
        assert!(poll!(&mut fourth).is_pending());
        assert_eq!(is_full(later), (false, true));

        drop(second);
        assert!(third.await.is_some());
        assert!(fourth.await.is_some());
        assert!(beginnings.enter().await.is_some());
        let emptied_at = Duration::from_nanos(beginnings.free_at.load(Ordering::Relaxed));
        assert!(emptied_at > free_at);
        assert_eq!((beginnings.count(), beginnings.refused()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_comes_to_a_full_line_is_turned_away_and_counted() {
        let beginnings = Beginnings {
            since: Instant::now() - 2 * BURST,
            ..Beginnings::new(1)
        };
        let first = Arc::clone(&beginnings.slots).try_acquire_owned();
        assert!(first.is_ok());
        let mut line = pin!(join_all((0..STANDING).map(|_| beginnings.enter())));
        assert!(!beginnings.turns_away());
        assert!(poll!(&mut line).is_pending());

        assert!(beginnings.turns_away());
        assert!(beginnings.enter().await.is_none());
        assert_eq!(beginnings.refused(), 2);
        // Those in the line wait in vain.
        assert!(line.await.iter().all(Option::is_none));
        assert_eq!(beginnings.refused(), 2 + STANDING as u64);
        assert!(!beginnings.turns_away());
    }
}
