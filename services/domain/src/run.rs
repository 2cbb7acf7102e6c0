//! A run's transitions: what an upstream says in, OpenAI's canonical events out.
//!
//! A [`Run`] is the fold of its own events and a little more, so resuming after a crash is replay, then [`Run::resume`].
//! Every event it makes is numbered, folded and handed out by [`Run::take_events`]; it never takes one back.

mod approval;
mod calls;
mod choice;
mod close;
mod emit;
mod items;
mod ledger;
mod limits;
mod lists;
mod notes;
mod record;
mod refuse;
mod shape;
mod tools;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{ContextItem, Event, EventNote, Response, ResponseError, Status, Usage};
use uuid::Uuid;

use crate::context::is_whole;
use crate::item::text_member;
use crate::json::RawObject;
use crate::link::OpenKey;
use crate::model::{ModelEvent, Outcome, server_error};
use crate::snapshot::{self, Snapshot};

use approval::HeldCall;
use choice::Rules;
use notes::Call;

pub use approval::{
    Approvals, ApprovedCall, Choice, Decision, PendingCall, call_id_of, pending_calls,
};
pub use tools::{
    Effect, Limits, ServerTool, ServerTools, ToolCall, ToolPart, ToolResult, ToolShape,
};

/// The state of a run.
#[derive(Debug)]
pub struct Run {
    response: Uuid,
    snapshot: Snapshot,
    usage: Option<Usage>,
    noted_usage: Option<Usage>,
    /// The model call under way, if its upstream can go on with it.
    call: Option<Call>,
    /// What is to be noted on the next event.
    note: EventNote,
    /// The items of the model call under way, by the upstream's keys.
    open: Vec<OpenKey>,
    /// Calls that the model is writing and a person has to agree to: shown when they are whole.
    held: Vec<HeldCall>,
    /// Calls that the run's request agreed to.
    approved: Vec<ApprovedCall>,
    /// Where the model call's items begin in the output.
    call_start: usize,
    outcome: Option<Outcome>,
    /// The last model call left an item half written.
    was_cut: bool,
    server_tools: Arc<ServerTools>,
    limits: Limits,
    /// Names of the tools that are the client's to run.
    client_tools: HashSet<String>,
    rules: Rules,
    new: Vec<Event>,
}

/// What a run does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ask the model, with the context and the output so far.
    CallModel,
    /// Run these calls, in any order or all at once, and ask again when each has its result: [`Run::tool_started`]
    /// before, [`Run::tool_ended`] after.
    RunTools(Vec<ToolCall>),
    /// Wait until a person has decided about one of these calls at least, or the time of one is over:
    /// [`Run::decided`].
    Wait(Vec<PendingCall>),
    /// Write the end.
    Finish(End),
}

#[derive(serde::Deserialize)]
struct Head {
    #[serde(rename = "type")]
    item_type: String,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Completed,
    Incomplete { reason: String },
    Failed(ResponseError),
    Cancelled,
}

impl Run {
    /// Begins a run: `response` is what it looks like when it is created.
    ///
    /// A background response is `queued` first; every other one is `in_progress` at once.
    pub fn create(response_id: Uuid, response: Response) -> Self {
        let mut run = Self::of(response_id, Snapshot::default());
        let queued = response.status() == Status::Queued;
        run.emit(Kind::Created(response.clone()));
        if queued {
            run.emit(Kind::Queued(response));
        }
        run
    }

    /// Goes on with a run whose process died, as a function of the log alone: seals what was open, unless the upstream
    /// can go on with it ([`Run::link`]).
    ///
    /// An item that was being written is closed as `incomplete` with what clients saw. A call of a tool that must not
    /// be repeated, begun and without a result, ends with an error that says so; others stay open, to be repeated.
    pub fn resume(response_id: Uuid, snapshot: Snapshot) -> Self {
        let mut run = Self::of(response_id, snapshot);
        run.usage = run.recorded_usage();
        run.noted_usage = run.snapshot.noted_usage();
        if !run.attach() {
            run.finish_asking();
            run.give_up_lists();
            if !forgets_to_seal() {
                run.seal();
            }
            run.give_up_interrupted();
        }
        run
    }

    fn of(response: Uuid, snapshot: Snapshot) -> Self {
        Self {
            response,
            call_start: snapshot.items().len(),
            snapshot,
            usage: None,
            noted_usage: None,
            call: None,
            note: EventNote::default(),
            open: Vec::new(),
            held: Vec::new(),
            approved: Vec::new(),
            outcome: None,
            was_cut: false,
            server_tools: Arc::default(),
            limits: Limits::default(),
            client_tools: HashSet::new(),
            rules: Rules::default(),
            new: Vec::new(),
        }
    }

