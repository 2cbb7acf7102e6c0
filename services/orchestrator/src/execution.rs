//! The I/O around a run: reads the upstream, writes events down, shows them, ends.
//!
//! The decisions are [`Run`]'s. What stands here is when to write: the first event after silence goes out at once;
//! while a write is under way, and for a moment after it, events gather.

mod sink;

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use talaria_domain::model::{CallItem, ModelCall, ModelEvent, Outcome};
use talaria_domain::run::{End, Run, Step};
use talaria_proto::v1::{ContextItem, Event, Turn};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agents::Agent;
use crate::journal::Lost;
use crate::stamps::Stamps;
use crate::upstreams::{CallError, ModelStream};

pub use sink::{Ephemeral, Sink, Stored};

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

/// A run in execution.
#[derive(Debug)]
pub struct Execution {
    pub agent: Arc<Agent>,
    pub run: Run,
    /// The run has yet to say that it is in progress.
    pub starts: bool,
    /// Input items, for the turn.
    pub input: Vec<ContextItem>,
    pub turns: Vec<Turn>,
    pub instructions: Option<String>,
    pub parameters: talaria_domain::model::Object,
    /// Somebody waits for each event, not only for the end.
    pub watched: bool,
    pub sink: Sink,
    pub cancel: CancellationToken,
    pub stamps: Stamps,
    /// Unix milliseconds.
    pub now: fn() -> i64,
    /// Set when the process stops: leave the run as it is, for another to take over.
    pub release: CancellationToken,
}

/// Why a run left this process without its end.
#[derive(Debug)]
pub enum Left {
    Lost(Lost),
    /// The process stops.
    Released,
    /// The owner of an ephemeral run is gone.
    Abandoned,
}

/// How a model call ended.
enum CallEnd {
    Over,
    Cancelled,
}

impl Execution {
    /// Executes the run to its end.
    pub async fn execute(mut self) -> Result<(), Left> {
        if self.starts {
            self.run.start();
        }
        let mut writer = Writer::new(self.sink.clone(), self.watched);
        let end = loop {
            match self.run.next_step() {
                Step::Finish(end) => break end,
                Step::CallModel => match self.call_model(&mut writer).await? {
                    CallEnd::Over => {}
                    CallEnd::Cancelled => break End::Cancelled,
                },
            }
        };
        writer.settle().await?;
        writer.add(self.end(&end));
        // Boxed, so that a run does not hold the room for its end from the beginning.
        Box::pin(writer.finish(&self.run, self.input)).await
    }

    /// Ends the run without asking the model.
    pub async fn end_at_once(mut self, end: End) -> Result<(), Left> {
        let mut writer = Writer::new(self.sink.clone(), self.watched);
        writer.add(self.end(&end));
        writer.finish(&self.run, self.input).await
    }

    fn end(&mut self, end: &End) -> Vec<Event> {
        self.run.finish(end, (self.now)().div_euclid(1000));
        self.take_events()
    }

    /// The run's new events, with the time.
    fn take_events(&mut self) -> Vec<Event> {
        let mut events = self.run.take_events();
        if !events.is_empty() {
            self.stamps.put(&mut events, (self.now)());
        }
        events
    }

    async fn call_model(&mut self, writer: &mut Writer) -> Result<CallEnd, Left> {
        let call = self.model_call();
        let agent = Arc::clone(&self.agent);
        let stream = {
            // Boxed, because it is large, and gone when the answer begins.
            let mut calling = Box::pin(agent.upstream.call(&call));
            loop {
                writer.add(self.take_events());
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return Ok(CallEnd::Cancelled),
                    () = self.release.cancelled() => return Err(Left::Released),
                    progress = writer.progress() => progress?,
                    called = &mut calling => break called,
                }
            }
        };
        match stream {
            Ok(stream) => self.read_model(stream, writer).await,
            Err(error) => {
                self.model_failed(error);
                Ok(CallEnd::Over)
            }
        }
    }

    async fn read_model(
        &mut self,
        mut stream: ModelStream,
        writer: &mut Writer,
    ) -> Result<CallEnd, Left> {
        let mut said: Vec<ModelEvent> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(CallEnd::Cancelled),
                () = self.release.cancelled() => return Err(Left::Released),
                progress = writer.progress() => progress?,
                more = stream.next(&mut said), if writer.has_room() => {
                    let mut over = false;
                    for event in said.drain(..) {
                        over |= matches!(event, ModelEvent::Finished { .. });
                        self.run.on_model(event);
                    }
                    match more {
                        Ok(true) => {}
                        Ok(false) => {
                            self.run.on_model_end();
                            over = true;
                        }
                        Err(error) => {
                            self.model_failed(error);
                            over = true;
                        }
                    }
                    writer.add(self.take_events());
                    if over {
                        // So that its connection can be used again; nobody waits for it.
                        self.sink.tasks().spawn(stream.drain());
                        return Ok(CallEnd::Over);
                    }
                }
            }
        }
    }

    fn model_failed(&mut self, error: CallError) {
        tracing::warn!(kind = ?error.kind, upstream = self.agent.upstream.name(), "a model call failed");
        let outcome = Outcome::Failed(*error.error);
        self.run.on_model(ModelEvent::Finished {
            outcome,
            usage: None,
            output: Vec::new(),
        });
    }

    fn model_call(&self) -> ModelCall {
        let mut context: Vec<CallItem> =
            talaria_domain::context::call_items(&self.turns, &self.input);
        let output = self.run.whole_output();
        context.extend(talaria_domain::context::call_items(&[], &output));
        ModelCall {
            model: self.agent.model.clone(),
            instructions: self
                .agent
                .layered_instructions(self.instructions.as_deref()),
            context,
            parameters: self.parameters.clone(),
        }
    }
}

/// Events on their way into the sink.
struct Writer {
    sink: Sink,
    watched: bool,
    waiting: Vec<Event>,
    waiting_bytes: usize,
    under_way: Option<sink::Write>,
    /// When the last write ended (or the run began, where nobody waits for its first event), and how long writes
    /// take.
    last_end: Option<Instant>,
    latency: Duration,
}

impl Writer {
    fn new(sink: Sink, watched: bool) -> Self {
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

    fn add(&mut self, events: Vec<Event>) {
        self.waiting_bytes += events.iter().map(Event::encoded_len).sum::<usize>();
        self.waiting.extend(events);
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_EVENTS && self.waiting_bytes < WAITING_BYTES
    }

    /// Goes on writing; returns when something changed. Never returns while there is nothing to write. Cancel-safe.
    async fn progress(&mut self) -> Result<(), Left> {
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

    /// Waits for the write that is under way.
    async fn settle(&mut self) -> Result<(), Left> {
        match self.under_way.take() {
            Some(write) => write.future.await,
            None => Ok(()),
        }
    }

    /// Writes what waits, the terminal event last, and all that goes with it.
    async fn finish(self, run: &Run, input: Vec<ContextItem>) -> Result<(), Left> {
        let response = run.snapshot().response();
        let turn = Turn {
            input,
            output: run.output(),
        };
        self.sink.finish(&self.waiting, response, turn).await
    }
}
