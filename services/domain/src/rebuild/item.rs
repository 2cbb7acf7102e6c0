//! The events of one finished item.

use bytes::Bytes;
use serde_json::value::RawValue;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{
    Annotation, ContentPart, ItemDelta, ItemProgress, ItemText, OutputItem, PartDelta, PartText,
    SummaryPart,
};

use super::{Events, bytes};
use crate::item::{Part, PartKind, json_bytes, text_member};
use crate::json::{ObjectWriter, RawObject};
use crate::model::Field;

/// An item that is one JSON object.
struct Finished<'a> {
    id: String,
    item_type: String,
    members: RawObject<'a>,
    output_index: u32,
}

/// Appends the events of an item, from `added` to `done`; nothing if it is no JSON object.
pub(super) fn push(
    events: &mut Events,
    output_index: u32,
    json: &Bytes,
) -> Result<(), serde_json::Error> {
    let members = RawObject::parse(json)?;
    let item = Finished {
        id: string(&members, "id"),
        item_type: string(&members, "type"),
        members,
        output_index,
    };
    events.push(Kind::OutputItemAdded(OutputItem {
        output_index,
        item: Bytes::from(item.added()),
        upstream_id: String::new(),
    }));
    item.push_inside(events);
    events.push(Kind::OutputItemDone(OutputItem {
        output_index,
        item: json.clone(),
        upstream_id: String::new(),
    }));
    Ok(())
}

