//! From the events of a Responses stream to what the model said.
//!
//! Nothing is demanded of the stream: what is unknown is skipped, what is missing is left to the run to fill in.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use talaria_domain::model::{Field, ItemKey, ModelEvent, Object};
use talaria_proto::v1::Usage;
use tracing::debug;

use crate::upstreams::lenient;
use crate::upstreams::responses::body::{finished, is_end, is_item};
use crate::upstreams::responses::tracking::Tracking;
use crate::upstreams::sse::Frame;

/// Keys of items whose output index the upstream does not tell; far above any real index.
const WITHOUT_INDEX: u64 = 1 << 32;

/// Members of an item event that are not about the progress of a hosted tool.
const ITEM_EVENT_MEMBERS: [&str; 4] = ["type", "sequence_number", "item_id", "output_index"];

/// Reads one stream.
#[derive(Debug, Default)]
pub struct Parser {
    tracking: Option<Tracking>,
    /// What was said to be used, before the end says it.
    usage: Option<Usage>,
    keys: HashMap<String, ItemKey>,
    /// The key of the item that the last event was about.
    last: u64,
    held: Option<Held>,
    finished: bool,
}

/// The place that a delta continues.
type Place = (ItemKey, Field, u32);

/// The first half of a surrogate pair at the end of a delta; the second half begins the next one.
#[derive(Debug)]
struct Held {
    place: Place,
    escape: String,
}

/// What nearly every event of a stream is, read without building a tree.
#[derive(Deserialize)]
struct TextDelta<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    sequence_number: Option<u64>,
    #[serde(borrow, default)]
    item_id: Cow<'a, str>,
    output_index: Option<u64>,
    content_index: Option<u32>,
    summary_index: Option<u32>,
    delta: String,
    #[serde(default)]
    logprobs: Option<Vec<Value>>,
}

/// What a stream begins with. All that it says of the response is what was used so far.
#[derive(Deserialize)]
struct Opening<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    response: Used,
}

#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    usage: Option<Value>,
}

impl Parser {
    /// With `tracking`, of a response that the upstream keeps.
    pub fn new(tracking: Option<Tracking>) -> Self {
        Self {
            tracking,
            ..Self::default()
        }
    }

    /// Whether the stream is one that was begun before.
    pub fn goes_on(&self) -> bool {
        self.tracking
            .as_ref()
            .is_some_and(|tracking| tracking.goes_on)
    }

