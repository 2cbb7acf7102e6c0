//! One item.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::super::wire::Event;
use super::part::{Part, Place};
use super::{INPUTS, check_absent_or_set, check_id};

/// An item that was added, with what came for it since.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    added: Value,
    done: Option<Value>,
    content: Vec<Part>,
    summary: Vec<Part>,
    /// The field that streams, such as `arguments`.
    input: String,
    input_is_done: bool,
    last_progress: Option<String>,
}

impl Item {
    /// Takes an item as it is added: typed, named, and with nothing in it.
    pub(super) fn open(item: &Value) -> anyhow::Result<Self> {
        let item_type = item["type"].as_str().context("the item has no type")?;
        check_id(&item["id"]).context("the item's id")?;
        check_never_null(item)?;
        let begins_with = |field: &str, empty: Value| {
            ensure!(
                item.get(field) == Some(&empty),
                "the item's {field} does not begin as {empty} but {}",
                item[field]
            );
            Ok(())
        };
        match item_type {
            "message" => {
                begins_with("content", json!([]))?;
                begins_with("status", json!("in_progress"))?;
                begins_with("role", json!("assistant"))?;
            }
            "reasoning" => {
                begins_with("summary", json!([]))?;
                if item.get("content").is_some() {
                    begins_with("content", json!([]))?;
                }
            }
            "mcp_list_tools" => begins_with("tools", json!([]))?,
            "function_call_output" => {
                begins_with("status", json!("in_progress"))?;
                check_output(item)?;
            }
            _ => {}
        }
        if let Some(field) = input_field(item_type)
            && item_type != "code_interpreter_call"
        {
            begins_with(field, json!(""))?;
            begins_with("status", json!("in_progress"))?;
            let has_name = item["name"].as_str().is_some_and(|name| !name.is_empty());
            ensure!(has_name, "the call has no name");
        }
        let is_for_a_call = ["function_call", "custom_tool_call", "function_call_output"];
        if is_for_a_call.contains(&item_type) {
            check_id(&item["call_id"]).context("the item's call_id")?;
        }
        Ok(Self {
            id: item["id"].as_str().unwrap_or_default().to_owned(),
            added: item.clone(),
            done: None,
            content: Vec::new(),
            summary: Vec::new(),
            input: String::new(),
            input_is_done: false,
            last_progress: None,
        })
    }

    /// Takes the item as it is done: the same one, with what was streamed in it.
    pub(super) fn close(&mut self, item: &Value) -> anyhow::Result<()> {
        ensure!(self.done.is_none(), "the item was done before");
        check_never_null(item)?;
        for field in ["id", "type", "role", "call_id", "name", "server_label"] {
            ensure!(
                item.get(field) == self.added.get(field),
                "the item's {field} changed from {}",
                self.added[field]
            );
        }
        let parts = |parts: &[Part]| -> anyhow::Result<Value> {
            parts.iter().map(|part| part.closed().cloned()).collect()
        };
        let content = parts(&self.content)?;
        let summary = parts(&self.summary)?;
        match self.item_type() {
            "message" => ensure!(
                item["content"] == content,
                "the item's content is not what its parts ended as"
            ),
            "reasoning" => {
                ensure!(
                    item["summary"] == summary,
                    "the item's summary is not what its parts ended as"
                );
                ensure!(
                    item.get("content").unwrap_or(&json!([])) == &content,
                    "the item's content is not what its parts ended as"
                );
            }
            "function_call_output" => check_output(item)?,
            _ => {}
        }
        self.check_end(item)?;
        self.done = Some(item.clone());
        Ok(())
    }

    /// The call that it is, or answers.
    pub(super) fn call_id(&self, item_type: &str) -> Option<&str> {
        self.added["call_id"]
            .as_str()
            .filter(|_| self.item_type() == item_type)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.done.is_some()
    }

    pub(super) fn closed(&self) -> Option<&Value> {
        self.done.as_ref()
    }

    /// The text of a message; nothing for other items.
    pub(super) fn text(&self) -> String {
        let texts = self.content.iter().filter(|part| part.is_answer());
        texts.map(|part| part.text.as_str()).collect()
    }

    pub(super) fn open_part(&mut self, event: &Event, place: Place) -> anyhow::Result<()> {
        let index = event.index(place.index_field())?;
        let part = Part::open(&event.data["part"])?;
        let fits = place
            .part_kinds(self.item_type())
            .contains(&part.kind.as_str());
        ensure!(fits, "a {} does not hold a {}", self.item_type(), part.kind);
        let parts = self.parts(place);
        ensure!(
            index == parts.len(),
            "{} is {index}, but {} parts were added before",
            place.index_field(),
            parts.len()
        );
        if let Some(before) = parts.last() {
            before.closed()?;
        }
        parts.push(part);
        Ok(())
    }

