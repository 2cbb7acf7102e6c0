//! What a run does, in Hermes' words: one frame for an event of ours, or none.
//!
//! The bytes are a function of the log, so a frame is the same for every reader and at any time.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use talaria_domain::ids::ResponseId;
use talaria_domain::json::ObjectWriter;
use talaria_domain::run::Decision;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{self as pb, Event, Status};

use super::object::{CHOICES, error_text, output_text, seconds, usage_json};

/// The longest text that a frame shows of what the run thought, in characters.
const MAX_REASONING: usize = 500;
/// The longest text that a frame shows of what a tool is asked, in characters.
const MAX_PREVIEW: usize = 120;

/// Translates the events of one response, in their order.
#[derive(Debug)]
pub struct Translator {
    run_id: String,
    created_at_ms: i64,
    /// Names of the functions that the client runs itself: they are no tools of the run.
    client_functions: HashSet<String>,
    /// Calls that have begun, by the id of the item or of the call.
    calls: HashMap<String, Call>,
}

#[derive(Debug)]
struct Call {
    tool: String,
    at_ms: u64,
}

impl Translator {
    pub fn new(response: &pb::Response) -> Self {
        let run_id = ResponseId::parse(&response.id).map(ResponseId::run_id);
        Self {
            run_id: run_id.unwrap_or_else(|| response.id.clone()),
            created_at_ms: response.created_at.saturating_mul(1_000),
            client_functions: client_functions(&response.settings),
            calls: HashMap::new(),
        }
    }

    /// The frame of an event, for those that have one. Its id is the number of the event, from 1.
    pub fn frame(&mut self, event: &Event) -> Option<String> {
        let (name, members) = self.translate(event)?;
        let at_ms = i64::try_from(event.at_ms).unwrap_or_default();
        let mut data = ObjectWriter::new();
        data.string("event", name).string("run_id", &self.run_id);
        data.raw(
            "timestamp",
            &seconds(self.created_at_ms.saturating_add(at_ms)),
        );
        for (name, json) in members {
            data.raw(name, &json);
        }
        let id = event.sequence_number.saturating_add(1);
        Some(format!("id: {id}\ndata: {}\n\n", data.finish()))
    }

    fn translate(&mut self, event: &Event) -> Option<Named> {
        match event.kind.as_ref()? {
            Kind::OutputTextDelta(delta) | Kind::RefusalDelta(delta) => {
                Some(("message.delta", vec![("delta", text(&delta.delta))]))
            }
            Kind::ReasoningTextDelta(delta) | Kind::ReasoningSummaryTextDelta(delta) => {
                Some(("reasoning.delta", vec![("delta", text(&delta.delta))]))
            }
            Kind::OutputItemAdded(added) => {
                self.item_added(&serde_json::from_slice(&added.item).ok()?, event.at_ms)
            }
            Kind::McpCallArgumentsDone(done) => {
                let call = self.calls.get(&done.item_id)?;
                Some(started(&call.tool, preview_of(&done.text)))
            }
            Kind::ItemProgress(progress) => {
                self.runs_since(&progress.item_id, event.at_ms);
                None
            }
            Kind::OutputItemDone(done) => {
                let item = serde_json::from_slice(&done.item).ok()?;
                approval(&item, &done.upstream_id).or_else(|| self.item_done(&item, event.at_ms))
            }
            Kind::Completed(response) | Kind::Failed(response) | Kind::Incomplete(response) => {
                Some(end(response))
            }
            Kind::Created(_)
            | Kind::Queued(_)
            | Kind::InProgress(_)
            | Kind::ContentPartAdded(_)
            | Kind::ContentPartDone(_)
            | Kind::OutputTextDone(_)
            | Kind::OutputTextAnnotationAdded(_)
            | Kind::RefusalDone(_)
            | Kind::FunctionCallArgumentsDelta(_)
            | Kind::FunctionCallArgumentsDone(_)
            | Kind::CustomToolCallInputDelta(_)
            | Kind::CustomToolCallInputDone(_)
            | Kind::ReasoningSummaryPartAdded(_)
            | Kind::ReasoningSummaryPartDone(_)
            | Kind::ReasoningSummaryTextDone(_)
            | Kind::ReasoningTextDone(_)
            | Kind::McpCallArgumentsDelta(_) => None,
        }
    }