    /// The usage that was told, if the call has not finished: then its end does not say it.
    pub fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }

    /// Appends what `frame` says to `events`; nothing more once the call has finished.
    pub fn push(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) {
        if self.finished || self.push_text_delta(frame, events) || self.push_opening(frame) {
            return;
        }
        let Some(mut body) = lenient::object(&frame.data) else {
            if frame.data.trim() != "[DONE]" {
                debug!(
                    size_bytes = frame.data.len(),
                    "skipped an event that is no JSON object"
                );
            }
            return;
        };
        let kind = match body.get_mut("type").map(Value::take) {
            Some(Value::String(kind)) => kind,
            _ => frame.event.as_deref().unwrap_or_default().to_owned(),
        };
        let sequence_number = body.get("sequence_number").and_then(Value::as_u64);
        if self.is_known(sequence_number) {
            return;
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.name(&body, events);
        }
        self.push_event(&kind, body, &frame.data, events);
        self.heard(sequence_number, events);
    }

    /// Whether the call has finished: what follows says nothing.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Reads a well-formed text delta; leaves everything else alone and returns false.
    fn push_text_delta(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) -> bool {
        let named_otherwise = frame
            .event
            .as_ref()
            .is_some_and(|name| !name.ends_with(".delta"));
        if named_otherwise || self.held.is_some() {
            return false;
        }
        let Ok(wire) = serde_json::from_str::<TextDelta<'_>>(&frame.data) else {
            return false;
        };
        let Some(field) = wire.r#type.strip_suffix(".delta").and_then(field_of) else {
            return false;
        };
        if self.is_known(wire.sequence_number) {
            return true;
        }
        let part = wire.content_index.or(wire.summary_index).unwrap_or(0);
        let key = self.key(wire.output_index, Some(&wire.item_id));
        push_delta(
            (key, field, part),
            wire.delta,
            wire.logprobs.unwrap_or_default(),
            events,
        );
        self.heard(wire.sequence_number, events);
        true
    }

    /// Reads a well-formed first event, which is long and says little; leaves everything else alone and returns false.
    fn push_opening(&mut self, frame: &Frame<'_>) -> bool {
        let is_opening = |name: &str| {
            matches!(
                name,
                "response.created" | "response.queued" | "response.in_progress"
            )
        };
        if self.tracking.is_some() || !frame.event.as_deref().is_some_and(is_opening) {
            return false;
        }
        let Ok(opening) = serde_json::from_str::<Opening<'_>>(&frame.data) else {
            return false;
        };
        if !is_opening(&opening.r#type) {
            return false;
        }
        let told = opening.response.usage;
        self.usage = lenient::usage(told.as_ref()).or(self.usage.take());
        true
    }

    fn is_known(&self, sequence_number: Option<u64>) -> bool {
        let tracking = self.tracking.as_ref();
        tracking.is_some_and(|tracking| tracking.is_known(sequence_number))
    }

    /// Tells how far the stream was taken in, but for its end and for half a character.
    fn heard(&mut self, sequence_number: Option<u64>, events: &mut Vec<ModelEvent>) {
        if let Some(tracking) = &mut self.tracking
            && !self.finished
            && self.held.is_none()
        {
            tracking.heard(sequence_number, events);
        }
    }

    fn push_event(
        &mut self,
        kind: &str,
        mut body: Object,
        json: &str,
        events: &mut Vec<ModelEvent>,
    ) {
        let told = body
            .get("response")
            .and_then(|response| response.get("usage"));
        self.usage = lenient::usage(told).or(self.usage.take());
        if is_end(kind, &body) {
            self.finished = true;
            let usage_so_far = self.usage.take();
            let mut end = finished(kind, body);
            if let ModelEvent::Finished { usage, .. } = &mut end {
                *usage = usage.or(usage_so_far);
            }
            events.push(end);
        } else if kind == "response.output_item.added" {
            events.extend(
                self.item(&mut body)
                    .map(|(key, item)| ModelEvent::ItemAdded { key, item }),
            );
        } else if kind == "response.output_item.done" {
            events.extend(
                self.item(&mut body)
                    .map(|(key, item)| ModelEvent::ItemDone { key, item }),
            );
        } else if kind == "response.output_text.annotation.added" {
            let (key, _, part) = self.place(&body, Field::Text);
            let annotation = lenient::take_object(&mut body, "annotation");
            events.extend(annotation.map(|annotation| ModelEvent::Annotation {
                key,
                part,
                annotation,
            }));
        } else if let Some(field) = kind.strip_suffix(".delta").and_then(field_of) {
            let place = self.place(&body, field);
            let delta = self.delta(place, json, &mut body);
            let logprobs = match body.get_mut("logprobs").map(Value::take) {
                Some(Value::Array(logprobs)) => logprobs,
                _ => Vec::new(),
            };
            push_delta(place, delta, logprobs, events);
        } else if let Some(field) = kind.strip_suffix(".done").and_then(field_of) {
            let (key, field, part) = self.place(&body, field);
            if let Some(text) = lenient::take_text(&mut body, member_of(field)) {
                events.push(ModelEvent::Text {
                    key,
                    field,
                    part,
                    text,
                });
            }
        } else if is_progress(kind) {
            let (key, ..) = self.place(&body, Field::Text);
            body.retain(|name, _| !ITEM_EVENT_MEMBERS.contains(&name.as_str()));
            events.push(ModelEvent::Progress {
                key,
                name: kind.to_owned(),
                fields: body,
            });
        } else {
            debug!(event = kind, "skipped an event that says nothing new");
        }
    }

    /// The text of a delta that is not plain: halves of one character are put together across deltas.
    fn delta(&mut self, place: Place, json: &str, body: &mut Object) -> String {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            delta: &'a RawValue,
        }
        let raw = serde_json::from_str::<Raw<'_>>(json).ok();
        let inside = raw
            .as_ref()
            .and_then(|raw| raw.delta.get().strip_prefix('"')?.strip_suffix('"'));
        let Some(inside) = inside else {
            return lenient::take_text(body, "delta").unwrap_or_default();
        };
        let before = self.held.take_if(|held| held.place == place);
        let (inside, high) = lenient::split_high(inside).unwrap_or((inside, ""));
        if !high.is_empty() {
            self.held = Some(Held {
                place,
                escape: high.to_owned(),
            });
        }
        let before = before.map(|held| held.escape).unwrap_or_default();
        lenient::string(&format!("\"{before}{inside}\""))
    }

    fn place(&mut self, body: &Object, field: Field) -> Place {
        let index = body.get("output_index").and_then(Value::as_u64);
        let key = self.key(index, lenient::text(body, "item_id"));
        let part = body
            .get("content_index")
            .or_else(|| body.get("summary_index"));
        let part = part
            .and_then(Value::as_u64)
            .and_then(|part| u32::try_from(part).ok());
        (key, field, part.unwrap_or(0))
    }

    /// The item of an item event, with its key.
    fn item(&mut self, body: &mut Object) -> Option<(ItemKey, Object)> {
        let item = lenient::take_object(body, "item").filter(is_item)?;
        let id = lenient::text(&item, "id").or_else(|| lenient::text(body, "item_id"));
        let index = body.get("output_index").and_then(Value::as_u64);
        let key = self.key(index, id);
        if let Some(id) = id {
            self.keys.insert(id.to_owned(), key);
        }
        Some((key, item))
    }

    /// The key of an item: its output index, else what its id was seen with, else the item of the last event.
    fn key(&mut self, index: Option<u64>, id: Option<&str>) -> ItemKey {
        if let (None, Some(tracking)) = (index, &mut self.tracking) {
            tracking.guessed();
        }
        let key = match (index, id.filter(|id| !id.is_empty())) {
            (Some(index), _) => ItemKey(index),
            (None, Some(id)) => {
                let new = ItemKey(WITHOUT_INDEX + self.keys.len() as u64);
                *self.keys.entry(id.to_owned()).or_insert(new)
            }
            (None, None) => ItemKey(self.last),
        };
        self.last = key.0;
        key
    }
}

