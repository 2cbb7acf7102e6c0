//! When events are written: the first after silence at once; while a write is under way, and for a moment after it,
//! they gather.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use talaria_domain::run::Run;
use talaria_proto::v1::{ContextItem, Event, Turn};
use tokio::time::Instant;

use super::sink::{Sink, Write};
use super::{Left, Pending};
use crate::upstreams::Upstream;

/// Events that wait for their write at most, and their bytes; more, and the upstream has to wait.
const WAITING_EVENTS: usize = 4096;
const WAITING_BYTES: usize = 4 << 20;
/// This many events go out without waiting for more, where somebody reads along.
const FULL_EVENTS: usize = 128;
/// What one write holds, unless a single event is larger: whoever reads holds all of it.
const WRITE_BYTES: usize = 256 << 10;
/// What is held together although one write would hold less.
const TOGETHER_BYTES: usize = 4 << 20;
/// After this long without a write, somebody waits for the next.
const SILENCE: Duration = Duration::from_millis(200);
/// The longest that events gather.
const LONGEST_GATHER: Duration = Duration::from_millis(25);

/// Events on their way into the sink.
pub struct Writer {
    sink: Sink,
    /// Goes with the first write.
    pending: Option<Box<Pending>>,
    /// The write that is under way is the admission.
    admitting: bool,
    watched: bool,
    waiting: Vec<Event>,
    waiting_bytes: usize,
    under_way: Option<Write>,
    /// The number after the last event that is under way or written.
    begun_to: u64,
    given_up: Vec<GivenUp>,
    /// When the last write ended (or the run began, where nobody waits for its first event), and how long writes
    /// take. The admission of a run that somebody reads along with does not count: the model's first words are awaited.
    last_end: Option<Instant>,
    latency: Duration,
}

/// A response of an upstream's that the run gives up.
#[derive(Debug)]
struct GivenUp {
    upstream: Arc<Upstream>,
    response_id: String,
    /// The log says so once it holds the event with this number.
    said_by: u64,
}

impl Writer {
    pub fn new(sink: Sink, watched: bool, mut pending: Option<Box<Pending>>) -> Self {
        let first = pending.as_mut().map(|it| std::mem::take(&mut it.first));
        let last_end = (!watched).then(Instant::now);
        let mut writer = Self {
            sink,
            pending,
            admitting: false,
            watched,
            waiting: Vec::new(),
            waiting_bytes: 0,
            under_way: None,
            begun_to: 0,
            given_up: Vec::new(),
            last_end,
            latency: Duration::ZERO,
        };
        writer.add(first.unwrap_or_default());
        writer
    }

