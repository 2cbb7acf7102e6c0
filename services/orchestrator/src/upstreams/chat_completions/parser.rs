//! From the chunks of a Chat Completions stream, or a whole completion, to what the model said.
//!
//! Only choice 0 is read. What stands between `<think>` tags is text like any other.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use talaria_domain::model::{Field, ItemKey, ModelEvent, Object, Outcome, server_error};
use talaria_proto::v1::Usage;
use tracing::debug;

use super::details::Details;
use super::tool_calls::ToolCalls;
use crate::upstreams::lenient;
use crate::upstreams::sse::Frame;

const REASONING: ItemKey = ItemKey(0);
const MESSAGE: ItemKey = ItemKey(1);
/// Thoughts that came after the message or a call.
const LATE_REASONING: ItemKey = ItemKey(u64::MAX);

/// Reads one stream.
#[derive(Debug)]
pub struct Parser {
    tool_calls: ToolCalls,
    details: Details,
    /// The parts of the message, in the order in which they began.
    parts: Vec<Field>,
    said_something: bool,
    outcome: Option<Outcome>,
    usage: Option<Usage>,
    finished: bool,
}

/// What nearly every chunk is, read without building a tree.
#[derive(Deserialize)]
struct TextChunk {
    choices: [TextChoice; 1],
    usage: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct TextChoice {
    #[serde(default)]
    index: u64,
    delta: TextDelta,
    finish_reason: Option<IgnoredAny>,
    logprobs: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct TextDelta {
    content: String,
    refusal: Option<IgnoredAny>,
    reasoning: Option<IgnoredAny>,
    reasoning_content: Option<IgnoredAny>,
    reasoning_text: Option<IgnoredAny>,
    reasoning_details: Option<IgnoredAny>,
    tool_calls: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    annotations: Option<IgnoredAny>,
}

impl Parser {
    /// `turn` goes into the ids of tool calls that come without one: another number for every call of a run.
    pub fn new(turn: usize) -> Self {
        Self {
            tool_calls: ToolCalls::new(turn),
            details: Details::default(),
            parts: Vec::new(),
            said_something: false,
            outcome: None,
            usage: None,
            finished: false,
        }
    }

    /// Appends what `frame` says to `events`; nothing more once the call has finished.
    pub fn push(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) {
        let may_be_plain = self.details.is_empty();
        if self.finished || (may_be_plain && self.push_text(frame, events)) {
            return;
        }
        if frame.data.trim() == "[DONE]" {
            if self.said_something {
                self.outcome.get_or_insert(Outcome::Completed);
            }
            self.finish(events);
        } else if let Some(chunk) = lenient::object(&frame.data) {
            let named_error = frame.event.as_deref() == Some("error");
            self.push_chunk(chunk, named_error, events);
        } else {
            debug!(
                size_bytes = frame.data.len(),
                "skipped a chunk that is no JSON object"
            );
        }
    }

    /// Whether the model is done, though its usage may still come.
    pub fn is_ending(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether the call has finished: what follows says nothing.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The usage that was told, if the call has not finished: then its end does not say it.
    pub fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }

    /// Finishes the call at the end of the stream, if the model came to an end.
    pub fn finish(&mut self, events: &mut Vec<ModelEvent>) {
        if self.finished {
            return;
        }
        let Some(mut outcome) = self.outcome.take() else {
            return;
        };
        self.finished = true;
        let has_failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
        // What a call that failed holds back may be half of it: nothing is added, and nothing handed out.
        let has_calls = has_failed(&outcome) || self.tool_calls.finish(events);
        if !has_calls && self.parts.is_empty() && outcome == Outcome::Completed {
            outcome = nameless();
        }
        if !has_failed(&outcome) {
            self.end_reasoning(LATE_REASONING, events);
        }
        events.push(ModelEvent::Finished {
            outcome,
            usage: self.usage.take(),
            output: Vec::new(),
        });
    }

    /// Reads a chunk with nothing but text; leaves everything else alone and returns false.
    fn push_text(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) -> bool {
        let Ok(TextChunk {
            choices: [choice],
            usage: None,
            error: None,
        }) = serde_json::from_str(&frame.data)
        else {
            return false;
        };
        let TextChoice {
            index: 0,
            delta,
            finish_reason: None,
            logprobs: None,
        } = choice
        else {
            return false;
        };
        let TextDelta {
            content,
            refusal: None,
            reasoning: None,
            reasoning_content: None,
            reasoning_text: None,
            reasoning_details: None,
            tool_calls: None,
            function_call: None,
            annotations: None,
        } = delta
        else {
            return false;
        };
        self.push_delta(MESSAGE, Field::Text, content, Vec::new(), events);
        true
    }

    fn push_chunk(&mut self, mut chunk: Object, named_error: bool, events: &mut Vec<ModelEvent>) {
        let is_error = lenient::text(&chunk, "type") == Some("error")
            || lenient::text(&chunk, "object") == Some("error");
        self.usage = usage_in(&chunk).or(self.usage.take());
        if named_error || is_error || lenient::has(&chunk, "error") {
            self.outcome = Some(Outcome::Failed(lenient::error_in(chunk)));
            self.finish(events);
            return;
        }
        let choices = lenient::take_objects(&mut chunk, "choices");
        let first = choices.into_iter().find(|choice| {
            choice
                .get("index")
                .and_then(Value::as_u64)
                .is_none_or(|index| index == 0)
        });
        if let Some(choice) = first {
            self.push_choice(choice, events);
        }
        if self.outcome.is_some() && self.usage.is_some() {
            self.finish(events);
        }
    }

    fn push_choice(&mut self, mut choice: Object, events: &mut Vec<ModelEvent>) {
        let logprobs = lenient::take_object(&mut choice, "logprobs")
            .map(|mut logprobs| lenient::take_objects(&mut logprobs, "content"))
            .unwrap_or_default();
        // A whole completion has a `message`, and some upstreams call it so in their streams.
        let delta = lenient::take_object(&mut choice, "delta")
            .or_else(|| lenient::take_object(&mut choice, "message"));
        if let Some(delta) = delta {
            self.push_message(delta, logprobs, events);
        }
        self.usage = lenient::usage(choice.get("usage")).or(self.usage.take());
        if let Some(reason) = lenient::text(&choice, "finish_reason").filter(|it| !it.is_empty()) {
            let error = choice.get("error").filter(|error| !error.is_null());
            let outcome = outcome(reason, error, self.said_something);
            self.outcome.get_or_insert(outcome);
        }
    }

    fn push_message(
        &mut self,
        mut delta: Object,
        logprobs: Vec<Object>,
        events: &mut Vec<ModelEvent>,
    ) {
        let logprobs = logprobs.into_iter().map(Value::Object).collect();
        let annotations = lenient::take_objects(&mut delta, "annotations");
        let reasoning = reasoning_in(&mut delta);
        if reasoning.is_empty() && has_answer(&delta) {
            self.end_reasoning(REASONING, events);
        }
        self.details
            .push(lenient::take_objects(&mut delta, "reasoning_details"));
        self.push_delta(
            REASONING,
            Field::ReasoningText,
            reasoning,
            Vec::new(),
            events,
        );
        match delta.get_mut("content").map(Value::take) {
            Some(Value::String(content)) => {
                self.push_delta(MESSAGE, Field::Text, content, logprobs, events);
            }
            Some(Value::Array(parts)) => self.push_parts(&parts, events),
            _ => {}
        }
        let refusal = lenient::take_text(&mut delta, "refusal").unwrap_or_default();
        self.push_delta(MESSAGE, Field::Refusal, refusal, Vec::new(), events);
        for annotation in annotations {
            let part = self.part(Field::Text);
            events.push(ModelEvent::Annotation {
                key: MESSAGE,
                part,
                annotation: flat(annotation),
            });
        }
        for call in lenient::take_objects(&mut delta, "tool_calls") {
            self.said_something = true;
            self.tool_calls.push(call, events);
        }
        if let Some(mut function) = lenient::take_object(&mut delta, "function_call") {
            self.said_something = true;
            self.tool_calls
                .push_function(Some(0), String::new(), &mut function, events);
        }
    }

    /// Hands out the thoughts that are to be handed back.
    fn end_reasoning(&mut self, key: ItemKey, events: &mut Vec<ModelEvent>) {
        if let Some(item) = self.details.take_item() {
            self.said_something = true;
            events.push(ModelEvent::ItemDone { key, item });
        }
    }

    /// Content in parts, as some upstreams send it.
    fn push_parts(&mut self, parts: &[Value], events: &mut Vec<ModelEvent>) {
        for part in parts {
            let (key, field) = match part.get("type").and_then(Value::as_str) {
                Some("thinking" | "reasoning") => (REASONING, Field::ReasoningText),
                _ => (MESSAGE, Field::Text),
            };
            let text = part
                .get("text")
                .or_else(|| part.get("thinking"))
                .unwrap_or(part);
            self.push_delta(key, field, text_in(text), Vec::new(), events);
        }
    }

    fn push_delta(
        &mut self,
        key: ItemKey,
        field: Field,
        delta: String,
        logprobs: Vec<Value>,
        events: &mut Vec<ModelEvent>,
    ) {
        if delta.is_empty() && logprobs.is_empty() {
            return;
        }
        self.said_something = true;
        let part = if key == MESSAGE { self.part(field) } else { 0 };
        events.push(ModelEvent::Delta {
            key,
            field,
            part,
            delta,
            logprobs,
        });
    }

    /// The index of the message's text or refusal, each a part of its own.
    fn part(&mut self, field: Field) -> u32 {
        if !self.parts.contains(&field) {
            self.parts.push(field);
        }
        u32::from(self.parts[0] != field)
    }
}

/// What a whole completion says, for upstreams that answer so although a stream was asked for.
///
/// `None` if `json` is no JSON object.
pub fn parse_body(json: &str, turn: usize) -> Option<Vec<ModelEvent>> {
    let body = lenient::object(json)?;
    let mut parser = Parser::new(turn);
    let mut events = Vec::new();
    parser.push_chunk(body, false, &mut events);
    if parser.said_something {
        parser.outcome.get_or_insert(Outcome::Completed);
    }
    parser.finish(&mut events);
    Some(events)
}

/// The reasoning in a delta, under the first of its names that is used; some upstreams repeat it under a second.
fn reasoning_in(delta: &mut Object) -> String {
    for name in [
        "reasoning_content",
        "reasoning",
        "reasoning_text",
        "reasoning_details",
    ] {
        let text = delta.get(name).map(text_in).unwrap_or_default();
        if !text.is_empty() {
            return text;
        }
    }
    String::new()
}

/// The text of a string, of an object with a text, or of a list of these.
fn text_in(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_in).collect(),
        Value::Object(object) => {
            let member = ["text", "summary", "content"]
                .iter()
                .find_map(|name| object.get(*name));
            member
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// The usage that a chunk tells, wherever it does: Groq and llama.cpp have places of their own.
fn usage_in(chunk: &Object) -> Option<Usage> {
    let groq = chunk.get("x_groq").and_then(|groq| groq.get("usage"));
    lenient::usage(chunk.get("usage"))
        .or_else(|| lenient::usage(groq))
        .or_else(|| lenient::timings(chunk.get("timings")))
}

/// Whether a delta has something of the message or of a call.
fn has_answer(delta: &Object) -> bool {
    ["content", "refusal", "tool_calls", "function_call"]
        .iter()
        .any(|name| match delta.get(*name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        })
}

/// An annotation as the Responses API writes it: what chat nests under the name of its type stands beside the type.
fn flat(mut annotation: Object) -> Object {
    let kind = lenient::text(&annotation, "type")
        .unwrap_or_default()
        .to_owned();
    if let Some(members) = lenient::take_object(&mut annotation, &kind) {
        annotation.shift_remove(&kind);
        annotation.extend(members);
    }
    annotation
}

fn nameless() -> Outcome {
    Outcome::Failed(server_error("The model called a tool and named none."))
}

fn outcome(finish_reason: &str, error: Option<&Value>, said_something: bool) -> Outcome {
    let incomplete = |reason: &str| Outcome::Incomplete {
        reason: reason.to_owned(),
    };
    match finish_reason.to_ascii_lowercase().as_str() {
        "length" | "max_tokens" | "max_output_tokens" | "model_length" => {
            incomplete("max_output_tokens")
        }
        "content_filter" | "safety" | "sensitive" | "recitation" | "prohibited_content" => {
            incomplete("content_filter")
        }
        "error" | "network_error" | "insufficient_system_resource" => {
            Outcome::Failed(lenient::response_error(error.unwrap_or(&Value::Null)))
        }
        "tool_calls" | "function_call" if !said_something => nameless(),
        // `stop`, and what others call a natural end.
        _ => Outcome::Completed,
    }
}

#[cfg(test)]
mod tests;
