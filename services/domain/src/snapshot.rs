//! The fold: what a response looks like after some of its events.

use bytes::Bytes;
use serde_json::Value;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{Event, OutputItem, PartDelta, Response, Status, Usage};

use crate::ids::{ItemPlace, ResponseId};
use crate::item::{Item, OpenItem, Part};
use crate::link::{self, Logged};
use crate::marker::Marker;
use crate::model::{Field, Object};
use crate::run::{ApprovedCall, pending_calls};

/// A response as its events have made it so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The last lifecycle event's response. Its `output` is empty until the terminal event.
    response: Response,
    items: Vec<Item>,
    /// Where the items of each step begin: those of a model call, with what came of the calls in them.
    step_starts: Vec<usize>,
    /// A tool's result came after the model's last item.
    is_answered: bool,
    /// When an attempt first began, in milliseconds since the second of creation, and later by as much as the run
    /// waited for people.
    begun_at_ms: Option<u64>,
    /// When the latest event was made.
    latest_at_ms: u64,
    /// How many processes have had the run, as it was noted last; 0 before the second.
    attempt: u32,
    /// How many had it when something was finished last: an item, or a tool's result. 0: nothing was.
    finished_in: u32,
    /// Of all model calls, as it was noted last.
    noted_usage: Option<Usage>,
    /// The model call whose upstream can go on with it, if it was the last.
    logged: Option<Box<Logged>>,
    next_sequence_number: u64,
}

/// An event that does not continue the events before it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("event {found} does not follow event {expected}")]
    Gap { expected: u64, found: u64 },
    #[error("event {sequence_number} does not fit: {reason}")]
    Unfit {
        sequence_number: u64,
        reason: &'static str,
    },
}

