//! The live feed of one run: its latest events in memory, for any number of subscribers.
//!
//! Nothing is queued per subscriber: each holds a cursor into one bounded window, so a subscriber that stops reading
//! costs the run nothing. One that falls out of the window is told to read the log instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use talaria_proto::v1::{EventChunk, Response};
use tokio::sync::watch;

/// Bytes of events that stay in memory per run at most, for subscribers that cannot keep up for a moment.
const WINDOW_BYTES: usize = 512 << 10;
/// For how long events stay if there are more than [`RECENT_BYTES`]: longer than it takes to read the log up to them.
const RECENT: Duration = Duration::from_secs(15);
/// Bytes of events that stay however old they are.
const RECENT_BYTES: usize = 16 << 10;
/// Bytes that one message to a subscriber holds, roughly.
const MESSAGE_BYTES: usize = 256 << 10;

/// The window of a run.
#[derive(Debug)]
pub struct Feed {
    window: Mutex<Window>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Window {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    next_seq: u64,
    ended: bool,
    response: Option<Arc<Response>>,
}

#[derive(Debug)]
struct Chunk {
    first_seq: u64,
    next_seq: u64,
    published: Instant,
    events: EventChunk,
}

impl Chunk {
    /// Bytes of memory that it takes.
    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.events.encoded().len()
    }
}

impl Window {
    fn push(&mut self, events: EventChunk, count: u64, now: Instant) {
        let chunk = Chunk {
            first_seq: self.next_seq,
            next_seq: self.next_seq + count,
            published: now,
            events,
        };
        self.next_seq = chunk.next_seq;
        self.bytes += chunk.size_bytes();
        self.chunks.push_back(chunk);
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        while self.chunks.len() > 1 && self.has_too_many(now) {
            if let Some(oldest) = self.chunks.pop_front() {
                self.bytes -= oldest.size_bytes();
            }
        }
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    fn has_too_many(&self, now: Instant) -> bool {
        let is_old = |oldest: &Chunk| now.duration_since(oldest.published) > RECENT;
        self.bytes > WINDOW_BYTES
            || self.bytes > RECENT_BYTES && self.chunks.front().is_some_and(is_old)
    }
}

/// A reader of a feed.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    changed: watch::Receiver<()>,
    /// The sequence number that it wants next.
    next_seq: u64,
}

/// What a subscriber gets.
#[derive(Debug, PartialEq)]
pub enum Next {
    Events(EventChunk),
    /// What it wants is no longer in memory.
    Behind,
    /// No more events come from here: the run ended, or left this process.
    Ended,
}

impl Feed {
    /// A feed whose first event will be number `next_seq`.
    pub fn new(next_seq: u64) -> Arc<Self> {
        let window = Mutex::new(Window {
            next_seq,
            ..Window::default()
        });
        Arc::new(Self {
            window,
            changed: watch::Sender::new(()),
        })
    }

    /// Shows `count` durable events to everyone.
    pub fn publish(&self, events: EventChunk, count: u64) {
        self.lock().push(events, count, Instant::now());
        self.changed.send_replace(());
    }

    /// Lets go of what was said long before `now`. What is said next does that, too, but may be long in coming.
    pub fn forget_old(&self, now: Instant) {
        self.lock().forget_old(now);
    }

    /// Says that the run ended, and as what.
    pub fn end(&self, response: Response) {
        let mut window = self.lock();
        window.ended = true;
        window.response = Some(Arc::new(response));
        drop(window);
        self.changed.send_replace(());
    }

    /// Says that nothing follows from here, unless the end was said already.
    pub fn leave(&self) {
        let mut window = self.lock();
        window.ended = true;
        drop(window);
        self.changed.send_replace(());
    }

