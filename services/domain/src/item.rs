//! An output item while it grows: the parts and texts that events have brought so far.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::marker::Marker;
use crate::model::{Field, Object};

/// An item of the output.
#[derive(Clone, Debug)]
pub enum Item {
    /// Still being written.
    Open(OpenItem),
    /// Written: one JSON object, and the upstream's own id for it.
    Done { json: Bytes, upstream_id: String },
}

/// An item that is being written.
#[derive(Clone, Debug)]
pub struct OpenItem {
    pub id: String,
    pub item_type: String,
    /// As it was added.
    pub added: Object,
    pub upstream_id: String,
    /// Content parts of a message, or `reasoning_text` parts.
    pub content: Vec<Part>,
    /// Summary parts of a reasoning item.
    pub summary: Vec<Part>,
    /// `arguments` or `input` of a call.
    pub text: String,
    /// That text is whole.
    pub text_is_whole: bool,
    /// The server began to run the call: `response.mcp_call.in_progress`.
    pub has_begun: bool,
    /// The server answered the call without running it: `response.mcp_call.failed`, and it had not begun.
    pub is_refused: bool,
    /// What the log notes on it, if the server runs the call.
    pub(crate) marker: Option<Box<Marker>>,
}

/// A content or summary part.
#[derive(Clone, Debug)]
pub struct Part {
    pub kind: PartKind,
    pub text: String,
    pub annotations: Vec<Value>,
    pub logprobs: Vec<Value>,
    pub closed: bool,
}

/// What a part holds.
#[derive(Clone, Debug, PartialEq)]
pub enum PartKind {
    OutputText,
    Refusal,
    ReasoningText,
    SummaryText,
    /// Anything else: the part as it came.
    Other(Value),
}

impl Item {
    /// The item as it stands, and the upstream's id for it; an open one with status `open_status`.
    pub fn to_json(&self, open_status: &str) -> (Bytes, String) {
        match self {
            Self::Done { json, upstream_id } => (json.clone(), upstream_id.clone()),
            Self::Open(item) => {
                let object = item.to_object(item.added.clone(), open_status);
                (json_bytes(&Value::Object(object)), item.upstream_id.clone())
            }
        }
    }
}

impl OpenItem {
    /// Begins the item that `added` describes.
    pub fn new(added: Object, upstream_id: String) -> Self {
        let text_of = |name: &str| added.get(name).and_then(Value::as_str).unwrap_or_default();
        let marker = Marker::parse(&upstream_id).map(Box::new);
        Self {
            id: text_of("id").to_owned(),
            item_type: text_of("type").to_owned(),
            added,
            upstream_id,
            content: Vec::new(),
            summary: Vec::new(),
            text: String::new(),
            text_is_whole: false,
            has_begun: false,
            is_refused: false,
            marker,
        }
    }

    /// Takes in how far a call is, by the type of the event that says so.
    pub fn progressed(&mut self, event_type: &str) {
        match event_type {
            "response.mcp_call.in_progress" => self.has_begun = true,
            "response.mcp_call.failed" => self.is_refused |= !self.has_begun,
            _ => {}
        }
    }

    /// Whether a tool's part of it is all that is missing: the output of a call, or a call that the server runs and
    /// whose arguments are whole.
    pub fn waits_for_tool(&self) -> bool {
        self.marker.is_some() && (self.item_type != "mcp_call" || self.text_is_whole)
    }

    /// The item with what was written so far, `status`, and every other member from `base`.
    pub fn to_object(&self, mut base: Object, status: &str) -> Object {
        let parts = |parts: &[Part]| Value::Array(parts.iter().map(Part::to_json).collect());
        base.insert("id".into(), self.id.clone().into());
        match self.item_type.as_str() {
            "message" => {
                base.insert("status".into(), status.into());
                base.insert("role".into(), "assistant".into());
                base.insert("content".into(), parts(&self.content));
            }
            "reasoning" => {
                base.insert("summary".into(), parts(&self.summary));
                if self.content.is_empty() {
                    base.shift_remove("content");
                } else {
                    base.insert("content".into(), parts(&self.content));
                }
                if status == "incomplete" {
                    base.insert("status".into(), status.into());
                }
            }
            "function_call_output" => {
                base.insert("status".into(), status.into());
            }
            item_type => {
                if let Some(member) = text_member(item_type) {
                    base.insert(member.into(), self.text.clone().into());
                    base.insert("status".into(), status.into());
                } else if base.contains_key("status") && status == "incomplete" {
                    base.insert("status".into(), status.into());
                }
            }
        }
        base
    }

    /// The parts that texts of `field` stand in.
    pub fn parts(&self, field: Field) -> &[Part] {
        if field == Field::ReasoningSummary {
            &self.summary
        } else {
            &self.content
        }
    }

    /// The same, to be written.
    pub fn parts_mut(&mut self, field: Field) -> &mut Vec<Part> {
        if field == Field::ReasoningSummary {
            &mut self.summary
        } else {
            &mut self.content
        }
    }
}

impl Part {
    pub fn new(kind: PartKind) -> Self {
        let (text, annotations, logprobs) = <(String, Vec<Value>, Vec<Value>)>::default();
        Self {
            kind,
            text,
            annotations,
            logprobs,
            closed: false,
        }
    }

    /// Reads a part as an event or an upstream shows it. Its text stays empty: texts come in deltas.
    pub fn from_json(part: &Value) -> Self {
        Self::new(match part.get("type").and_then(Value::as_str) {
            Some("output_text") => PartKind::OutputText,
            Some("refusal") => PartKind::Refusal,
            Some("reasoning_text") => PartKind::ReasoningText,
            Some("summary_text") => PartKind::SummaryText,
            _ => PartKind::Other(part.clone()),
        })
    }

    /// The part as OpenAI's JSON.
    pub fn to_json(&self) -> Value {
        let Self {
            kind,
            text,
            annotations,
            logprobs,
            ..
        } = self;
        match kind {
            PartKind::OutputText => json!({
                "type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text,
            }),
            PartKind::Refusal => json!({"type": "refusal", "refusal": text}),
            PartKind::ReasoningText => json!({"type": "reasoning_text", "text": text}),
            PartKind::SummaryText => json!({"type": "summary_text", "text": text}),
            PartKind::Other(part) => part.clone(),
        }
    }
}

impl PartKind {
    /// The kind of part that texts of `field` stand in; none for the texts of calls.
    pub fn of(field: Field) -> Option<Self> {
        match field {
            Field::Text => Some(Self::OutputText),
            Field::Refusal => Some(Self::Refusal),
            Field::ReasoningText => Some(Self::ReasoningText),
            Field::ReasoningSummary => Some(Self::SummaryText),
            Field::Arguments | Field::Input => None,
        }
    }

    /// The field whose texts stand in this kind of part.
    pub fn field(&self) -> Option<Field> {
        match self {
            Self::OutputText => Some(Field::Text),
            Self::Refusal => Some(Field::Refusal),
            Self::ReasoningText => Some(Field::ReasoningText),
            Self::SummaryText => Some(Field::ReasoningSummary),
            Self::Other(_) => None,
        }
    }
}

/// The member of a call that is streamed as text.
pub fn text_member(item_type: &str) -> Option<&'static str> {
    match item_type {
        "function_call" | "mcp_call" => Some("arguments"),
        "custom_tool_call" => Some("input"),
        _ => None,
    }
}

/// A JSON value as bytes.
pub fn json_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