impl Snapshot {
    /// Folds `events`, which begin with number 0.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, Error> {
        let mut snapshot = Self::default();
        for event in events {
            snapshot.apply(event)?;
        }
        Ok(snapshot)
    }

    /// The sequence number that the next event has.
    pub fn next_sequence_number(&self) -> u64 {
        self.next_sequence_number
    }

    pub fn status(&self) -> Status {
        self.response.status()
    }

    /// Whether the terminal event has come.
    pub fn is_finished(&self) -> bool {
        is_terminal(self.status())
    }

    /// The items so far.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Where the items of each step begin. A step is what the model said, and the results of the tools that it called.
    pub fn step_starts(&self) -> &[usize] {
        &self.step_starts
    }

    /// Whether the last step has a tool's result.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// How long the run has been executed when an attempt begins, in milliseconds: since the beginning of its first, but
    /// for the time in which it waited for people. `now_ms` counts from the second in which the response was created.
    pub fn spent_ms(&self, now_ms: u64) -> u64 {
        let Some(begun) = self.begun_at_ms else {
            return 0;
        };
        let spent = now_ms.saturating_sub(begun);
        spent.saturating_sub(self.waited_ms(now_ms))
    }

    /// How long it has waited for people, if it does.
    fn waited_ms(&self, now_ms: u64) -> u64 {
        if self.begun_at_ms.is_none() || pending_calls(self).is_empty() {
            return 0;
        }
        now_ms.saturating_sub(self.latest_at_ms)
    }

    /// When the latest event was made, in milliseconds since the second of creation.
    pub fn latest_at_ms(&self) -> u64 {
        self.latest_at_ms
    }

    /// How many processes have had the run without finishing anything of it, if `attempt` have had it in all.
    pub fn fruitless_attempts(&self, attempt: u32) -> u32 {
        attempt.saturating_sub(self.finished_in)
    }

    /// The usage of all model calls, as it was noted last.
    pub fn noted_usage(&self) -> Option<Usage> {
        self.noted_usage
    }

    /// What is noted of a model call whose upstream can go on with it.
    pub(crate) fn logged(&self) -> Option<&Logged> {
        self.logged.as_deref()
    }

    /// Takes in what is noted on the last event after it was added: the upstream's events up to `cursor` are told.
    pub(crate) fn heard(&mut self, cursor: u64) {
        if let Some(logged) = &mut self.logged {
            logged.heard(cursor);
        }
    }

    /// The response without its output, as of the last lifecycle event.
    pub fn base(&self) -> &Response {
        &self.response
    }

    /// The whole response as of now; what is still being written has status `in_progress`.
    pub fn response(&self) -> Response {
        let mut response = self.response.clone();
        if !self.is_finished() {
            response.output = self.output("in_progress").map(|(json, _)| json).collect();
        }
        response
    }

    /// The items as JSON with the upstream's ids for them; open ones with status `open_status`.
    pub fn output<'a>(
        &'a self,
        open_status: &'a str,
    ) -> impl Iterator<Item = (Bytes, String)> + 'a {
        self.items.iter().map(move |item| item.to_json(open_status))
    }

    /// Adds the next event.
    pub fn apply(&mut self, event: &Event) -> Result<(), Error> {
        let sequence_number = event.sequence_number;
        if sequence_number != self.next_sequence_number {
            return Err(Error::Gap {
                expected: self.next_sequence_number,
                found: sequence_number,
            });
        }
        let unfit = |reason| Error::Unfit {
            sequence_number,
            reason,
        };
        let kind = event
            .kind
            .as_ref()
            .ok_or_else(|| unfit("it has no kind this version knows"))?;
        let items = self.items.len();
        self.apply_kind(kind).map_err(unfit)?;
        if matches!(kind, Kind::InProgress(_)) {
            let waited = self.waited_ms(event.at_ms);
            let begun = self.begun_at_ms.get_or_insert(event.at_ms);
            *begun = begun.saturating_add(waited);
        }
        self.latest_at_ms = self.latest_at_ms.max(event.at_ms);
        if let Some(note) = &event.note {
            self.noted_usage = note.usage.or(self.noted_usage);
            self.attempt = note.attempt.max(self.attempt);
        }
        link::follow(&mut self.logged, event, items);
        self.next_sequence_number += 1;
        Ok(())
    }

    fn apply_kind(&mut self, kind: &Kind) -> Result<(), &'static str> {
        match kind {
            Kind::Created(response)
            | Kind::Queued(response)
            | Kind::InProgress(response)
            | Kind::Completed(response)
            | Kind::Failed(response)
            | Kind::Incomplete(response) => {
                self.response.clone_from(response);
                if !is_terminal(response.status()) {
                    self.response.output.clear();
                }
            }
            Kind::OutputItemAdded(added) => self.item_added(added)?,
            Kind::OutputItemDone(done) => self.item_done(done)?,
            Kind::ContentPartAdded(added) => {
                let part = Part::from_json(&parse(&added.part)?);
                self.open(added.output_index)?.content.push(part);
            }
            Kind::ReasoningSummaryPartAdded(added) => {
                let part = Part::from_json(&parse(&added.part)?);
                self.open(added.output_index)?.summary.push(part);
            }
            Kind::ContentPartDone(done) => {
                self.open(done.output_index)?
                    .content
                    .get_mut(done.content_index as usize)
                    .ok_or("no such part")?
                    .closed = true;
            }
            Kind::ReasoningSummaryPartDone(done) => {
                self.open(done.output_index)?
                    .summary
                    .get_mut(done.summary_index as usize)
                    .ok_or("no such part")?
                    .closed = true;
            }
            Kind::OutputTextDelta(delta) => self.part_delta(delta, Field::Text)?,
            Kind::RefusalDelta(delta) => self.part_delta(delta, Field::Refusal)?,
            Kind::ReasoningTextDelta(delta) => self.part_delta(delta, Field::ReasoningText)?,
            Kind::ReasoningSummaryTextDelta(delta) => {
                self.part_delta(delta, Field::ReasoningSummary)?;
            }
            Kind::OutputTextAnnotationAdded(added) => {
                let annotation = parse(&added.annotation)?;
                self.open(added.output_index)?
                    .content
                    .get_mut(added.content_index as usize)
                    .ok_or("no such part")?
                    .annotations
                    .push(annotation);
            }
            Kind::FunctionCallArgumentsDelta(delta)
            | Kind::CustomToolCallInputDelta(delta)
            | Kind::McpCallArgumentsDelta(delta) => {
                self.open(delta.output_index)?.text.push_str(&delta.delta);
            }
            Kind::McpCallArgumentsDone(done) => self.open(done.output_index)?.text_is_whole = true,
            Kind::ItemProgress(progress) => {
                if let Ok(item) = self.open(progress.output_index) {
                    item.progressed(&progress.r#type);
                }
            }
            // These repeat what deltas brought.
            Kind::OutputTextDone(_)
            | Kind::RefusalDone(_)
            | Kind::ReasoningTextDone(_)
            | Kind::ReasoningSummaryTextDone(_)
            | Kind::FunctionCallArgumentsDone(_)
            | Kind::CustomToolCallInputDone(_) => {}
        }
        Ok(())
    }

    fn item_added(&mut self, added: &OutputItem) -> Result<(), &'static str> {
        if added.output_index as usize != self.items.len() {
            return Err("its item has the wrong index");
        }
        let object: Object =
            serde_json::from_slice(&added.item).map_err(|_| "its item is no object")?;
        let item = OpenItem::new(object, added.upstream_id.clone());
        let is_models = item.marker.is_none()
            || matches!(item.item_type.as_str(), "mcp_call" | "mcp_approval_request");
        if is_models && !self.was_asked_about(&item) {
            if self.step_starts.is_empty() || self.is_answered {
                self.step_starts.push(self.items.len());
            }
            self.is_answered = false;
        }
        self.items.push(Item::Open(item));
        Ok(())
    }

    fn item_done(&mut self, done: &OutputItem) -> Result<(), &'static str> {
        let item = self
            .items
            .get_mut(done.output_index as usize)
            .ok_or("no such item")?;
        if let Item::Open(open) = item {
            let is_answer = match open.item_type.as_str() {
                "mcp_call" => open.has_begun || is_refusal(done),
                "mcp_approval_request" => false,
                _ => true,
            };
            self.is_answered |= open.marker.is_some() && is_answer;
        }
        if is_finished(done) {
            self.finished_in = self.attempt.max(1);
        }
        *item = Item::Done {
            json: done.item.clone(),
            upstream_id: done.upstream_id.clone(),
        };
        Ok(())
    }

    /// Whether an item is a call that the model made earlier, and that follows now because a person agreed to it.
    fn was_asked_about(&self, item: &OpenItem) -> bool {
        let text = |name: &str| item.added.get(name).and_then(Value::as_str);
        if text("approval_request_id").is_some() {
            return true;
        }
        let place = text("call_id")
            .filter(|id| id.starts_with("call_"))
            .and_then(ItemPlace::parse);
        let Some(place) = place else { return false };
        let own = ResponseId::parse(&self.response.id);
        if own.is_some_and(|own| own.0 != place.response) {
            return true;
        }
        match self.items.get(place.index as usize) {
            Some(Item::Done { json, upstream_id }) => {
                ApprovedCall::of_request(json, upstream_id).is_some()
            }
            Some(Item::Open(_)) | None => false,
        }
    }

    fn open(&mut self, output_index: u32) -> Result<&mut OpenItem, &'static str> {
        match self.items.get_mut(output_index as usize) {
            Some(Item::Open(item)) => Ok(item),
            Some(Item::Done { .. }) => Err("its item is done"),
            None => Err("no such item"),
        }
    }

    fn part_delta(&mut self, delta: &PartDelta, field: Field) -> Result<(), &'static str> {
        let item = self.open(delta.output_index)?;
        let part = item
            .parts_mut(field)
            .get_mut(delta.index as usize)
            .ok_or("no such part")?;
        part.text.push_str(&delta.delta);
        if !delta.logprobs.is_empty() {
            let logprobs: Vec<Value> =
                serde_json::from_slice(&delta.logprobs).map_err(|_| "its logprobs are no list")?;
            part.logprobs.extend(logprobs);
        }
        Ok(())
    }
}

/// Whether this ends a call that was answered without being run.
fn is_refusal(done: &OutputItem) -> bool {
    Marker::parse(&done.upstream_id).is_some_and(|marker| marker.refused)
}

/// Whether an item ended by itself, and not because it was cut off.
fn is_finished(done: &OutputItem) -> bool {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(default, borrow)]
        status: Option<std::borrow::Cow<'a, str>>,
    }
    serde_json::from_slice::<Head<'_>>(&done.item)
        .is_ok_and(|head| head.status.as_deref() != Some("incomplete"))
}

fn parse(json: &Bytes) -> Result<Value, &'static str> {
    serde_json::from_slice(json).map_err(|_| "it holds broken JSON")
}

/// Whether a response with this status has ended.
pub fn is_terminal(status: Status) -> bool {
    match status {
        Status::Completed | Status::Failed | Status::Incomplete | Status::Cancelled => true,
        Status::Unspecified | Status::Queued | Status::InProgress => false,
    }
}

/// Whether this event ends its run.
pub fn is_terminal_event(event: &Event) -> bool {
    matches!(
        event.kind,
        Some(Kind::Completed(_) | Kind::Failed(_) | Kind::Incomplete(_))
    )
}
