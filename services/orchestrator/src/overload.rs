//! What is too much: only so many runs may begin at the same time, so that those under way keep their pace.
//!
//! A run that has begun mostly waits for its model. What costs is its beginning: reading the request, asking the model,
//! writing it down, and all the rest of a run that ends in a moment. So a run that comes is given a slot, and gives it back
//! when it ends, or after 25 ms: then it waits for something that more room would not make faster.
//!
//! Those for which there is no slot wait in a line. A burst is soon worked off, so all of it may wait; a line that stands helps
//! nobody, so it is kept as short as is worked off in 25 ms, and whoever comes beyond it is told so at once. To tell the
//! two apart by how long ago there was room is the idea of `CoDel` (Nichols and Jacobson, RFC 8289) in the form that Ben
//! Maurer gave it for servers ("Fail at Scale", ACM Queue 13/8, 2015). There it is the wait that is cut short; here it is the
//! line, which costs less: hardly anybody waits in vain.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, timeout, timeout_at};

/// How long a run counts as one that begins. It is also how long one that is only waited for gathers its first events.
const BEGINNING: Duration = Duration::from_millis(25);
/// What lasts for longer is no burst; so nobody waits for longer either. In it, ten times as many as may begin at a time do.
const BURST: Duration = Duration::from_millis(250);
/// How often it is looked whether anything was refused.
const LOOK: Duration = Duration::from_secs(1);
/// It has ended when nothing was refused for so long.
const QUIET: Duration = Duration::from_secs(5);

/// The runs that begin, and the line before them.
#[derive(Debug)]
pub struct Beginnings {
    slots: Arc<Semaphore>,
    /// How many slots there are: so many may wait, too, in a line that stands.
    most: usize,
    /// How many may wait in a burst.
    longest_line: usize,
    waiting: AtomicUsize,
    since: Instant,
    /// When a run last began without waiting, in nanoseconds after `since`.
    free_at: AtomicU64,
    /// Runs that were refused since then.
    refused: AtomicU64,
}

impl Beginnings {
    /// At most so many at a time, and so many that wait for them.
    pub fn new(most: usize, longest_line: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(most)),
            most,
            longest_line,
            waiting: AtomicUsize::new(0),
            since: Instant::now(),
            free_at: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets a run begin, after those that wait already. None where there are too many.
    pub async fn enter(&self) -> Option<Beginning> {
        let now = Instant::now();
        // Fails while others wait: whatever gets free is theirs.
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            let since = now.duration_since(self.since).as_nanos();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            self.free_at.fetch_max(since, Ordering::Relaxed);
            return Some(Beginning::with(slot));
        }
        if self.is_full_at(now) {
            return None;
        }
        let _waits = Waits::begin(&self.waiting);
        let slot = timeout(BURST, Arc::clone(&self.slots).acquire_owned()).await;
        slot.ok()?.ok().map(Beginning::with)
    }

    /// Whether a run that came now would be refused at once.
    pub fn is_full(&self) -> bool {
        self.is_full_at(Instant::now())
    }

    fn is_full_at(&self, now: Instant) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let free_at = Duration::from_nanos(self.free_at.load(Ordering::Relaxed));
        let is_burst = now.duration_since(self.since).saturating_sub(free_at) <= BURST;
        waiting
            >= if is_burst {
                self.longest_line
            } else {
                self.most
            }
    }

    /// How many begin at this moment.
    pub fn count(&self) -> usize {
        self.most.saturating_sub(self.slots.available_permits())
    }

    /// Notes that a run was refused, for this or another want of room.
    pub fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Tells the log of refusals for as long as it is polled.
    pub async fn watch(&self) {
        let mut episode = Episode::default();
        let mut looks = interval(LOOK);
        loop {
            let now = looks.tick().await;
            match episode.look(now, self.refused()) {
                None => {}
                Some(Turn::Begins) => tracing::warn!("overloaded: refuses new runs"),
                Some(Turn::Ended { refused, lasted }) => {
                    let seconds = lasted.as_secs();
                    tracing::warn!(refused, seconds, "not overloaded any more");
                }
            }
        }
    }
}

