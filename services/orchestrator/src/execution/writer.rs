//! When events are written: the first after silence at once; while a write is under way, and for a moment after it,
//! they gather.

use std::time::Duration;

use prost::Message as _;
use talaria_domain::run::Run;
use talaria_proto::v1::{ContextItem, Event, Turn};
use tokio::time::Instant;

use super::Left;
use super::sink::{Sink, Write};

/// Events that wait for their write at most, and their bytes; more, and the upstream has to wait.
const WAITING_EVENTS: usize = 4096;
const WAITING_BYTES: usize = 4 << 20;
/// This many events go out without waiting for more.
const FULL_EVENTS: usize = 128;
/// What one write holds, unless a single event is larger: whoever reads holds all of it.
const WRITE_BYTES: usize = 256 << 10;
/// After this long without a write, somebody waits for the next.
const SILENCE: Duration = Duration::from_millis(200);
/// The longest that events gather.
const LONGEST_GATHER: Duration = Duration::from_millis(25);

/// Events on their way into the sink.
pub struct Writer {
    sink: Sink,
    watched: bool,
    waiting: Vec<Event>,
    waiting_bytes: usize,
    under_way: Option<Write>,
    /// When the last write ended (or the run began, where nobody waits for its first event), and how long writes
    /// take.
    last_end: Option<Instant>,
    latency: Duration,
}

impl Writer {
    pub fn new(sink: Sink, watched: bool) -> Self {
        let (waiting, under_way) = (Vec::new(), None);
        let last_end = (!watched).then(Instant::now);
        Self {
            sink,
            watched,
            waiting,
            waiting_bytes: 0,
            under_way,
            last_end,
            latency: Duration::ZERO,
        }
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
            written?;
            let now = Instant::now();
            self.last_end = Some(now);
            // A moving average: 3 of 4 parts are the past's.
            self.latency = (self.latency * 3 + (now - started)) / 4;
            return Ok(());
        }
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        if self.waiting.len() < FULL_EVENTS
            && self.waiting_bytes < WRITE_BYTES
            && let Some(last_end) = self.last_end
        {
            let gather = if self.watched {
                self.latency.min(LONGEST_GATHER)
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
        self.under_way = Some(self.sink.write(&events, after_silence));
    }

    /// As many of the waiting events as one write holds; one at least.
    fn take_one_write(&mut self) -> Vec<Event> {
        let (mut count, mut bytes) = (0, 0);
        for event in &self.waiting {
            let size = event.encoded_len();
            if count > 0 && bytes + size > WRITE_BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
        }
        self.waiting_bytes -= bytes;
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

    /// Waits for the write that is under way.
    pub async fn settle(&mut self) -> Result<(), Left> {
        match self.under_way.take() {
            Some(write) => write.future.await,
            None => Ok(()),
        }
    }

    /// Writes what waits, the terminal event last, and all that goes with it.
    pub async fn finish(self, run: &Run, input: Vec<ContextItem>) -> Result<(), Left> {
        let response = run.snapshot().response();
        let turn = Turn {
            input,
            output: run.output(),
        };
        self.sink.finish(&self.waiting, response, turn).await
    }
}
