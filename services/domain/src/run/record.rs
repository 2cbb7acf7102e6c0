//! What is recorded of each call that the server runs: that it begins, and what came of it.

use serde_json::{Value, json};
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{ItemProgress, OutputItem};

use super::approval::is_reserved;
use super::ledger::{MadeCall, Progress};
use super::shape::text;
use super::{Effect, Run, ToolCall, ToolPart, ToolResult, ToolShape, index_u32};
use crate::ids::{ItemPlace, Side};
use crate::item::{Item, OpenItem, json_bytes};
use crate::marker::{Marker, is_word};
use crate::model::Object;

const INTERRUPTED: &str = "The run ended before the tool did.";
const NOT_CALLED: &str = "The run ended before the tool was called.";
const OUTCOME_UNKNOWN: &str = "outcome unknown: the server that ran this tool stopped before its result was recorded; \
                               it may or may not have taken effect";

impl Run {
    /// Records that a call begins; it may begin once this is durable. For a repetition that is recorded already.
    pub fn tool_started(&mut self, call: &ToolCall) {
        if !call.repetition {
            self.record_start(call.output_index as usize, &call.call_id, call.effect);
        }
    }

    /// Records what came of a call; the model may see it once this is durable.
    pub fn tool_ended(&mut self, call: &ToolCall, result: ToolResult) {
        self.record_end(call.output_index as usize, &call.call_id, result);
    }

    /// Ends the calls that must not be repeated and may have taken effect.
    pub(super) fn give_up_interrupted(&mut self) {
        let calls = self.calls();
        let is_lost = |call: &&MadeCall| {
            let may_have_run = call.progress == Progress::Begun && call.arguments.is_some();
            may_have_run && !call.refused && call.effect == Some(Effect::Once)
        };
        for call in calls.iter().filter(is_lost) {
            let result = ToolResult::error(OUTCOME_UNKNOWN);
            self.record_end(call.index, &call.call_id, result);
        }
    }

    /// Closes all that is open: the run ends here.
    pub(super) fn close_all(&mut self) {
        self.seal();
        self.answer_calls();
        self.leave_calls_out();
    }

    /// Gives each call of ours the result that it will never have: no model takes calls without one, and whoever goes
    /// on from here has none to give.
    pub(super) fn answer_calls(&mut self) {
        self.give_up_interrupted();
        for call in self.calls() {
            let result = match (call.effect, call.progress) {
                (Some(_), Progress::Begun) if call.refused => ToolResult::error(NOT_CALLED),
                (Some(_), Progress::Begun) => ToolResult::error(INTERRUPTED),
                // As an `mcp_call` it can be left out.
                (Some(_), Progress::Made) if self.mcp_call_at(call.index).is_none() => {
                    self.record_start(call.index, &call.call_id, Effect::Pure);
                    ToolResult::error(NOT_CALLED)
                }
                (Some(_), Progress::Made | Progress::Answered) | (None, _) => continue,
            };
            self.record_end(call.index, &call.call_id, result);
        }
    }

    /// Closes the calls that the server will not run.
    pub(super) fn leave_calls_out(&mut self) {
        for index in 0..self.snapshot.items().len() {
            self.leave_call_out(index);
        }
    }