    fn item_added(&mut self, item: &Object, at_ms: u64) -> Option<Named> {
        let (item_type, id) = (member(item, "type"), member(item, "id"));
        let tool = match item_type {
            "mcp_call" => member(item, "name"),
            "function_call_output" => {
                self.runs_since(member(item, "call_id"), at_ms);
                return None;
            }
            _ => hosted_tool(item_type)?,
        };
        self.begin(id, tool, at_ms)?;
        // The call of an MCP tool is shown when its arguments are whole, which is when it runs.
        (item_type != "mcp_call").then(|| started(tool, hosted_preview(item)))
    }

    fn item_done(&mut self, item: &Object, at_ms: u64) -> Option<Named> {
        let whole = !matches!(member(item, "status"), "incomplete" | "failed");
        match member(item, "type") {
            "reasoning" => {
                let text_of = reasoning_text(item);
                (!text_of.is_empty())
                    .then(|| ("reasoning.available", vec![("text", text(&text_of))]))
            }
            "function_call" => {
                let name = member(item, "name");
                if !whole || self.client_functions.contains(name) {
                    return None;
                }
                self.begin(member(item, "call_id"), name, at_ms)?;
                Some(started(name, preview_of(member(item, "arguments"))))
            }
            "function_call_output" => {
                let call = self.calls.remove(member(item, "call_id"))?;
                Some(completed(&call, at_ms, !whole))
            }
            "mcp_call" => {
                let call = self.calls.remove(member(item, "id"))?;
                let failed = item.get("error").is_some_and(|error| !error.is_null());
                Some(completed(&call, at_ms, failed || !whole))
            }
            item_type => {
                hosted_tool(item_type)?;
                let call = self.calls.remove(member(item, "id"))?;
                Some(completed(&call, at_ms, !whole))
            }
        }
    }

    /// Notes that a call's tool is being run, for which it may have waited.
    fn runs_since(&mut self, id: &str, at_ms: u64) {
        if let Some(call) = self.calls.get_mut(id) {
            call.at_ms = at_ms;
        }
    }

    /// Notes that a call began; none for tools that are nobody's business.
    fn begin(&mut self, id: &str, tool: &str, at_ms: u64) -> Option<()> {
        if tool.is_empty() || tool.starts_with('_') {
            return None;
        }
        let tool = tool.to_owned();
        self.calls.insert(id.to_owned(), Call { tool, at_ms });
        Some(())
    }
}

type Object = Map<String, Value>;
/// The name of a run's event, and its members besides those that all have, as JSON.
type Named = (&'static str, Vec<(&'static str, String)>);

fn started(tool: &str, preview: Option<String>) -> Named {
    let preview = preview.map_or_else(|| "null".to_owned(), |preview| text(&preview));
    (
        "tool.started",
        vec![("tool", text(tool)), ("preview", preview)],
    )
}

fn completed(call: &Call, at_ms: u64, failed: bool) -> Named {
    let took = i64::try_from(at_ms.saturating_sub(call.at_ms)).unwrap_or_default();
    let members = vec![
        ("tool", text(&call.tool)),
        ("duration", seconds(took)),
        ("error", failed.to_string()),
    ];
    ("tool.completed", members)
}

