//! From a run's events to the chunks of a streamed chat completion.
//!
//! The frames are a function of the events and of what the request asked to see, so whoever reads the same run again
//! reads the same bytes.

mod calls;
mod frames;
mod texts;

use std::collections::HashSet;

use serde_json::{Value, json};
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{Event, PartDelta, Response, Status, Usage};

use self::calls::ToolCalls;
use self::frames::Frames;
pub use self::frames::UsageFrame;
pub use self::texts::SEPARATOR;
use self::texts::{Place, Texts};
use super::ending::Ending;
use super::parts::{Call, OwnTools, annotation, is_cut, part_texts, text};
use super::progress::{Progress, hosted_call};

/// What a request asked to see in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub usage: UsageFrame,
    pub shows_progress: bool,
    /// The request offers deprecated `functions`, and is answered with `function_call`.
    pub is_legacy: bool,
}

/// A completion's stream so far.
#[derive(Debug)]
pub struct Chunks {
    frames: Frames,
    run_id: String,
    own: OwnTools,
    calls: ToolCalls,
    /// Calls of tools that the client does not have, without their outputs so far.
    unanswered: Vec<(u32, Call)>,
    progress: Progress,
    /// Calls of MCP tools whose arguments are being written: item id and tool.
    unwritten: Vec<(String, String)>,
    content: Texts,
    refusal: Texts,
    reasoning: Texts,
    /// Items that were shown whole, by their place in the output.
    done: HashSet<u32>,
    has_begun: bool,
    has_ended: bool,
}

impl Chunks {
    /// The stream of `response`, of which nothing was shown yet.
    pub fn new(response: &Response, options: Options) -> Self {
        Self {
            frames: Frames::new(response, options.usage),
            run_id: ResponseId::parse(&response.id).map_or_else(String::new, ResponseId::run_id),
            own: OwnTools::of(response),
            calls: ToolCalls::new(options.is_legacy),
            unanswered: Vec::new(),
            progress: Progress::new(options.shows_progress),
            unwritten: Vec::new(),
            content: Texts::by_item("content"),
            refusal: Texts::by_item("refusal"),
            reasoning: Texts::by_part("reasoning_content"),
            done: HashSet::new(),
            has_begun: false,
            has_ended: false,
        }
    }

    /// Appends the frames that show `event`.
    pub fn push(&mut self, out: &mut String, event: &Event) {
        let Some(kind) = &event.kind else { return };
        self.begin(out);
        match kind {
            Kind::OutputItemAdded(added) => self.item_added(out, added.output_index, &added.item),
            Kind::OutputItemDone(done) => self.item_done(out, done.output_index, &done.item),
            Kind::OutputTextDelta(delta) => {
                self.content.push(
                    out,
                    &self.frames,
                    content(delta),
                    &delta.delta,
                    &delta.logprobs,
                );
            }
            Kind::RefusalDelta(delta) => {
                self.refusal
                    .push(out, &self.frames, content(delta), &delta.delta, b"");
            }
            Kind::ReasoningTextDelta(delta) => {
                self.reasoning
                    .push(out, &self.frames, content(delta), &delta.delta, b"");
            }
            Kind::ReasoningSummaryTextDelta(delta) => {
                let place = Place::summary(delta.output_index, delta.index as usize);
                self.reasoning
                    .push(out, &self.frames, place, &delta.delta, b"");
            }
            Kind::OutputTextAnnotationAdded(added) => {
                let place = Place::content(added.output_index, added.content_index as usize);
                let value = serde_json::from_slice(&added.annotation).unwrap_or_default();
                self.annotate(out, place, &value);
            }
            Kind::FunctionCallArgumentsDelta(delta) | Kind::CustomToolCallInputDelta(delta) => {
                self.calls
                    .delta(out, &self.frames, delta.output_index, &delta.delta);
            }
            Kind::McpCallArgumentsDone(done) => {
                let mut calls = self.unwritten.iter();
                if let Some(at) = calls.position(|(id, _)| *id == done.item_id) {
                    let (id, tool) = self.unwritten.swap_remove(at);
                    self.progress.start(out, &id, &tool, &done.text);
                }
            }
            Kind::Completed(response) | Kind::Failed(response) | Kind::Incomplete(response) => {
                self.ended(out, response);
            }
            // The rest repeats what deltas and items bring, or tells of an upstream's tools what items tell too. A
            // further `in_progress` is another attempt, whose items stand apart from those before.
            Kind::Created(_)
            | Kind::Queued(_)
            | Kind::InProgress(_)
            | Kind::ContentPartAdded(_)
            | Kind::ContentPartDone(_)
            | Kind::OutputTextDone(_)
            | Kind::RefusalDone(_)
            | Kind::FunctionCallArgumentsDone(_)
            | Kind::CustomToolCallInputDone(_)
            | Kind::ReasoningSummaryPartAdded(_)
            | Kind::ReasoningSummaryPartDone(_)
            | Kind::ReasoningSummaryTextDone(_)
            | Kind::ReasoningTextDone(_)
            | Kind::McpCallArgumentsDelta(_)
            | Kind::ItemProgress(_) => {}
        }
    }

