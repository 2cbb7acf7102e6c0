//! The items of one model call: opened on their first sign, filled in from whatever comes.

use bytes::Bytes;
use serde_json::{Value, json};
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{ItemProgress, OutputItem, Usage};

use super::shape::{added_object, holds, item_type, text};
use super::{Run, index_u32};
use crate::ids::{ItemPlace, Side};
use crate::item::{Item, OpenItem, Part, PartKind, json_bytes, text_member};
use crate::link::OpenKey;
use crate::marker::upstream_id;
use crate::model::{Field, ItemKey, ModelEvent, Object, Outcome};

impl Run {
    pub(super) fn item_added(&mut self, key: ItemKey, item: &Object) {
        if self.position(key).is_some() || item_type(item).is_none() {
            return;
        }
        if self.holds(item) {
            self.hold(key, item.clone());
        } else {
            self.open_item(key, item, true);
        }
    }

    pub(super) fn delta(
        &mut self,
        key: ItemKey,
        field: Field,
        part: u32,
        delta: String,
        logprobs: &[Value],
    ) {
        if field == Field::Arguments
            && let Some(call) = self.held(key)
        {
            return call.push(&delta);
        }
        let Some(at) = self.ensure_item(key, field) else {
            return;
        };
        if field == Field::Arguments || field == Field::Input {
            if !delta.is_empty() {
                self.emit_item_delta(self.open[at].index, delta);
            }
        } else if let Some(part_index) = self.ensure_part(at, field, part)
            && !delta.is_empty()
        {
            self.emit_part_delta(self.open[at].index, field, part_index, delta, logprobs);
        }
    }

    /// What the upstream repeats: shown as far as its deltas left it out.
    pub(super) fn text(&mut self, key: ItemKey, field: Field, part: u32, text: &str) {
        if field == Field::Arguments
            && let Some(call) = self.held(key)
        {
            return call.set(text);
        }
        let Some(at) = self.ensure_item(key, field) else {
            return;
        };
        if field == Field::Arguments || field == Field::Input {
            self.complete_call_text(self.open[at].index, text);
        } else if let Some(part_index) = self.ensure_part(at, field, part) {
            self.complete_part_text(self.open[at].index, field, part_index, text, &[]);
        }
    }

    pub(super) fn annotation(&mut self, key: ItemKey, part: u32, annotation: Object) {
        let Some(at) = self.ensure_item(key, Field::Text) else {
            return;
        };
        if let Some(part_index) = self.ensure_part(at, Field::Text, part) {
            self.emit_annotation(self.open[at].index, part_index, &Value::Object(annotation));
        }
    }

    pub(super) fn progress(&mut self, key: ItemKey, name: String, fields: &Object) {
        let Some(at) = self.position(key) else { return };
        let index = self.open[at].index;
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        // How far a call of ours is, only we know.
        if item.marker.is_some() {
            return;
        }
        let item_id = item.id.clone();
        let fields = if fields.is_empty() {
            Bytes::new()
        } else {
            json_bytes(&Value::Object(fields.clone()))
        };
        let output_index = index_u32(index);
        self.emit(Kind::ItemProgress(ItemProgress {
            r#type: name,
            item_id,
            output_index,
            fields,
        }));
    }

    pub(super) fn item_done(&mut self, key: ItemKey, item: Object) {
        if item_type(&item).is_none() {
            return;
        }
        let is_new = self.position(key).is_none();
        if self.held(key).is_some() || (is_new && self.holds(&item)) {
            return self.held_done(key, &item);
        }
        let at = match self.position(key) {
            Some(at) => at,
            None => self.open_item(key, &item, true),
        };
        self.complete_item(at, item);
    }

    pub(super) fn finished(&mut self, outcome: Outcome, usage: Option<Usage>, output: Vec<Object>) {
        let mut usage = usage;
        // What is asked of people is noted with what it cost, and not heard twice.
        if !self.can_end_again() {
            self.call = None;
            self.add_usage(usage.take());
        }
        if outcome == Outcome::Completed {
            self.held_all_done();
        }
        if !matches!(outcome, Outcome::Failed(_)) {
            self.back_fill(output);
            if !self.held.is_empty() {
                self.call = None;
                self.add_usage(usage.take());
            }
            if outcome == Outcome::Completed {
                self.held_all_done();
            }
            let incomplete = matches!(outcome, Outcome::Incomplete { .. });
            if incomplete {
                self.leave_calls_out();
            }
            let open = self.open_items();
            for index in open {
                self.close_item(
                    index,
                    None,
                    if incomplete {
                        "incomplete"
                    } else {
                        "completed"
                    },
                );
            }
        }
        self.open.clear();
        self.forget_unshown();
        // Only after that: whoever hears the end of the upstream's stream once more adds it then.
        self.call_ended();
        self.add_usage(usage);
        self.outcome = Some(outcome);
    }