    pub fn add(&mut self, events: Vec<Event>) {
        self.waiting_bytes += events.iter().map(Event::encoded_len).sum::<usize>();
        self.waiting.extend(events);
    }

    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_EVENTS && self.waiting_bytes < WAITING_BYTES
    }

    /// Goes on writing; returns when something changed. Never returns while there is nothing to write. Cancel-safe.
    pub async fn progress(&mut self) -> Result<(), Left> {
        if let Some(write) = &mut self.under_way {
            let started = write.started;
            let written = write.future.as_mut().await;
            self.under_way = None;
            let was_admission = std::mem::take(&mut self.admitting);
            written?;
            self.cancel_given_up();
            // What the model says first is waited for, and says nothing of how long writes take.
            if !(was_admission && self.watched) {
                let now = Instant::now();
                self.last_end = Some(now);
                // A moving average: 3 of 4 parts are the past's.
                self.latency = (self.latency * 3 + (now - started)) / 4;
            }
            return Ok(());
        }
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        // Where nobody reads along, the end may come first.
        let full = self.watched && self.waiting.len() >= FULL_EVENTS;
        if !full
            && self.waiting_bytes < WRITE_BYTES
            && let Some(last_end) = self.last_end
        {
            let gather = if self.watched {
                // As writes take longer, there is more to be gained.
                LONGEST_GATHER.min(self.latency * 2)
            } else {
                LONGEST_GATHER
            };
            tokio::time::sleep_until(last_end + gather).await;
        }
        self.begin();
        Ok(())
    }

    fn begin(&mut self) {
        let events = if self.waiting_bytes <= WRITE_BYTES {
            self.waiting_bytes = 0;
            std::mem::take(&mut self.waiting)
        } else {
            self.take_one_write()
        };
        let silent = self.last_end.is_none_or(|end| end.elapsed() > SILENCE);
        let after_silence = self.watched && silent;
        if let Some(last) = events.last() {
            self.begun_to = last.sequence_number + 1;
        }
        let pending = self.pending.take();
        self.admitting = pending.is_some();
        self.under_way = Some(self.sink.write(&events, after_silence, pending));
    }

    /// As many of the waiting events as one write holds; one at least.
    ///
    /// What was made from one event of a stream that can be gone on with stays together: the log then ends where the
    /// upstream can go on. Only what has several times the size is parted all the same.
    fn take_one_write(&mut self) -> Vec<Event> {
        let sizes: Vec<usize> = self.waiting.iter().map(Event::encoded_len).collect();
        let ends: Vec<bool> = self.waiting.iter().map(has_cursor).collect();
        let count = size_of_write(&sizes, &ends);
        self.waiting_bytes -= sizes[..count].iter().sum::<usize>();
        self.waiting.drain(..count).collect()
    }

    /// Writes all that waits, without gathering; returns when it is durable.
    pub async fn flush(&mut self) -> Result<(), Left> {
        loop {
            if self.under_way.is_none() {
                if self.waiting.is_empty() {
                    return Ok(());
                }
                self.begin();
            }
            self.progress().await?;
        }
    }

    /// Why a run leaves that was about to for this reason: what is admitted can leave, anything else is given up.
    pub async fn leave(&mut self, left: Left) -> Left {
        if let Some(pending) = self.pending.take() {
            return pending.give_up();
        }
        if self.admitting
            && let Err(not_admitted) = self.settle().await
        {
            return not_admitted;
        }
        left
    }

    /// Has the run admitted, if it is not yet.
    pub async fn admit(&mut self) -> Result<(), Left> {
        if self.pending.is_some() || self.admitting {
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits for the write that is under way.
    pub async fn settle(&mut self) -> Result<(), Left> {
        match self.under_way.take() {
            Some(write) => write.future.await?,
            None => return Ok(()),
        }
        self.cancel_given_up();
        Ok(())
    }

    /// Has a response of an upstream's cancelled as soon as the event with the number `said_by`, which gives it up, is
    /// in the log. Whoever lost the run never gets so far: another may be listening to that response.
    pub fn cancel_after(&mut self, upstream: Arc<Upstream>, response_id: String, said_by: u64) {
        self.given_up.push(GivenUp {
            upstream,
            response_id,
            said_by,
        });
    }

    /// Cancels all that is given up, though no log will say so.
    pub fn cancel_all_given_up(&mut self) {
        self.begun_to = u64::MAX;
        self.cancel_given_up();
    }

    /// Cancels what the log gives up, now that all that was begun is written. The run need not wait for it.
    fn cancel_given_up(&mut self) {
        let begun_to = self.begun_to;
        for given_up in self
            .given_up
            .extract_if(.., |given_up| given_up.said_by < begun_to)
        {
            let cancel = async move { given_up.upstream.cancel(&given_up.response_id).await };
            self.sink.tasks().spawn(cancel);
        }
    }

    /// Writes what waits, the terminal event last, and all that goes with it.
    pub async fn finish(mut self, run: &Run, input: Vec<ContextItem>) -> Result<(), Left> {
        // Whoever takes part in a write holds all of it several times, and the end has the whole output besides.
        if let Some(terminal) = self.waiting.pop() {
            self.waiting_bytes -= terminal.encoded_len();
            while self.waiting_bytes > WRITE_BYTES {
                self.begin();
                self.settle().await?;
            }
            self.waiting.push(terminal);
        }
        let response = run.snapshot().response();
        let turn = Turn {
            input,
            output: run.output(),
        };
        let pending = self.pending.take();
        self.sink
            .finish(&self.waiting, response, turn, pending)
            .await?;
        self.cancel_all_given_up();
        Ok(())
    }
}

fn has_cursor(event: &Event) -> bool {
    event
        .note
        .as_ref()
        .is_some_and(|note| note.cursor.is_some())
}

/// How many events go into one write, from their sizes and from which of them end what belongs together.
fn size_of_write(sizes: &[usize], ends: &[bool]) -> usize {
    let within = |bytes: usize| {
        let mut sum = 0;
        let fitting = sizes.iter().take_while(|size| {
            sum += **size;
            sum <= bytes
        });
        fitting.count().max(1).min(sizes.len())
    };
    let usual = within(WRITE_BYTES);
    let end_before = ends[..usual].iter().rposition(|end| *end);
    let end_after = || ends[..within(TOGETHER_BYTES)].iter().position(|end| *end);
    end_before.or_else(end_after).map_or(usual, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_where_the_upstream_can_go_on() {
        let half = WRITE_BYTES / 2;
        let table: [(&[usize], &[usize], usize); 7] = [
            (&[1, 1, 1], &[], 3),
            (&[half, half, 1], &[], 2),
            (&[WRITE_BYTES * 2, 1], &[], 1),
            (&[half, half, 1], &[0, 2], 1),
            (&[half, half, 1, 1], &[2, 3], 3),
            (&[TOGETHER_BYTES, 1], &[1], 1),
            (&[half, 1, TOGETHER_BYTES], &[2], 2),
        ];
        for (sizes, ends, expected) in table {
            let ends: Vec<bool> = (0..sizes.len()).map(|at| ends.contains(&at)).collect();
            assert_eq!(size_of_write(sizes, &ends), expected, "{sizes:?} {ends:?}");
        }
    }
}