    /// Closes a call whose arguments ended, and which the server will not run.
    pub(super) fn leave_call_out(&mut self, index: usize) {
        let Some(item) = self
            .mcp_call_at(index)
            .filter(|item| !item.has_begun && !item.is_refused)
        else {
            return;
        };
        let object = item.to_object(item.added.clone(), "incomplete");
        let upstream_id = item.upstream_id.clone();
        self.emit(Kind::OutputItemDone(OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(object)),
            upstream_id,
        }));
    }

    /// A call of a tool of ours as an `mcp_call`, with its note, if that is how calls are shown.
    pub(super) fn mcp_call(
        &self,
        item: &Object,
        item_type: &str,
        upstream_id: &str,
        place: ItemPlace,
    ) -> Option<(Object, String)> {
        let name = text(item, "name");
        let is_ours = item_type == "function_call" && !self.client_tools.contains(name);
        let tool = self.server_tools.tools.get(name).filter(|_| is_ours)?;
        if tool.shape != ToolShape::McpCall {
            return None;
        }
        let call_id = match text(item, "call_id") {
            call_id if is_word(call_id) && !is_reserved(call_id) && !self.has_call(call_id) => {
                call_id.to_owned()
            }
            _ => own_call_id(place),
        };
        let marker = Marker {
            call_id,
            upstream_id: upstream_id.to_owned(),
            ..Marker::of(tool.effect)
        };
        let Value::Object(added) = json!({
            "id": place.id("mcp_call"),
            "type": "mcp_call",
            "status": "in_progress",
            "approval_request_id": null,
            "arguments": "",
            "error": null,
            "name": name,
            "output": null,
            "server_label": tool.server_label,
        }) else {
            return None;
        };
        Some((added, marker.encode()))
    }

    /// A call with an id that no other call of the run has: some upstreams number theirs anew in every step.
    pub(super) fn with_call_id_of_its_own(&self, mut added: Object, place: ItemPlace) -> Object {
        let is_call = matches!(text(&added, "type"), "function_call" | "custom_tool_call");
        let call_id = text(&added, "call_id");
        if is_call && (is_reserved(call_id) || self.has_call(call_id)) {
            added.insert("call_id".into(), own_call_id(place).into());
        }
        added
    }

    pub(super) fn record_start(&mut self, index: usize, call_id: &str, effect: Effect) {
        if self.mcp_call_at(index).is_some() {
            self.emit_mcp_progress(index, "in_progress");
            return;
        }
        self.open_output(call_id, &Marker::of(effect));
    }

    /// Opens the output of a function call, with its note.
    pub(super) fn open_output(&mut self, call_id: &str, marker: &Marker) {
        let output_index = self.snapshot.items().len();
        let place = ItemPlace {
            response: self.response,
            side: Side::Output,
            index: index_u32(output_index),
        };
        let output = if self.server_tools.streamed {
            json!([])
        } else {
            json!("")
        };
        let added = json!({
            "id": place.id("function_call_output"),
            "type": "function_call_output",
            "status": "in_progress",
            "call_id": call_id,
            "output": output,
        });
        self.emit(Kind::OutputItemAdded(OutputItem {
            output_index: index_u32(output_index),
            item: json_bytes(&added),
            upstream_id: marker.encode(),
        }));
    }

    pub(super) fn record_end(&mut self, index: usize, call_id: &str, result: ToolResult) {
        if self.mcp_call_at(index).is_some() {
            return self.mcp_call_ended(index, result);
        }
        let Some((index, item)) = self.output_of(call_id) else {
            return;
        };
        let mut object = item.added.clone();
        let in_parts = object.get("output").is_some_and(Value::is_array);
        object.insert("status".into(), "completed".into());
        object.insert("output".into(), output(result, in_parts));
        let upstream_id = self.recorded(item);
        self.emit(Kind::OutputItemDone(OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(object)),
            upstream_id,
        }));
    }

    pub(super) fn mcp_call_ended(&mut self, index: usize, result: ToolResult) {
        let status = if result.is_error {
            "failed"
        } else {
            "completed"
        };
        self.emit_mcp_progress(index, status);
        let Some(item) = self.mcp_call_at(index) else {
            return;
        };
        let mut object = item.to_object(item.added.clone(), status);
        let is_error = result.is_error;
        let text = plain_text(result);
        if is_error {
            let content = [json!({"type": "text", "text": text})];
            let error = json!({"type": "mcp_tool_execution_error", "content": content});
            object.insert("error".into(), error);
        } else {
            object.insert("output".into(), text.into());
        }
        let upstream_id = self.recorded(item);
        self.emit(Kind::OutputItemDone(OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(object)),
            upstream_id,
        }));
    }

    /// The item's note with the usage so far, from which a later attempt goes on.
    fn recorded(&self, item: &OpenItem) -> String {
        let Some(marker) = item.marker.clone() else {
            return item.upstream_id.clone();
        };
        // What never began was not run.
        let is_refused_call = item.item_type == "mcp_call" && !item.has_begun;
        Marker {
            usage: self.usage,
            refused: marker.refused || is_refused_call,
            ..*marker
        }
        .encode()
    }

    fn emit_mcp_progress(&mut self, index: usize, progress: &str) {
        let Some(item) = self.mcp_call_at(index) else {
            return;
        };
        let progress = ItemProgress {
            r#type: format!("response.mcp_call.{progress}"),
            item_id: item.id.clone(),
            output_index: index_u32(index),
            fields: bytes::Bytes::new(),
        };
        self.emit(Kind::ItemProgress(progress));
    }

    /// The `mcp_call` at `index`, if it waits for the server.
    pub(super) fn mcp_call_at(&self, index: usize) -> Option<&OpenItem> {
        match self.snapshot.items().get(index) {
            Some(Item::Open(item)) if item.item_type == "mcp_call" && item.waits_for_tool() => {
                Some(item)
            }
            Some(Item::Open(_) | Item::Done { .. }) | None => None,
        }
    }

    /// The open output of the call with this id.
    fn output_of(&self, call_id: &str) -> Option<(usize, &OpenItem)> {
        let mut items = self.snapshot.items().iter().enumerate().rev();
        items.find_map(|(index, item)| match item {
            Item::Open(item)
                if item.marker.is_some() && text(&item.added, "call_id") == call_id =>
            {
                Some((index, item))
            }
            Item::Open(_) | Item::Done { .. } => None,
        })
    }
}

pub(super) fn own_call_id(place: ItemPlace) -> String {
    format!("call_{}o{}", place.response.simple(), place.index)
}

/// A result as `output`. A string holds no images, so a result with one is a list in any case.
fn output(result: ToolResult, in_parts: bool) -> Value {
    let has_image = |part: &ToolPart| matches!(part, ToolPart::Image { .. });
    if !in_parts && !result.parts.iter().any(has_image) {
        return plain_text(result).into();
    }
    let part = |part: ToolPart| match part {
        ToolPart::Text(text) => json!({"type": "input_text", "text": text}),
        ToolPart::Image { data_url } => {
            json!({"type": "input_image", "image_url": data_url, "detail": "auto"})
        }
    };
    result.parts.into_iter().map(part).collect()
}

/// A result as one text.
fn plain_text(result: ToolResult) -> String {
    let part = |part: ToolPart| match part {
        ToolPart::Text(text) => text,
        ToolPart::Image { .. } => "[an image, which this item cannot hold]".to_owned(),
    };
    let texts: Vec<String> = result.parts.into_iter().map(part).collect();
    texts.join("\n")
}