    /// Shows what the final output holds and the stream did not.
    fn back_fill(&mut self, output: Vec<Object>) {
        let shown = self.snapshot.items().len() - self.call_start;
        // The place decides, as long as the types agree; an upstream that shows fewer items at the end than it
        // streamed has nothing to add.
        if output.len() < shown {
            return;
        }
        for (place, item) in output.into_iter().enumerate() {
            let index = self.call_start + place;
            match self.open.iter().position(|open| open.index == index) {
                Some(at) => {
                    let same_type = self
                        .open_item_at(index)
                        .is_some_and(|open| is_of_type(open, &item));
                    if same_type {
                        self.complete_item(at, item);
                    }
                }
                None if index == self.snapshot.items().len() + self.held.len() => {
                    self.on_model(ModelEvent::ItemDone {
                        key: ItemKey(FINAL | place as u64),
                        item,
                    });
                }
                None => {}
            }
        }
    }

    /// Notes that what the upstream calls `key` stands at `index`, whole.
    pub(super) fn note_shown(&mut self, key: ItemKey, index: usize) {
        self.open.push(OpenKey {
            key,
            index,
            announced: true,
            parts: Vec::new(),
        });
    }

    fn position(&self, key: ItemKey) -> Option<usize> {
        self.open.iter().rposition(|open| open.key == key)
    }

    /// The item at `index`, while the model writes it.
    pub(super) fn open_item_at(&self, index: usize) -> Option<&OpenItem> {
        match self.snapshot.items().get(index) {
            Some(Item::Open(item)) if !item.waits_for_tool() => Some(item),
            Some(Item::Open(_) | Item::Done { .. }) | None => None,
        }
    }

    /// The entry of the open item under `key` that can hold texts of `field`; opens one where there is none.
    fn ensure_item(&mut self, key: ItemKey, field: Field) -> Option<usize> {
        let implied = match field {
            Field::Text | Field::Refusal => "message",
            Field::ReasoningText | Field::ReasoningSummary => "reasoning",
            // A call without a name is none.
            Field::Arguments | Field::Input => "",
        };
        if let Some(at) = self.position(key) {
            match self.open_item_at(self.open[at].index) {
                Some(item) if holds(&item.item_type, field) => return Some(at),
                Some(_) => return None,
                // Closed by ours: what comes late goes into an item of its own.
                None if self.open[at].announced => return None,
                None => {}
            }
        }
        if implied.is_empty() {
            return None;
        }
        let mut item = Object::new();
        item.insert("type".into(), implied.into());
        Some(self.open_item(key, &item, false))
    }

