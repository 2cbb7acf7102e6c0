//! Whether this process may still take itself for alive: by time alone, since a process that cannot renew its lease
//! learns nothing else in time.
//!
//! What is written is safe without it, because every write compares and sets. The fence keeps a process that others may
//! take for dead from doing what cannot be taken back: calling tools and models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// What part of a lease may pass since a renewal began: 6 of 10.
const PART: (u32, u32) = (6, 10);
const NEVER: u64 = u64::MAX;

/// Open for six tenths of a lease after the beginning of each renewal that was acknowledged. Once it has closed it stays
/// closed until somebody has found out which runs were lost meanwhile.
#[derive(Debug)]
pub struct Fence {
    longest_ms: u64,
    /// Milliseconds since the machine was started, as all times here.
    now: fn() -> Duration,
    renewed_ms: AtomicU64,
    closed: AtomicBool,
    /// How often it has closed.
    closings: AtomicU64,
    opened: watch::Sender<()>,
}

/// That the fence was open at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass(u64);

/// That one effect was allowed at some moment.
#[derive(Debug)]
pub struct Permit {
    pass: Option<(Arc<Fence>, Pass)>,
    was_kept: AtomicBool,
}

impl Permit {
    /// Of what no fence can keep from anything.
    pub fn always() -> Self {
        Self {
            pass: None,
            was_kept: AtomicBool::new(false),
        }
    }

    /// While the fence is open.
    pub fn with(fence: Arc<Fence>, pass: Pass) -> Self {
        Self {
            pass: Some((fence, pass)),
            ..Self::always()
        }
    }

    /// Whether the effect may begin: it still is, and was all the time. To be asked right before it does.
    pub fn may_begin(&self) -> bool {
        let may = self
            .pass
            .as_ref()
            .is_none_or(|(fence, pass)| fence.holds(*pass));
        if !may {
            self.was_kept.store(true, Ordering::SeqCst);
        }
        may
    }

    /// Whether it was kept from beginning.
    pub fn was_kept(&self) -> bool {
        self.was_kept.load(Ordering::SeqCst)
    }

    /// The same moment, for another effect.
    pub fn again(&self) -> Self {
        Self {
            pass: self.pass.clone(),
            was_kept: AtomicBool::new(false),
        }
    }
}

impl Fence {
    /// A fence that is closed until the first renewal. `now` counts on while the machine is suspended.
    pub fn new(lease: Duration, now: fn() -> Duration) -> Self {
        let (part, of) = PART;
        Self {
            longest_ms: millis(lease * part / of),
            now,
            renewed_ms: AtomicU64::new(NEVER),
            closed: AtomicBool::new(false),
            closings: AtomicU64::new(0),
            opened: watch::Sender::new(()),
        }
    }

    /// Whether effects may begin.
    pub fn is_open(&self) -> bool {
        let renewed = self.renewed_ms.load(Ordering::SeqCst);
        if renewed == NEVER || self.closed.load(Ordering::SeqCst) {
            return false;
        }
        let is_fresh = self.is_fresh(renewed);
        if !is_fresh {
            self.close();
        }
        is_fresh
    }

    /// Notes that it is open; none if it is not.
    pub fn pass(&self) -> Option<Pass> {
        let closings = self.closings.load(Ordering::SeqCst);
        self.is_open().then_some(Pass(closings))
    }

    /// Whether it is open and was so all the time since.
    pub fn holds(&self, pass: Pass) -> bool {
        self.is_open() && self.closings.load(Ordering::SeqCst) == pass.0
    }

    /// Returns when it is open. Cancel-safe.
    pub async fn opened(&self) {
        let mut opened = self.opened.subscribe();
        while !self.is_open() {
            // The sender lives as long as this does.
            let _ = opened.changed().await;
        }
    }

    /// Takes in that a renewal which began at `started` was acknowledged. Answers whether it stays closed until
    /// [`Fence::reopen`].
    pub fn renewed(&self, started: Duration) -> bool {
        let before = self.renewed_ms.load(Ordering::SeqCst);
        // Nobody may have looked while it should have been closed.
        if before != NEVER && !self.is_fresh(before) {
            self.close();
        }
        self.renewed_ms.store(millis(started), Ordering::SeqCst);
        self.opened.send_replace(());
        self.closed.load(Ordering::SeqCst)
    }

    /// Opens it again, once it is known which runs were lost.
    pub fn reopen(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.opened.send_replace(());
    }

    /// How long ago the last renewal began that was acknowledged; none before the first.
    pub fn age(&self) -> Option<Duration> {
        let renewed = self.renewed_ms.load(Ordering::SeqCst);
        let age = millis((self.now)()).saturating_sub(renewed);
        (renewed != NEVER).then_some(Duration::from_millis(age))
    }

    fn is_fresh(&self, renewed_ms: u64) -> bool {
        millis((self.now)()).saturating_sub(renewed_ms) <= self.longest_ms
    }

    fn close(&self) {
        // In this order: who sees it open again sees that it had closed.
        self.closings.fetch_add(1, Ordering::SeqCst);
        self.closed.store(true, Ordering::SeqCst);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fence() -> Fence {
        NOW.set(100);
        Fence::new(seconds(10), || seconds(NOW.get()))
    }

    #[test]
    fn it_is_open_for_six_seconds_after_a_renewal_began() {
        let fence = fence();
        assert!(!fence.is_open());
        assert!(!fence.renewed(seconds(99)));

        for (now, open) in [(100, true), (105, true), (106, false), (101, false)] {
            NOW.set(now);
            assert_eq!(fence.is_open(), open, "at {now}");
        }
    }

    #[test]
    fn once_closed_it_opens_only_when_somebody_has_looked() {
        let fence = fence();
        fence.renewed(seconds(100));
        let pass = fence.pass().unwrap();
        NOW.set(108);
        assert!(!fence.holds(pass));

        assert!(fence.renewed(seconds(108)));
        assert!(!fence.is_open());
        fence.reopen();

        assert!(fence.is_open() && !fence.holds(pass));
    }

    #[test]
    fn a_closing_that_nobody_saw_counts() {
        let fence = fence();
        fence.renewed(seconds(100));
        let pass = fence.pass().unwrap();
        NOW.set(120);

        assert!(fence.renewed(seconds(120)));
        fence.reopen();

        assert!(!fence.holds(pass));
    }

    #[test]
    fn who_waits_goes_on_when_it_opens() {
        let fence = fence();
        let mut waiting = Box::pin(fence.opened());
        assert_eq!(waiting.as_mut().now_or_never(), None);

        fence.renewed(seconds(100));

        assert_eq!(waiting.now_or_never(), Some(()));
    }
}
