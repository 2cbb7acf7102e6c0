//! The I/O around a run: asks the model, runs its tools, writes events down, shows them, ends.
//!
//! The decisions are [`Run`]'s and [`crate::retry`]'s. What stands here is who waits for what.

mod approval;
mod ask;
mod choice;
mod fenced;
mod limits;
mod listing;
mod model;
mod pending;
mod sink;
mod tools;
mod writer;

use std::sync::Arc;

use talaria_domain::model::Object;
use talaria_domain::run::{End, Run, Step, ToolShape};
use talaria_proto::v1::{ContextItem, Event, Turn};
use tokio_util::sync::CancellationToken;

use crate::agents::Agent;
use crate::fence::Fence;
use crate::journal::Lost;
use crate::retry::{Attempts, OnBrokenStream};
use crate::stamps::Stamps;
use crate::tools::Toolbox;

use self::fenced::Fenced;
use self::writer::Writer;

pub use approval::{Asking, Timing, approved_call_sent};
pub use listing::Listings;
pub use pending::{Decision, Pending};
pub use sink::{Ephemeral, Sink, Stored};

/// A run in execution.
#[derive(Debug)]
pub struct Execution {
    pub agent: Arc<Agent>,
    /// The agent's tools, and those of the servers that the request names.
    pub toolbox: Arc<Toolbox>,
    pub listings: Listings,
    pub run: Run,
    /// Where it is not admitted yet.
    pub pending: Option<Box<Pending>>,
    pub starts: Starts,
    /// Input items, for the turn.
    pub input: Vec<ContextItem>,
    pub turns: Vec<Turn>,
    pub instructions: Option<String>,
    pub parameters: Object,
    pub tool_shape: ToolShape,
    /// The request streams.
    pub streamed: bool,
    pub on_broken_stream: OnBrokenStream,
    pub asking: Asking,
    /// Somebody waits for each event, not only for the end.
    pub watched: bool,
    pub sink: Sink,
    pub cancel: CancellationToken,
    pub stamps: Stamps,
    /// Unix milliseconds.
    pub now: fn() -> i64,
    /// Set when the process is about to stop: what would only wait is left to another.
    pub draining: CancellationToken,
    /// Set when the process stops, or lost the run: leave it as it is, for another to take over.
    pub release: CancellationToken,
    /// What keeps the run from effects while another process may have it; none where none can.
    pub fence: Option<Arc<Fence>>,
}

/// Whether a run has yet to say that it is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// It has said so.
    Began,
    /// For the first time.
    First,
    /// After other processes had it: how many, this one included.
    Again { attempt: u32 },
}

impl Starts {
    /// As a claimed run starts.
    pub fn of_attempt(attempt: u32) -> Self {
        if attempt > 1 {
            Self::Again { attempt }
        } else {
            Self::First
        }
    }
}

/// Why a run left this process without its end.
#[derive(Debug)]
pub enum Left {
    Lost(Lost),
    /// It is for others to go on with.
    Released,
    /// It waits for a person, as nobody's.
    Waits,
    /// The owner of an ephemeral run is gone.
    Abandoned,
    /// It was never admitted, though it may be stored where its admission was not answered.
    NotAdmitted {
        may_be_stored: bool,
    },
}

/// How a step of a run ended.
enum StepEnd {
    Over,
    Cancelled,
}

impl Execution {
    /// Executes the run to its end.
    ///
    /// Boxed, because the future of a method that takes `self` holds it twice.
    pub async fn execute(mut self: Box<Self>) -> Result<(), Left> {
        let time_left = self.time_left();
        match self.starts {
            Starts::Began => {}
            Starts::First => self.run.start(),
            Starts::Again { attempt } => self.run.start_again(attempt),
        }
        self.expect_tools();
        let mut writer = self.writer();
        let end = tokio::select! {
            biased;
            // Whatever the steps wait for can be dropped: what they hold is the run's.
            () = limits::over(time_left) => self.run.time_is_up(),
            end = self.steps(&mut writer) => match end {
                Ok(end) => end,
                Err(left) => return Err(Box::pin(self.leave(left, &mut writer)).await),
            },
        };
        self.let_go(false, &mut writer);
        if let Err(left) = writer.settle().await {
            return Err(Box::pin(self.leave(left, &mut writer)).await);
        }
        writer.add(self.end(&end));
        // Boxed, so that a run does not hold the room for its end from the beginning.
        Box::pin(writer.finish(&self.run, self.input)).await
    }

    /// Takes steps until the run ends.
    async fn steps(&mut self, writer: &mut Writer) -> Result<End, Left> {
        let mut attempts = Attempts::of(self.run.link().is_some());
        loop {
            // Before each step, because a server may change its tools at any time. Boxed, as all that takes only a moment
            // or happens to few: a run holds room for what is not.
            let Some(tools) = Box::pin(self.learn_tools(writer)).await? else {
                return Ok(End::Cancelled);
            };
            self.run.make_approved(&self.asking.approved);
            let step = match self.run.next_step() {
                Step::Finish(end) => return Ok(end),
                Step::Wait(calls) => Box::pin(self.await_decision(calls, writer)).await?,
                Step::CallModel => self.call_model(&tools, &mut attempts, writer).await?,
                Step::RunTools(calls) => Box::pin(self.run_tools(calls, &tools, writer)).await?,
            };
            match step {
                StepEnd::Over => {}
                StepEnd::Cancelled => return Ok(End::Cancelled),
            }
        }
    }

    /// Ends the run without asking the model.
    pub async fn end_at_once(mut self: Box<Self>, end: End) -> Result<(), Left> {
        self.expect_tools();
        let mut writer = self.writer();
        self.let_go(false, &mut writer);
        self.run.model_broke();
        writer.add(self.end(&end));
        writer.finish(&self.run, self.input).await
    }

    /// Why the run leaves that was about to for this reason. Nobody else can go on with what an upstream keeps for a run
    /// that was never admitted.
    async fn leave(&mut self, left: Left, writer: &mut Writer) -> Left {
        let left = writer.leave(left).await;
        if matches!(left, Left::NotAdmitted { .. }) {
            self.let_go(false, writer);
            writer.cancel_all_given_up();
        }
        left
    }

    fn writer(&mut self) -> Writer {
        Writer::new(self.sink.clone(), self.watched, self.pending.take())
    }

    fn fenced(&self) -> Fenced {
        Fenced(self.fence.clone())
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

    /// Waits for `work` while the run's events are written; `None` if the run is cancelled meanwhile.
    fn meanwhile<T>(
        &mut self,
        writer: &mut Writer,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Result<Option<T>, Left>> {
        // Boxed before anything waits for it, because it is large, and gone afterwards.
        let mut work = Box::pin(work);
        async move {
            writer.add(self.take_events());
            loop {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return Ok(None),
                    () = self.release.cancelled() => return Err(Left::Released),
                    progress = writer.progress() => progress?,
                    done = &mut work => return Ok(Some(done)),
                }
            }
        }
    }
}
