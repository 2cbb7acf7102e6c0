//! The ends of items and parts.

use serde_json::Value;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{ContentPart, OutputItem, PartText, SummaryPart};

use super::shape::{merge, text};
use super::{Run, index_u32, json_array};
use crate::item::{PartKind, json_bytes};
use crate::marker::upstream_id;
use crate::model::{Field, Object};

impl Run {
    /// Writes the ends of an item's parts and of the item. `whole` is the upstream's item, where it sent one.
    pub(super) fn close_item(&mut self, index: usize, whole: Option<Object>, status: &str) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let (summary, content) = (item.summary.len(), item.content.len());
        let reasoning = item.item_type == "reasoning";
        let message = item.item_type == "message";
        let is_ours = item.marker.is_some();
        for part in 0..summary {
            self.close_part(index, Field::ReasoningSummary, part);
        }
        for part in 0..content {
            self.close_part(
                index,
                if reasoning {
                    Field::ReasoningText
                } else {
                    Field::Text
                },
                part,
            );
        }
        if !reasoning && !message {
            self.emit_item_text(index);
        }
        if is_ours {
            // The model is done with it, the server is not.
            if status == "incomplete" {
                self.leave_call_out(index);
            }
            return;
        }
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let upstream_id = match whole.as_ref().map(|whole| upstream_id(text(whole, "id"))) {
            Some(id) if !id.is_empty() => id,
            _ => item.upstream_id.clone(),
        };
        let base = match whole {
            // Ours are the identity and the texts that clients saw; the rest is the upstream's.
            Some(whole) => merge(item.added.clone(), whole),
            None => item.added.clone(),
        };
        let object = item.to_object(base, status);
        let done = OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(object)),
            upstream_id,
        };
        self.emit(Kind::OutputItemDone(done));
    }

    pub(super) fn close_part(&mut self, index: usize, field: Field, part: usize) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let Some(state) = item.parts(field).get(part) else {
            return;
        };
        if state.closed {
            return;
        }
        let (item_id, output_index, part_index) =
            (item.id.clone(), index_u32(index), index_u32(part));
        let json = json_bytes(&state.to_json());
        let whole = PartText {
            item_id: item_id.clone(),
            output_index,
            index: part_index,
            text: state.text.clone(),
            logprobs: json_array(&state.logprobs),
        };
        let text_done = match &state.kind {
            PartKind::OutputText => Some(Kind::OutputTextDone(whole)),
            PartKind::Refusal => Some(Kind::RefusalDone(whole)),
            PartKind::ReasoningText => Some(Kind::ReasoningTextDone(whole)),
            PartKind::SummaryText => Some(Kind::ReasoningSummaryTextDone(whole)),
            PartKind::Other(_) => None,
        };
        if let Some(text_done) = text_done {
            self.emit(text_done);
        }
        self.emit(if field == Field::ReasoningSummary {
            let summary_index = part_index;
            Kind::ReasoningSummaryPartDone(SummaryPart {
                item_id,
                output_index,
                summary_index,
                part: json,
            })
        } else {
            let content_index = part_index;
            Kind::ContentPartDone(ContentPart {
                item_id,
                output_index,
                content_index,
                part: json,
            })
        });
    }
}