    /// Follows the feed after `starting_after`; from the first event if there is none.
    pub fn subscribe(self: &Arc<Self>, starting_after: Option<u64>) -> Subscription {
        Subscription {
            changed: self.changed.subscribe(),
            feed: Arc::clone(self),
            next_seq: starting_after.map_or(0, |seq| seq.saturating_add(1)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while it holds the lock, and the window is whole after every step.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// What comes next; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Next {
        loop {
            self.changed.mark_unchanged();
            if let Some(next) = self.poll() {
                return next;
            }
            if self.changed.changed().await.is_err() {
                return Next::Ended;
            }
        }
    }

    /// The final response, once the run has ended; none if it left this process before.
    pub async fn response(&mut self) -> Option<Arc<Response>> {
        loop {
            self.changed.mark_unchanged();
            {
                let window = self.feed.lock();
                if window.ended {
                    return window.response.clone();
                }
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn poll(&mut self) -> Option<Next> {
        let window = self.feed.lock();
        if self.next_seq >= window.next_seq {
            return window.ended.then_some(Next::Ended);
        }
        if window
            .chunks
            .front()
            .is_none_or(|oldest| oldest.first_seq > self.next_seq)
        {
            return Some(Next::Behind);
        }
        let wanted = window
            .chunks
            .partition_point(|chunk| chunk.next_seq <= self.next_seq);
        let mut parts: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut next_seq = self.next_seq;
        for chunk in window.chunks.iter().skip(wanted) {
            if bytes > 0 && bytes + chunk.events.encoded().len() > MESSAGE_BYTES {
                break;
            }
            let events = if chunk.first_seq < self.next_seq {
                match after(&chunk.events, self.next_seq) {
                    Some(events) => events,
                    None => return Some(Next::Behind),
                }
            } else {
                chunk.events.clone()
            };
            bytes += events.encoded().len();
            parts.push(events.encoded().clone());
            next_seq = chunk.next_seq;
        }
        drop(window);
        self.next_seq = next_seq;
        // Chunks are repeated fields: one after the other they are one chunk.
        let encoded = match parts.as_slice() {
            [one] => one.clone(),
            parts => {
                let mut all = BytesMut::with_capacity(bytes);
                for part in parts {
                    all.extend_from_slice(part);
                }
                all.freeze()
            }
        };
        Some(Next::Events(EventChunk::from_encoded(encoded)))
    }
}

/// The events of a chunk from number `next_seq` on.
fn after(chunk: &EventChunk, next_seq: u64) -> Option<EventChunk> {
    let mut events = chunk.events().ok()?;
    events.retain(|event| event.sequence_number >= next_seq);
    Some(EventChunk::of(&events))
}

#[cfg(test)]
mod tests {
    use talaria_proto::v1::{Event, PartDelta, event::Kind};

    use super::*;

    fn chunk(first: u64, count: u64, bytes: usize) -> EventChunk {
        let event = |sequence_number| {
            let delta = PartDelta {
                delta: "x".repeat(bytes),
                ..Default::default()
            };
            Event {
                sequence_number,
                kind: Some(Kind::OutputTextDelta(delta)),
                ..Event::default()
            }
        };
        EventChunk::of(&(first..first + count).map(event).collect::<Vec<_>>())
    }

    fn numbers(next: Next) -> Vec<u64> {
        match next {
            Next::Events(chunk) => chunk
                .events()
                .unwrap()
                .iter()
                .map(|event| event.sequence_number)
                .collect(),
            other => panic!("no events: {other:?}"),
        }
    }

    #[tokio::test]
    async fn subscribers_see_every_event_from_where_they_are() {
        let feed = Feed::new(0);
        feed.publish(chunk(0, 3, 1), 3);
        feed.publish(chunk(3, 2, 1), 2);

        assert_eq!(numbers(feed.subscribe(None).next().await), [0, 1, 2, 3, 4]);
        assert_eq!(numbers(feed.subscribe(Some(1)).next().await), [2, 3, 4]);
        let mut late = feed.subscribe(Some(4));
        feed.publish(chunk(5, 1, 1), 1);
        assert_eq!(numbers(late.next().await), [5]);
        feed.leave();
        assert_eq!(late.next().await, Next::Ended);
    }

    #[tokio::test]
    async fn a_subscriber_that_falls_out_of_the_window_is_told_and_memory_stays_bounded() {
        let feed = Feed::new(0);
        let mut slow = feed.subscribe(None);
        for first in 0..100 {
            feed.publish(chunk(first, 1, 64 << 10), 1);
        }

        assert_eq!(slow.next().await, Next::Behind);
        assert!(feed.lock().bytes <= WINDOW_BYTES);
    }

    #[tokio::test]
    async fn what_was_said_long_ago_leaves_memory() {
        let feed = Feed::new(0);
        let now = Instant::now();
        for first in 0..1000 {
            feed.lock().push(chunk(first, 1, 200), 1, now);
        }
        assert_eq!(numbers(feed.subscribe(None).next().await).len(), 1000);

        let later = now + RECENT * 2;
        feed.forget_old(later);
        assert!(feed.lock().bytes <= RECENT_BYTES);
        for first in 1000..1010 {
            feed.lock().push(chunk(first, 1, 200), 1, later);
        }

        let (bytes, chunks, room) = {
            let window = feed.lock();
            (window.bytes, window.chunks.len(), window.chunks.capacity())
        };
        assert!(bytes <= RECENT_BYTES, "{bytes}");
        assert!(room <= 4 * chunks, "{room} for {chunks}");
        assert_eq!(feed.subscribe(None).next().await, Next::Behind);
        let recent = feed.subscribe(Some(999)).next().await;
        assert_eq!(numbers(recent), (1000..1010).collect::<Vec<u64>>());
    }
}