/// That a run begins.
#[derive(Debug)]
pub struct Beginning {
    slot: Option<OwnedSemaphorePermit>,
    until: Instant,
}

impl Beginning {
    fn with(slot: OwnedSemaphorePermit) -> Self {
        Self {
            slot: Some(slot),
            until: Instant::now() + BEGINNING,
        }
    }

    /// Of a run that needs no slot.
    pub fn over() -> Self {
        Self {
            slot: None,
            until: Instant::now(),
        }
    }

    /// Does what the run does, and gives the slot back on the way when it is time.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if self.slot.is_some() {
            // Boxed, because most runs last for longer.
            let done = Box::pin(timeout_at(self.until, &mut work)).await;
            if let Ok(done) = done {
                return done;
            }
            self.slot = None;
        }
        work.await
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
    use futures::poll;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

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
        let beginnings = Beginnings::new(2, 2);
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
        assert_eq!(beginnings.count(), 1);
        drop(third);
        assert_eq!(beginnings.count(), 0);
    }

    #[tokio::test]
    async fn a_line_that_stands_is_short_until_somebody_finds_a_free_slot() {
        let beginnings = Beginnings::new(1, 2);
        let first = beginnings.enter().await;
        let free_at = Duration::from_nanos(beginnings.free_at.load(Ordering::Relaxed));
        let burst_ends = beginnings.since + free_at + BURST;
        let later = burst_ends + Duration::from_nanos(1);
        let is_full = || {
            (
                beginnings.is_full_at(burst_ends),
                beginnings.is_full_at(later),
            )
        };
        let (mut second, mut third) = (pin!(beginnings.enter()), pin!(beginnings.enter()));

        assert_eq!(is_full(), (false, false));
        assert!(poll!(&mut second).is_pending());
        assert_eq!(is_full(), (false, true));
        assert!(poll!(&mut third).is_pending());
        assert_eq!(is_full(), (true, true));
        assert!(beginnings.enter().await.is_none());

        // Who comes in through the line leaves it standing.
        drop(first);
        assert!(second.await.is_some());
        assert!(third.await.is_some());
        assert_eq!(
            beginnings.free_at.load(Ordering::Relaxed),
            u64::try_from(free_at.as_nanos()).unwrap()
        );
        assert!(beginnings.enter().await.is_some());
        assert!(Duration::from_nanos(beginnings.free_at.load(Ordering::Relaxed)) > free_at);
        assert_eq!(beginnings.count(), 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_not_let_in() {
        let beginnings = Beginnings::new(1, 1);
        let first = beginnings.enter().await;
        assert!(first.is_some());
        assert!(beginnings.enter().await.is_none());
        assert_eq!(beginnings.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_run_gives_its_slot_back_when_it_ends_or_has_begun() {
        let beginnings = Beginnings::new(1, 0);
        let mut short = beginnings.enter().await.unwrap();
        assert_eq!(short.during(async { 7 }).await, 7);
        assert_eq!(beginnings.count(), 1);
        drop(short);
        assert_eq!(beginnings.count(), 0);

        let (end, ended) = oneshot::channel();
        let mut long = beginnings.enter().await.unwrap();
        let mut running = pin!(async {
            let ended = long.during(ended).await;
            drop(long);
            ended
        });
        let next = loop {
            assert!(poll!(&mut running).is_pending());
            if let Some(next) = beginnings.enter().await {
                break next;
            }
            yield_now().await;
        };
        assert_eq!(beginnings.count(), 1);
        end.send(8).unwrap();
        assert_eq!(running.await, Ok(8));
        // Nothing came back twice.
        assert_eq!(beginnings.count(), 1);
        drop(next);
        assert_eq!(beginnings.count(), 0);
    }

    #[tokio::test]
    async fn what_needs_no_slot_takes_none() {
        assert_eq!(Beginning::over().during(async { 7 }).await, 7);
    }
}
