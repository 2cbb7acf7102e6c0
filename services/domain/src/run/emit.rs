//! The events of items and parts, one function each.

use bytes::Bytes;
use serde_json::Value;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{Annotation, ContentPart, ItemDelta, ItemText, PartDelta, SummaryPart};

use super::{Run, index_u32, json_array};
use crate::item::json_bytes;
use crate::model::Field;

impl Run {
    pub(super) fn emit_part_added(
        &mut self,
        index: usize,
        field: Field,
        item_id: String,
        part_index: u32,
        part: Bytes,
    ) {
        let output_index = index_u32(index);
        self.emit(if field == Field::ReasoningSummary {
            let summary_index = part_index;
            Kind::ReasoningSummaryPartAdded(SummaryPart {
                item_id,
                output_index,
                summary_index,
                part,
            })
        } else {
            let content_index = part_index;
            Kind::ContentPartAdded(ContentPart {
                item_id,
                output_index,
                content_index,
                part,
            })
        });
    }

    pub(super) fn emit_part_delta(
        &mut self,
        index: usize,
        field: Field,
        part_index: u32,
        delta: String,
        logprobs: &[Value],
    ) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let delta = PartDelta {
            item_id: item.id.clone(),
            output_index: index_u32(index),
            index: part_index,
            delta,
            logprobs: json_array(logprobs),
        };
        self.emit(match field {
            Field::Text => Kind::OutputTextDelta(delta),
            Field::Refusal => Kind::RefusalDelta(delta),
            Field::ReasoningText => Kind::ReasoningTextDelta(delta),
            Field::ReasoningSummary => Kind::ReasoningSummaryTextDelta(delta),
            Field::Arguments | Field::Input => return,
        });
    }

    pub(super) fn emit_item_delta(&mut self, index: usize, delta: String) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let delta = ItemDelta {
            item_id: item.id.clone(),
            output_index: index_u32(index),
            delta,
        };
        let kind = match item.item_type.as_str() {
            "function_call" => Kind::FunctionCallArgumentsDelta(delta),
            "custom_tool_call" => Kind::CustomToolCallInputDelta(delta),
            "mcp_call" => Kind::McpCallArgumentsDelta(delta),
            _ => return,
        };
        self.emit(kind);
    }

    pub(super) fn emit_item_text(&mut self, index: usize) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let (item_id, output_index) = (item.id.clone(), index_u32(index));
        let text = ItemText {
            item_id,
            output_index,
            text: item.text.clone(),
        };
        let kind = match item.item_type.as_str() {
            "function_call" => Kind::FunctionCallArgumentsDone(text),
            "custom_tool_call" => Kind::CustomToolCallInputDone(text),
            "mcp_call" => Kind::McpCallArgumentsDone(text),
            _ => return,
        };
        self.emit(kind);
    }

    pub(super) fn emit_annotation(&mut self, index: usize, part_index: u32, annotation: &Value) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let Some(part) = item.content.get(part_index as usize) else {
            return;
        };
        let annotation = Annotation {
            item_id: item.id.clone(),
            output_index: index_u32(index),
            content_index: part_index,
            annotation_index: index_u32(part.annotations.len()),
            annotation: json_bytes(annotation),
        };
        self.emit(Kind::OutputTextAnnotationAdded(annotation));
    }
}