    /// The part that an event is about.
    pub(super) fn part(&mut self, event: &Event, place: Place) -> anyhow::Result<&mut Part> {
        let index = event.index(place.index_field())?;
        self.parts(place)
            .get_mut(index)
            .with_context(|| format!("there is no part at {} {index}", place.index_field()))
    }

    /// Takes a delta or the end of the field that streams.
    pub(super) fn stream_input(
        &mut self,
        event: &Event,
        end: &str,
        item_type: &str,
        field: &str,
    ) -> anyhow::Result<()> {
        self.check_type(item_type)?;
        ensure!(!self.input_is_done, "the {field} are done already");
        if end == "delta" {
            self.input.push_str(event.string("delta")?);
            return Ok(());
        }
        ensure!(end == "done", "clients do not know this event");
        let whole = event.string(field)?;
        ensure!(
            whole == self.input,
            "{field} is not the deltas together: {whole:?} instead of {:?}",
            self.input
        );
        self.input_is_done = true;
        Ok(())
    }

    pub(super) fn progress(&mut self, item_type: &str, progress: &str) -> anyhow::Result<()> {
        self.check_type(item_type)?;
        self.last_progress = Some(progress.to_owned());
        Ok(())
    }

    fn check_end(&self, item: &Value) -> anyhow::Result<()> {
        let item_type = self.item_type();
        let status = item["status"].as_str();
        let statuses: &[&str] = match item_type {
            "mcp_call" => &["completed", "incomplete", "failed"],
            _ => &["completed", "incomplete"],
        };
        let needs_status = matches!(item_type, "message" | "function_call_output")
            || input_field(item_type).is_some();
        if needs_status || item.get("status").is_some() && is_plain(item_type) {
            ensure!(
                status.is_some_and(|status| statuses.contains(&status)),
                "the item is done with status {}",
                item["status"]
            );
        }
        if let Some(field) = input_field(item_type) {
            ensure!(self.input_is_done, "the {field} were never done");
            ensure!(
                item[field] == self.input.as_str(),
                "the item's {field} is not what was streamed"
            );
        }
        let progress = self.last_progress.as_deref();
        match (item_type, status) {
            ("mcp_call", Some("completed" | "failed")) => ensure!(
                progress == status,
                "the call is {status:?}, but its last event was {progress:?}"
            ),
            ("mcp_list_tools", _) => ensure!(
                matches!(progress, Some("completed" | "failed")),
                "the list is done, but its last event was {progress:?}"
            ),
            _ => {}
        }
        Ok(())
    }

    fn check_type(&self, item_type: &str) -> anyhow::Result<()> {
        ensure!(
            self.item_type() == item_type,
            "the item is a {}, not a {item_type}",
            self.item_type()
        );
        Ok(())
    }

    fn item_type(&self) -> &str {
        self.added["type"].as_str().unwrap_or_default()
    }

    fn parts(&mut self, place: Place) -> &mut Vec<Part> {
        match place {
            Place::Content => &mut self.content,
            Place::Summary => &mut self.summary,
        }
    }
}

/// The field of an item of this type that streams.
fn input_field(item_type: &str) -> Option<&'static str> {
    let input = INPUTS
        .iter()
        .find(|(_, of_type, _)| *of_type == item_type)?;
    Some(input.2)
}

/// Items that end as completed or incomplete; server-side tools have ends of their own.
fn is_plain(item_type: &str) -> bool {
    [
        "message",
        "reasoning",
        "function_call_output",
        "custom_tool_call_output",
    ]
    .contains(&item_type)
}

/// The output of a call is a text or a list of parts.
fn check_output(item: &Value) -> anyhow::Result<()> {
    let output = &item["output"];
    ensure!(
        output.is_string() || output.is_array(),
        "the output is neither a text nor a list: {output}"
    );
    Ok(())
}

fn check_never_null(item: &Value) -> anyhow::Result<()> {
    let fields: &[&str] = match item["type"].as_str() {
        Some("message") => &["phase"],
        Some("reasoning") => &["encrypted_content", "content", "status"],
        Some("mcp_list_tools") => &["error"],
        _ => &[],
    };
    for field in fields {
        check_absent_or_set(item, field)?;
    }
    if item["type"] == "mcp_list_tools" {
        for tool in item["tools"].as_array().into_iter().flatten() {
            check_absent_or_set(tool, "description")?;
            check_absent_or_set(tool, "annotations")?;
        }
    }
    Ok(())
}