    /// Says which tools the server runs, and how far the run may go; before the first [`Run::next_step`], and whenever
    /// the tools change.
    ///
    /// A tool of the client's with the same name is the client's.
    pub fn use_tools(&mut self, tools: Arc<ServerTools>, limits: Limits) {
        if tools.has_servers {
            self.client_tools = client_tools(self.snapshot.base());
            self.rules = Rules::of(self.snapshot.base());
        }
        self.server_tools = tools;
        self.limits = limits;
    }

    /// Says that an attempt begins: `response.in_progress`.
    pub fn start(&mut self) {
        let mut response = self.snapshot.base().clone();
        response.set_status(Status::InProgress);
        response.output.clear();
        self.emit(Kind::InProgress(response));
    }

    /// Says that the run is in progress, in the hands of another process: of the `attempt`th, itself included.
    pub fn start_again(&mut self, attempt: u32) {
        self.note.attempt = attempt;
        self.start();
    }

    /// Takes in what the upstream said.
    pub fn on_model(&mut self, event: ModelEvent) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            ModelEvent::ItemAdded { key, item } => self.item_added(key, &item),
            ModelEvent::Delta {
                key,
                field,
                part,
                delta,
                logprobs,
            } => {
                self.delta(key, field, part, delta, &logprobs);
            }
            ModelEvent::Text {
                key,
                field,
                part,
                text,
            } => self.text(key, field, part, &text),
            ModelEvent::Annotation {
                key,
                part,
                annotation,
            } => {
                self.annotation(key, part, annotation);
            }
            ModelEvent::Progress { key, name, fields } => self.progress(key, name, &fields),
            ModelEvent::ItemDone { key, item } => self.item_done(key, item),
            ModelEvent::Began {
                upstream,
                response_id,
            } => self.call_began(upstream, response_id),
            ModelEvent::Heard { cursor } => self.heard(cursor),
            ModelEvent::Finished {
                outcome,
                usage,
                output,
            } => {
                self.finished(outcome, usage, output);
            }
        }
    }

    /// Takes in that the upstream's stream ended without saying so.
    ///
    /// With something shown it counts as the end (many relays never send one); with nothing it is a failure.
    pub fn on_model_end(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let outcome = if self.step_has_said() {
            Outcome::Completed
        } else {
            Outcome::Failed(server_error(
                "The model ended its answer without saying anything.",
            ))
        };
        self.finished(outcome, None, Vec::new());
    }

    /// Takes in that the model call broke: closes what it left half written as `incomplete`, and keeps the rest.
    ///
    /// The next step is then as after a crash: the model is asked again, unless calls of it are to be run first or it
    /// had said all. How often is the caller's to decide.
    pub fn model_broke(&mut self) {
        self.call = None;
        if self.outcome.is_none() {
            self.forget_unshown();
            self.seal();
        }
    }

    /// Whether the model call under way stands in the middle of a call's arguments: not even an empty text is whole then.
    pub fn is_within_call(&self) -> bool {
        let items = self.open_items().into_iter();
        let is_within = items
            .filter_map(|index| self.open_item_at(index))
            .any(|item| {
                text_member(&item.item_type) == Some("arguments")
                    && serde_json::from_str::<serde::de::IgnoredAny>(&item.text).is_err()
            });
        is_within || self.holds_half_a_call()
    }

    /// Whether anything of the model call under way was shown.
    pub fn step_has_shown(&self) -> bool {
        self.snapshot.items().len() > self.call_start
    }

    /// Writes the end at `now` (Unix seconds): the one terminal event.
    ///
    /// A run that failed or was cancelled keeps what was produced; items that were being written stay `incomplete`.
    /// Calls of ours have results in any case.
    pub fn finish(&mut self, end: &End, now: i64) {
        if matches!(end, End::Completed | End::Incomplete { .. }) {
            self.close_all();
        } else {
            self.answer_calls();
        }
        let mut response = self.snapshot.base().clone();
        response.usage = self.usage;
        match end {
            End::Completed => {
                response.set_status(Status::Completed);
                response.completed_at = Some(now);
                response.usage = Some(self.usage.unwrap_or_default());
            }
            End::Incomplete { reason } => {
                response.set_status(Status::Incomplete);
                response.incomplete_reason = Some(reason.clone());
                response.usage = Some(self.usage.unwrap_or_default());
            }
            End::Failed(error) => {
                response.set_status(Status::Failed);
                response.error = Some(error.clone());
            }
            End::Cancelled => response.set_status(Status::Cancelled),
        }
        response.output = self
            .snapshot
            .output("incomplete")
            .map(|(json, _)| json)
            .collect();
        self.emit(match end {
            End::Completed => Kind::Completed(response),
            End::Incomplete { .. } => Kind::Incomplete(response),
            End::Failed(_) | End::Cancelled => Kind::Failed(response),
        });
    }

    /// The response as of now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The output so far as context for what follows.
    pub fn output(&self) -> Vec<ContextItem> {
        let items = self.snapshot.output("incomplete");
        items
            .map(|(item, upstream_id)| ContextItem { item, upstream_id })
            .collect()
    }

    /// The output so far that the model is shown again: whole items, none that was cut off.
    pub fn whole_output(&self) -> Vec<ContextItem> {
        self.output().into_iter().filter(is_whole).collect()
    }

    /// Hands out the events made since the last time.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.new)
    }

    /// How many events wait to be taken.
    pub fn waiting(&self) -> usize {
        self.new.len()
    }

    /// Whether a run whose last model call was cut off has its answer, so that asking again would only repeat it: a
    /// whole message, if no call can follow it.
    fn holds_answer(&self) -> bool {
        // The last item of all: one that was cut off is what is asked for again, after a crash as well.
        let output = self.output();
        let ends_with_message = output
            .last()
            .filter(|item| is_whole(item))
            .and_then(|item| serde_json::from_slice::<Head>(&item.item).ok())
            .is_some_and(|head| head.item_type == "message");
        ends_with_message && !self.was_cut && !self.offers_tools()
    }

    fn offers_tools(&self) -> bool {
        let settings = RawObject::parse(&self.snapshot.base().settings);
        let is_some = |settings: RawObject<'_>| settings.get("tools").is_some_and(|t| t != "[]");
        self.server_tools.has_servers || settings.is_ok_and(is_some)
    }

    /// Closes what the model left half written.
    fn seal(&mut self) {
        let open = self.open_items();
        self.was_cut = !open.is_empty();
        for index in open {
            self.close_item(index, None, "incomplete");
        }
        self.open.clear();
    }

    /// The items that the model is writing.
    fn open_items(&self) -> Vec<usize> {
        let indexes = 0..self.snapshot.items().len();
        indexes
            .filter(|index| self.open_item_at(*index).is_some())
            .collect()
    }

    fn emit(&mut self, kind: Kind) {
        let sequence_number = self.snapshot.next_sequence_number();
        let event = Event {
            sequence_number,
            note: self.take_note(&kind),
            kind: Some(kind),
            // Whoever has a clock says when.
            at_ms: 0,
        };
        let folded = self.snapshot.apply(&event);
        debug_assert!(folded.is_ok(), "a run's own event does not fit: {folded:?}");
        self.new.push(event);
    }
}