    /// Appends the end of a stream whose run cannot be read to its end; nothing if that was read.
    pub fn break_off(&mut self, out: &mut String, message: &str) {
        if self.has_ended {
            return;
        }
        self.begin(out);
        self.end(out, &Ending::failed(message), Usage::default());
    }

    /// Whether the last frame was handed out.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn begin(&mut self, out: &mut String) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let role = json!({"role": "assistant", "content": ""});
            self.frames.delta(out, &role);
        }
    }

    fn item_added(&mut self, out: &mut String, index: u32, json: &[u8]) {
        let item: Value = serde_json::from_slice(json).unwrap_or_default();
        if let Some((id, tool, arguments)) = hosted_call(&item) {
            if text(&item, "type") == "mcp_call" {
                self.unwritten.push((id.to_owned(), tool.to_owned()));
            } else {
                self.progress.start(out, id, tool, arguments);
            }
        } else if let Some(call) = Call::read(&item) {
            let is_named = !call.id.is_empty() && self.own.contain(&call.name);
            if is_named {
                self.calls.begin(out, &self.frames, index, &call);
            }
        }
    }

    fn item_done(&mut self, out: &mut String, index: u32, json: &[u8]) {
        if !self.done.insert(index) {
            return;
        }
        let item: Value = serde_json::from_slice(json).unwrap_or_default();
        match text(&item, "type") {
            "message" => self.message_done(out, index, &item),
            "reasoning" => self.reasoning_done(out, index, &item),
            "function_call" | "custom_tool_call" => self.call_done(out, index, &item),
            "mcp_approval_request" => self.progress.ask(out, &self.run_id, &item),
            _ => {
                if let Some((id, ..)) = hosted_call(&item) {
                    self.progress.end(out, id);
                }
                self.take_output(out, &item);
            }
        }
    }

    /// Shows what of a message was never streamed.
    fn message_done(&mut self, out: &mut String, index: u32, item: &Value) {
        for (part, whole) in part_texts(item, "content", "refusal", "refusal") {
            let place = Place::content(index, part);
            self.refusal.complete(out, &self.frames, place, whole);
        }
        for (part, whole) in part_texts(item, "content", "output_text", "text") {
            let place = Place::content(index, part);
            self.content.complete(out, &self.frames, place, whole);
            let annotations = item["content"][part]["annotations"].as_array();
            let shown = self.content.annotations(place);
            for value in annotations.into_iter().flatten().skip(shown) {
                self.annotate(out, place, value);
            }
        }
    }

    fn reasoning_done(&mut self, out: &mut String, index: u32, item: &Value) {
        for (part, whole) in part_texts(item, "summary", "summary_text", "text") {
            let place = Place::summary(index, part);
            self.reasoning.complete(out, &self.frames, place, whole);
        }
        for (part, whole) in part_texts(item, "content", "reasoning_text", "text") {
            let place = Place::content(index, part);
            self.reasoning.complete(out, &self.frames, place, whole);
        }
    }

    fn call_done(&mut self, out: &mut String, index: u32, item: &Value) {
        let Some(call) = Call::read(item) else { return };
        if self.own.contain(&call.name) {
            self.calls
                .done(out, &self.frames, index, &call, is_cut(item));
        } else if !is_cut(item) {
            self.progress.start(out, &call.id, &call.name, &call.text);
            self.unanswered.push((index, call));
        }
    }

    /// Takes in the output of a tool that the server ran.
    fn take_output(&mut self, out: &mut String, item: &Value) {
        let kind = text(item, "type");
        if kind == "function_call_output" || kind == "custom_tool_call_output" {
            let call_id = text(item, "call_id");
            self.unanswered.retain(|(_, call)| call.id != call_id);
            self.progress.end(out, call_id);
        }
    }

    fn annotate(&mut self, out: &mut String, place: Place, value: &Value) {
        let offset = self.content.annotate(place);
        let annotations = json!({"annotations": [annotation(value, offset)]});
        self.frames.delta(out, &annotations);
    }

    fn ended(&mut self, out: &mut String, response: &Response) {
        for (item, index) in response.output.iter().zip(0..) {
            self.item_done(out, index, item);
        }
        if response.status() == Status::Completed && !self.own.are_none() {
            // The model made a name up: the client is the one who can say so.
            for (index, call) in std::mem::take(&mut self.unanswered) {
                self.calls.done(out, &self.frames, index, &call, false);
            }
        }
        let ending = Ending::of(response, self.calls.left());
        self.end(out, &ending, response.usage.unwrap_or_default());
    }

    fn end(&mut self, out: &mut String, ending: &Ending, usage: Usage) {
        self.progress.end_all(out);
        self.frames.end(out, ending, usage);
        self.has_ended = true;
    }
}

fn content(delta: &PartDelta) -> Place {
    Place::content(delta.output_index, delta.index as usize)
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
