//! The items of a response as they are opened, filled and closed.

mod item;
mod part;

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::wire::Event;
use item::Item;
use part::Place;

/// Events that stream the text of a part: the event's middle, the part's type, the field with the whole text.
const TEXTS: [(&str, &str, &str); 4] = [
    ("output_text", "output_text", "text"),
    ("refusal", "refusal", "refusal"),
    ("reasoning_text", "reasoning_text", "text"),
    ("reasoning_summary_text", "summary_text", "text"),
];

/// Events that stream a field of the item itself: the event's middle, the item's type, the field.
const INPUTS: [(&str, &str, &str); 4] = [
    ("function_call_arguments", "function_call", "arguments"),
    ("custom_tool_call_input", "custom_tool_call", "input"),
    ("mcp_call_arguments", "mcp_call", "arguments"),
    (
        "code_interpreter_call_code",
        "code_interpreter_call",
        "code",
    ),
];

/// Items with events for how far they are, and the ends of these events.
const PROGRESSES: [(&str, &[&str]); 6] = [
    ("mcp_call", &["in_progress", "completed", "failed"]),
    ("mcp_list_tools", &["in_progress", "completed", "failed"]),
    (
        "web_search_call",
        &["in_progress", "searching", "completed"],
    ),
    (
        "file_search_call",
        &["in_progress", "searching", "completed"],
    ),
    (
        "code_interpreter_call",
        &["in_progress", "interpreting", "completed"],
    ),
    (
        "image_generation_call",
        &["in_progress", "generating", "completed", "partial_image"],
    ),
];

/// Events that exist and that nothing of ours depends on.
const OTHERS: [&str; 6] = [
    "shell_call_command.added",
    "shell_call_command.delta",
    "shell_call_command.done",
    "shell_call_output_content.delta",
    "shell_call_output_content.done",
    "compaction.compacting",
];

/// The items so far, by their output index.
#[derive(Debug, Default)]
pub(super) struct Items {
    items: Vec<Item>,
    ids: HashSet<String>,
}

impl Items {
    /// Takes an event that is about items; fails on one that clients do not know.
    pub(super) fn apply(&mut self, event: &Event) -> anyhow::Result<()> {
        let name = event
            .kind
            .strip_prefix("response.")
            .context("clients do not know this event")?;
        let (middle, end) = name.rsplit_once('.').unwrap_or((name, ""));
        match name {
            "output_item.added" => return self.open(event),
            "output_item.done" => return self.close(event),
            "output_text.annotation.added" => {
                let annotation = &event.data["annotation"];
                ensure!(annotation.is_object(), "annotation is not an object");
                let index = event.index("annotation_index")?;
                let part = self.item(event)?.part(event, Place::Content)?;
                return part.annotate(index, annotation.clone());
            }
            "content_part.added" => return self.item(event)?.open_part(event, Place::Content),
            "content_part.done" => {
                let part = self.item(event)?.part(event, Place::Content)?;
                return part.close(&event.data["part"]);
            }
            "reasoning_summary_part.added" => {
                return self.item(event)?.open_part(event, Place::Summary);
            }
            "reasoning_summary_part.done" => {
                let part = self.item(event)?.part(event, Place::Summary)?;
                return part.close(&event.data["part"]);
            }
            _ => {}
        }
        if let Some((_, part_type, field)) = TEXTS.iter().find(|(text, ..)| *text == middle) {
            let part = self.item(event)?.part(event, Place::of_part(part_type))?;
            return part.stream(event, end, part_type, field);
        }
        if let Some((_, item_type, field)) = INPUTS.iter().find(|(input, ..)| *input == middle) {
            return self.item(event)?.stream_input(event, end, item_type, field);
        }
        let progress = PROGRESSES
            .iter()
            .find(|(item_type, _)| *item_type == middle);
        if let Some((item_type, ends)) = progress {
            ensure!(ends.contains(&end), "clients do not know this event");
            return self.item(event)?.progress(item_type, end);
        }
        ensure!(OTHERS.contains(&name), "clients do not know this event");
        Ok(())
    }