/// A question to a person, or an answer.
fn approval(item: &Object, upstream_id: &str) -> Option<Named> {
    if let Some(Decision {
        request_id,
        choice,
        decided_by,
        ..
    }) = Decision::of_item(item, upstream_id)
    {
        let members = vec![
            ("choice", text(choice.as_str())),
            ("resolved", "1".to_owned()),
            ("request_id", text(&request_id)),
            ("decided_by", text(&decided_by)),
        ];
        return Some(("approval.responded", members));
    }
    if member(item, "type") != "mcp_approval_request" {
        return None;
    }
    let arguments = member(item, "arguments");
    let preview = preview_of(arguments).map_or_else(|| "null".to_owned(), |preview| text(&preview));
    let members = vec![
        ("request_id", text(member(item, "id"))),
        ("tool", text(member(item, "name"))),
        ("server_label", text(member(item, "server_label"))),
        ("arguments", text(arguments)),
        ("preview", preview),
        ("choices", CHOICES.to_owned()),
    ];
    Some(("approval.request", members))
}

fn end(response: &pb::Response) -> Named {
    let output = ("output", text(&output_text(&response.output)));
    let usage = ("usage", usage_json(response.usage.as_ref()));
    match response.status() {
        Status::Cancelled => ("run.cancelled", Vec::new()),
        Status::Failed => ("run.failed", vec![("error", text(&error_text(response)))]),
        Status::Incomplete => {
            let error = ("error", text(&error_text(response)));
            let partial = ("partial", "true".to_owned());
            ("run.failed", vec![error, output, usage, partial])
        }
        Status::Completed | Status::InProgress | Status::Queued | Status::Unspecified => {
            ("run.completed", vec![output, usage])
        }
    }
}

/// The tool that items of this type are calls of, for tools that run where the model does.
fn hosted_tool(item_type: &str) -> Option<&'static str> {
    match item_type {
        "web_search_call" => Some("web_search"),
        "file_search_call" => Some("file_search"),
        "code_interpreter_call" => Some("code_interpreter"),
        "image_generation_call" => Some("image_generation"),
        _ => None,
    }
}

fn hosted_preview(item: &Object) -> Option<String> {
    let action = item.get("action").and_then(|action| action.get("query"));
    let query = item.get("queries").and_then(|queries| queries.get(0));
    [action, query, item.get("code")]
        .into_iter()
        .find_map(|text| text.and_then(Value::as_str))
        .filter(|text| !text.is_empty())
        .map(|text| shortened(text, MAX_PREVIEW))
}

/// What a call is about: the argument that says it, or else the first text among them.
fn preview_of(arguments: &str) -> Option<String> {
    const TELLING: [&str; 8] = [
        "command", "query", "path", "url", "pattern", "goal", "code", "prompt",
    ];
    let arguments: Object = serde_json::from_str(arguments).ok()?;
    let telling = TELLING
        .iter()
        .find_map(|name| arguments.get(*name).and_then(Value::as_str));
    let text = telling.or_else(|| arguments.values().find_map(Value::as_str))?;
    Some(shortened(text, MAX_PREVIEW))
}

/// The first so many characters, in one line.
fn shortened(text: &str, max: usize) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(max).map(line).collect()
}

fn reasoning_text(item: &Object) -> String {
    let texts = |name| {
        let parts = item
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let texts = parts.filter_map(|part| part.get("text").and_then(Value::as_str));
        texts.collect::<Vec<_>>().join("\n\n")
    };
    let summary = texts("summary");
    let text = if summary.is_empty() {
        texts("content")
    } else {
        summary
    };
    text.chars().take(MAX_REASONING).collect()
}

/// Names of the function tools that the request gave.
fn client_functions(settings: &[u8]) -> HashSet<String> {
    #[derive(serde::Deserialize)]
    struct Settings {
        #[serde(default)]
        tools: Vec<Object>,
    }
    let settings = serde_json::from_slice(settings).unwrap_or(Settings { tools: Vec::new() });
    let functions = settings
        .tools
        .iter()
        .filter(|tool| member(tool, "type") == "function");
    functions
        .map(|tool| member(tool, "name").to_owned())
        .collect()
}

fn member<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A text as JSON.
fn text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    talaria_domain::json::push_string(&mut json, text);
    json
}

#[cfg(test)]
mod tests;