impl Finished<'_> {
    /// The item as it is shown when it begins: its identity, and nothing written yet.
    fn added(&self) -> String {
        let mut writer = ObjectWriter::new();
        for (name, value) in &self.members.0 {
            match self.begins_as(name) {
                Begins::Absent => {}
                Begins::AsItIs if value.get() == "null" => {}
                Begins::AsItIs => {
                    writer.raw(name, value.get());
                }
                Begins::As(json) => {
                    writer.raw(name, json);
                }
            }
        }
        writer.finish()
    }

    fn begins_as(&self, name: &str) -> Begins {
        let is_call = self.item_type.ends_with("_call");
        match (self.item_type.as_str(), name) {
            ("message", "content") | ("reasoning", "summary") | ("mcp_list_tools", "tools") => {
                Begins::As("[]")
            }
            ("message", "status") => Begins::As(r#""in_progress""#),
            ("message", "id" | "type" | "role" | "phase") | ("reasoning", "id" | "type") => {
                Begins::AsItIs
            }
            ("message" | "reasoning", _) | ("mcp_call", "output" | "error") => Begins::Absent,
            (item_type, name) if text_member(item_type) == Some(name) => Begins::As(EMPTY),
            ("function_call_output", "output") => match self.members.get(name) {
                Some(list) if list.starts_with('[') => Begins::As("[]"),
                Some(_) | None => Begins::As(EMPTY),
            },
            (_, "status") if is_call || self.item_type == "function_call_output" => {
                Begins::As(r#""in_progress""#)
            }
            ("code_interpreter_call", "code") => Begins::As(EMPTY),
            _ => Begins::AsItIs,
        }
    }

    fn push_inside(&self, events: &mut Events) {
        match self.item_type.as_str() {
            "message" => self.push_parts(events, "content", false),
            "reasoning" => {
                self.push_parts(events, "summary", true);
                self.push_parts(events, "content", false);
            }
            "mcp_call" | "mcp_list_tools" => {
                self.push_progress(events, "in_progress", Bytes::new());
                self.push_call_text(events);
                let failed = match self.members.get("status") {
                    Some(status) => status == r#""failed""#,
                    None => self.members.get("error").is_some(),
                };
                let end = if failed { "failed" } else { "completed" };
                self.push_progress(events, end, Bytes::new());
            }
            "code_interpreter_call" => self.push_code(events),
            _ => self.push_call_text(events),
        }
    }

    /// The arguments or input of a call.
    fn push_call_text(&self, events: &mut Events) {
        let Some(member) = text_member(&self.item_type) else {
            return;
        };
        let text = string(&self.members, member);
        let delta = ItemDelta {
            item_id: self.id.clone(),
            output_index: self.output_index,
            delta: text.clone(),
        };
        let done = ItemText {
            item_id: self.id.clone(),
            output_index: self.output_index,
            text,
        };
        let (delta, done) = match self.item_type.as_str() {
            "function_call" => (
                Kind::FunctionCallArgumentsDelta(delta),
                Kind::FunctionCallArgumentsDone(done),
            ),
            "custom_tool_call" => (
                Kind::CustomToolCallInputDelta(delta),
                Kind::CustomToolCallInputDone(done),
            ),
            "mcp_call" => (
                Kind::McpCallArgumentsDelta(delta),
                Kind::McpCallArgumentsDone(done),
            ),
            _ => return,
        };
        if !self.is_empty(member) {
            events.push(delta);
        }
        events.push(done);
    }

    fn push_code(&self, events: &mut Events) {
        self.push_progress(events, "in_progress", Bytes::new());
        if let Some(code) = self.members.get("code") {
            let fields = |name: &str| {
                let mut writer = ObjectWriter::new();
                writer.raw(name, code);
                Bytes::from(writer.finish())
            };
            if !self.is_empty("code") {
                self.push_event(
                    events,
                    "response.code_interpreter_call_code.delta",
                    fields("delta"),
                );
            }
            self.push_event(
                events,
                "response.code_interpreter_call_code.done",
                fields("code"),
            );
        }
        self.push_progress(events, "completed", Bytes::new());
    }

    fn push_progress(&self, events: &mut Events, progress: &str, fields: Bytes) {
        let name = format!("response.{}.{progress}", self.item_type);
        self.push_event(events, &name, fields);
    }

    fn push_event(&self, events: &mut Events, name: &str, fields: Bytes) {
        events.push(Kind::ItemProgress(ItemProgress {
            r#type: name.to_owned(),
            item_id: self.id.clone(),
            output_index: self.output_index,
            fields,
        }));
    }

    /// The parts of one member.
    fn push_parts(&self, events: &mut Events, member: &str, summary: bool) {
        let parts = self.members.get(member).unwrap_or("[]");
        let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(parts) else {
            return;
        };
        for (index, part) in (0..).zip(parts) {
            self.push_part(events, index, part.get(), summary);
        }
    }

    fn push_part(&self, events: &mut Events, index: u32, json: &str, summary: bool) {
        let members = RawObject::parse(json.as_bytes()).unwrap_or_default();
        let part_type = string(&members, "type");
        let kind = match (self.item_type.as_str(), summary, part_type.as_str()) {
            ("message", false, "output_text") => Some(PartKind::OutputText),
            ("message", false, "refusal") => Some(PartKind::Refusal),
            ("reasoning", false, "reasoning_text") => Some(PartKind::ReasoningText),
            ("reasoning", true, "summary_text") => Some(PartKind::SummaryText),
            _ => None,
        };
        // A part whose text does not come in deltas is shown whole when it begins.
        let added = match &kind {
            Some(kind) => json_bytes(&Part::new(kind.clone()).to_json()),
            None => bytes(json),
        };
        events.push(self.part_edge(index, added, summary, Edge::Added));
        if let Some(field) = kind.and_then(|kind| kind.field()) {
            self.push_text(events, index, field, &members);
        }
        events.push(self.part_edge(index, bytes(json), summary, Edge::Done));
    }

    fn part_edge(&self, index: u32, part: Bytes, summary: bool, edge: Edge) -> Kind {
        let (item_id, output_index) = (self.id.clone(), self.output_index);
        if summary {
            let part = SummaryPart {
                item_id,
                output_index,
                summary_index: index,
                part,
            };
            return match edge {
                Edge::Added => Kind::ReasoningSummaryPartAdded(part),
                Edge::Done => Kind::ReasoningSummaryPartDone(part),
            };
        }
        let part = ContentPart {
            item_id,
            output_index,
            content_index: index,
            part,
        };
        match edge {
            Edge::Added => Kind::ContentPartAdded(part),
            Edge::Done => Kind::ContentPartDone(part),
        }
    }

    /// The text of a part as one delta, its annotations, and the whole text.
    fn push_text(&self, events: &mut Events, index: u32, field: Field, part: &RawObject<'_>) {
        let name = if field == Field::Refusal {
            "refusal"
        } else {
            "text"
        };
        let logprobs = part.get("logprobs").filter(|list| *list != "[]");
        let logprobs = bytes(logprobs.unwrap_or_default());
        let text = string(part, name);
        let whole_is_empty = text.is_empty();
        let delta = PartDelta {
            item_id: self.id.clone(),
            output_index: self.output_index,
            index,
            delta: text.clone(),
            logprobs: logprobs.clone(),
        };
        let whole = PartText {
            item_id: self.id.clone(),
            output_index: self.output_index,
            index,
            text,
            logprobs,
        };
        let (delta, done) = match field {
            Field::Text => (Kind::OutputTextDelta(delta), Kind::OutputTextDone(whole)),
            Field::Refusal => (Kind::RefusalDelta(delta), Kind::RefusalDone(whole)),
            Field::ReasoningText => (
                Kind::ReasoningTextDelta(delta),
                Kind::ReasoningTextDone(whole),
            ),
            Field::ReasoningSummary => (
                Kind::ReasoningSummaryTextDelta(delta),
                Kind::ReasoningSummaryTextDone(whole),
            ),
            Field::Arguments | Field::Input => return,
        };
        if !whole_is_empty {
            events.push(delta);
        }
        for annotation in self.annotations(index, part) {
            events.push(Kind::OutputTextAnnotationAdded(annotation));
        }
        events.push(done);
    }

    fn annotations(&self, content_index: u32, part: &RawObject<'_>) -> Vec<Annotation> {
        let annotations = part.get("annotations").unwrap_or("[]");
        let annotations: Vec<&RawValue> = serde_json::from_str(annotations).unwrap_or_default();
        let annotation = |(annotation_index, annotation): (u32, &RawValue)| Annotation {
            item_id: self.id.clone(),
            output_index: self.output_index,
            content_index,
            annotation_index,
            annotation: bytes(annotation.get()),
        };
        (0..).zip(annotations).map(annotation).collect()
    }

    fn is_empty(&self, member: &str) -> bool {
        self.members.get(member).is_none_or(|text| text == EMPTY)
    }
}

/// How a member looks when its item begins.
enum Begins {
    AsItIs,
    As(&'static str),
    Absent,
}

/// The two ends of a part.
#[derive(Clone, Copy)]
enum Edge {
    Added,
    Done,
}

/// An empty string as JSON.
const EMPTY: &str = r#""""#;

/// A member that is a string; empty if it is none.
fn string(object: &RawObject<'_>, name: &str) -> String {
    let text = object.get(name).unwrap_or(EMPTY);
    serde_json::from_str(text).unwrap_or_default()
}