    /// Opens an item and returns the place of its entry.
    fn open_item(&mut self, key: ItemKey, item: &Object, announced: bool) -> usize {
        self.close_superseded();
        let index = self.snapshot.items().len();
        let item_type = item_type(item).unwrap_or("message");
        let place = ItemPlace {
            response: self.response,
            side: Side::Output,
            index: index_u32(index),
        };
        let upstream_id = upstream_id(text(item, "id"));
        let (added, upstream_id) = match self.mcp_call(item, item_type, &upstream_id, place) {
            Some(call) => call,
            None => (added_object(item, item_type, place), upstream_id),
        };
        let added = self.with_call_id_of_its_own(added, place);
        let added = OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(added)),
            upstream_id,
        };
        self.note_place(key.0, !announced);
        self.emit(Kind::OutputItemAdded(added));
        self.open.push(OpenKey {
            key,
            index,
            announced,
            parts: Vec::new(),
        });
        self.open.len() - 1
    }

    /// Closes what the next item's beginning shows to be over, when nobody will say so.
    ///
    /// Chat upstreams announce no ends: their reasoning ends where the text begins, a call where the next one does.
    fn close_superseded(&mut self) {
        let over: Vec<usize> = self
            .open
            .iter()
            .filter_map(|open| {
                let item = self.open_item_at(open.index)?;
                let whole_call = (item.item_type == "function_call" || item.marker.is_some())
                    && item.text.starts_with('{')
                    && serde_json::from_str::<serde::de::IgnoredAny>(&item.text).is_ok();
                (!open.announced || whole_call).then_some(open.index)
            })
            .collect();
        for index in over {
            self.close_item(index, None, "completed");
        }
    }

    /// The place of the part for `part` of `field`; opens it where there is none.
    fn ensure_part(&mut self, at: usize, field: Field, part: u32) -> Option<u32> {
        let index = self.open[at].index;
        let known = self.open[at]
            .parts
            .iter()
            .rev()
            .find(|(f, p, _)| (*f, *p) == (field, part));
        if let Some((.., part_index)) = known {
            let part_index = *part_index;
            let item = self.open_item_at(index)?;
            if !item.parts(field).get(part_index as usize)?.closed {
                return Some(part_index);
            }
        }
        let item = self.open_item_at(index)?;
        let item_id = item.id.clone();
        let parts = item.parts(field).len();
        let part_index = index_u32(parts);
        let kind = PartKind::of(field)?;
        if parts > 0 {
            self.close_part(index, field, parts - 1);
        }
        let json = json_bytes(&Part::new(kind).to_json());
        self.note_place(part.into(), false);
        self.emit_part_added(index, field, item_id, part_index, json);
        self.open[at].parts.push((field, part, part_index));
        Some(part_index)
    }

    /// Fills in what the whole item holds beyond what was shown, and closes it.
    fn complete_item(&mut self, at: usize, item: Object) {
        let index = self.open[at].index;
        let Some(open) = self.open_item_at(index) else {
            return;
        };
        if !is_of_type(open, &item) {
            return;
        }
        let open_type = open.item_type.clone();
        if let Some(member) = text_member(&open_type) {
            match item.get(member) {
                Some(Value::String(text)) => self.complete_call_text(index, text),
                Some(Value::Null) | None => {}
                // Some relays send the arguments as JSON, not as its text.
                Some(json) => self.complete_call_text(index, &json.to_string()),
            }
        }
        if open_type == "message" || open_type == "reasoning" {
            for (member, summary) in [("summary", true), ("content", false)] {
                let parts = match item.get(member) {
                    Some(Value::Array(parts)) => parts.clone(),
                    Some(Value::String(text)) if open_type == "message" => {
                        vec![json!({"type": "output_text", "text": text})]
                    }
                    _ => Vec::new(),
                };
                for (place, part) in parts.iter().enumerate() {
                    self.complete_part(at, summary, index_u32(place), part);
                }
            }
        }
        let status = match text(&item, "status") {
            "incomplete" => "incomplete",
            _ => "completed",
        };
        self.close_item(index, Some(item), status);
    }

    fn complete_part(&mut self, at: usize, summary: bool, place: u32, json: &Value) {
        let index = self.open[at].index;
        let Some(field) = Part::from_json(json).kind.field() else {
            self.pass_part(index, json);
            return;
        };
        if (field == Field::ReasoningSummary) != summary {
            return;
        }
        let Some(open) = self.open_item_at(index) else {
            return;
        };
        if !holds(&open.item_type, field) {
            return;
        }
        let mut known = self.open[at].parts.iter().rev();
        let is_over = match known.find(|(f, p, _)| (*f, *p) == (field, place)) {
            Some((.., shown)) => open
                .parts(field)
                .get(*shown as usize)
                .is_none_or(|p| p.closed),
            // Shown under another place; the order decides.
            None => (place as usize) < open.parts(field).len(),
        };
        if is_over {
            return;
        }
        let Some(part_index) = self.ensure_part(at, field, place) else {
            return;
        };
        let member = if field == Field::Refusal {
            "refusal"
        } else {
            "text"
        };
        let whole = json
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let logprobs = json
            .get("logprobs")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        self.complete_part_text(index, field, part_index, &whole, &logprobs);
        let shown = self
            .open_item_at(index)
            .and_then(|item| item.parts(field).get(part_index as usize))
            .map_or(0, |part| part.annotations.len());
        let annotations = json.get("annotations").and_then(Value::as_array);
        for annotation in annotations.into_iter().flatten().skip(shown) {
            self.emit_annotation(index, part_index, annotation);
        }
    }

    /// Shows a part of a kind that has no deltas.
    fn pass_part(&mut self, index: usize, json: &Value) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        if item.item_type != "message" {
            return;
        }
        let item_id = item.id.clone();
        let parts = item.content.len();
        if parts > 0 {
            self.close_part(index, Field::Text, parts - 1);
        }
        let part = json_bytes(json);
        self.emit_part_added(index, Field::Text, item_id, index_u32(parts), part);
        self.close_part(index, Field::Text, parts);
    }

    /// Shows what `whole` has beyond the text shown so far. What was shown stays, whatever the upstream says later.
    fn complete_part_text(
        &mut self,
        index: usize,
        field: Field,
        part_index: u32,
        whole: &str,
        logprobs: &[Value],
    ) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let Some(part) = item.parts(field).get(part_index as usize) else {
            return;
        };
        let Some(rest) = whole.strip_prefix(part.text.as_str()) else {
            return;
        };
        if !rest.is_empty() {
            let rest = rest.to_owned();
            let logprobs = if part.logprobs.is_empty() {
                logprobs
            } else {
                &[]
            };
            self.emit_part_delta(index, field, part_index, rest, logprobs);
        }
    }

    fn complete_call_text(&mut self, index: usize, whole: &str) {
        let Some(item) = self.open_item_at(index) else {
            return;
        };
        let Some(rest) = whole.strip_prefix(item.text.as_str()) else {
            return;
        };
        if !rest.is_empty() {
            let rest = rest.to_owned();
            self.emit_item_delta(index, rest);
        }
    }
}

/// Whether the upstream's `item` is what is shown as `open`.
fn is_of_type(open: &OpenItem, item: &Object) -> bool {
    let shown_as = match open.marker {
        // The upstream knows calls of ours as its functions.
        Some(_) => "function_call",
        None => open.item_type.as_str(),
    };
    item_type(item) == Some(shown_as)
}

/// Marks keys of items that only the final output named.
const FINAL: u64 = 1 << 63;