fn push_delta(
    (key, field, part): Place,
    delta: String,
    logprobs: Vec<Value>,
    events: &mut Vec<ModelEvent>,
) {
    if !delta.is_empty() || !logprobs.is_empty() {
        events.push(ModelEvent::Delta {
            key,
            field,
            part,
            delta,
            logprobs,
        });
    }
}

/// Which text the events named `stem` and `.delta` or `.done` are about.
fn field_of(stem: &str) -> Option<Field> {
    match stem.strip_prefix("response.")? {
        "output_text" => Some(Field::Text),
        "refusal" => Some(Field::Refusal),
        "reasoning_summary_text" | "reasoning_summary" => Some(Field::ReasoningSummary),
        // `reasoning` is Open Responses' name for it.
        "reasoning_text" | "reasoning" => Some(Field::ReasoningText),
        "function_call_arguments" | "mcp_call_arguments" => Some(Field::Arguments),
        "custom_tool_call_input" => Some(Field::Input),
        _ => None,
    }
}

/// The member of a `.done` event that holds the whole text.
fn member_of(field: Field) -> &'static str {
    match field {
        Field::Text | Field::ReasoningSummary | Field::ReasoningText => "text",
        Field::Refusal => "refusal",
        Field::Arguments => "arguments",
        Field::Input => "input",
    }
}

fn is_progress(kind: &str) -> bool {
    let stem = kind
        .strip_prefix("response.")
        .and_then(|name| name.rsplit_once('.'));
    matches!(
        stem,
        Some((
            "web_search_call"
                | "file_search_call"
                | "code_interpreter_call"
                | "code_interpreter_call_code"
                | "image_generation_call"
                | "mcp_call"
                | "mcp_list_tools"
                | "shell_call_command"
                | "shell_call_output_content"
                | "compaction",
            _
        ))
    )
}

#[cfg(test)]
mod tests;