    /// The terminal response shows exactly the finished items, and nothing is left open.
    pub(super) fn check_output(&self, output: &Value) -> anyhow::Result<()> {
        for item in &self.items {
            ensure!(item.is_closed(), "item {} was never done", item.id);
        }
        ensure!(
            *output == Value::Array(self.finished()),
            "response.output is not what the items ended as"
        );
        Ok(())
    }

    /// A failed or cancelled response shows none of its items, or the finished ones as they ended, or with them
    /// those that were cut off, as far as they came, under their ids.
    pub(super) fn check_output_of_failure(&self, output: &Value) -> anyhow::Result<()> {
        let shown = output.as_array().map_or(&[][..], Vec::as_slice);
        let fits = |(item, shown): (&Item, &Value)| match item.closed() {
            Some(closed) => closed == shown,
            None => shown["id"] == item.id.as_str() && shown["status"] != "completed",
        };
        ensure!(
            shown.is_empty()
                || shown == self.finished()
                || (shown.len() == self.items.len() && self.items.iter().zip(shown).all(fits)),
            "response.output is neither empty nor what the items ended as"
        );
        Ok(())
    }

    pub(super) fn finished(&self) -> Vec<Value> {
        self.items
            .iter()
            .filter_map(Item::closed)
            .cloned()
            .collect()
    }

    /// The text of all messages.
    pub(super) fn text(&self) -> String {
        self.items.iter().map(Item::text).collect()
    }

    fn open(&mut self, event: &Event) -> anyhow::Result<()> {
        let index = event.index("output_index")?;
        ensure!(
            index == self.items.len(),
            "output_index is {index}, but {} items were added before",
            self.items.len()
        );
        let item = Item::open(&event.data["item"])?;
        ensure!(
            self.ids.insert(item.id.clone()),
            "item id {} is used twice",
            item.id
        );
        if let Some(call_id) = item.call_id("function_call_output") {
            self.check_answers(call_id)?;
        }
        self.items.push(item);
        Ok(())
    }

    /// An output answers a whole call before it, to which there was none.
    fn check_answers(&self, call_id: &str) -> anyhow::Result<()> {
        let of_type = |item_type| {
            let with_id = move |item: &&Item| item.call_id(item_type) == Some(call_id);
            self.items.iter().filter(with_id)
        };
        let calls = of_type("function_call").filter(|call| call.is_closed());
        ensure!(
            calls.count() > of_type("function_call_output").count(),
            "no call {call_id} waits for an output"
        );
        Ok(())
    }

    fn close(&mut self, event: &Event) -> anyhow::Result<()> {
        let index = event.index("output_index")?;
        match self.items.get_mut(index) {
            Some(item) => item.close(&event.data["item"]),
            None => bail!("there is no item at output_index {index}"),
        }
    }

    /// The open item that an event is about.
    fn item(&mut self, event: &Event) -> anyhow::Result<&mut Item> {
        let index = event.index("output_index")?;
        let item_id = event.string("item_id")?;
        let item = self
            .items
            .get_mut(index)
            .with_context(|| format!("there is no item at output_index {index}"))?;
        ensure!(
            item.id == item_id,
            "item_id is {item_id}, but the item at {index} is {}",
            item.id
        );
        ensure!(!item.is_closed(), "the item is done already");
        Ok(item)
    }
}

/// Ids are what every client accepts as an id: 1 to 64 letters, digits, `_` and `-`.
pub(super) fn check_id(id: &Value) -> anyhow::Result<()> {
    let is_id_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_id = |id: &str| !id.is_empty() && id.len() <= 64 && id.chars().all(is_id_character);
    ensure!(id.as_str().is_some_and(is_id), "{id} is not an id");
    Ok(())
}

/// Some members break clients when they are null, and must be left out instead.
pub(super) fn check_absent_or_set(object: &Value, field: &str) -> anyhow::Result<()> {
    ensure!(
        object.get(field) != Some(&Value::Null),
        "{field} is null instead of absent"
    );
    Ok(())
}