/// A bug that tests must find: the known bug `no-seal`.
#[cfg(feature = "known-bugs")]
fn forgets_to_seal() -> bool {
    std::env::var("TALARIA_KNOWN_BUG").is_ok_and(|bug| bug == "no-seal")
}

#[cfg(not(feature = "known-bugs"))]
const fn forgets_to_seal() -> bool {
    false
}

/// The names of the tools that the request brought, those in namespaces too.
fn client_tools(response: &Response) -> HashSet<String> {
    let settings = RawObject::parse(&response.settings).unwrap_or_default();
    let tools = settings
        .get("tools")
        .and_then(|tools| serde_json::from_str::<Vec<serde_json::Value>>(tools).ok())
        .unwrap_or_default();
    let inner = tools
        .iter()
        .filter_map(|tool| tool.get("tools")?.as_array());
    tools
        .iter()
        .chain(inner.flatten())
        .filter_map(|tool| tool.get("name")?.as_str().map(str::to_owned))
        .collect()
}

/// Whether the run behind `response` has ended.
pub fn has_ended(response: &Response) -> bool {
    snapshot::is_terminal(response.status())
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn json_array(values: &[serde_json::Value]) -> Bytes {
    if values.is_empty() {
        return Bytes::new();
    }
    serde_json::to_vec(values)
        .map(Bytes::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
