//! Streams as the Responses API sends them.

use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Script;

/// A stream of the Responses API, built from the inside out: first what is in it, then how it ends.
///
/// Begins with `response.created` and `response.in_progress`. Ids are new for every stream. `[DONE]` is not sent: the
/// original does not send it. Add it with [`Script::done_mark`].
#[derive(Debug, Clone)]
pub struct ResponsesStream {
    script: Script,
    id: String,
    pace: Duration,
    next_sequence_number: u64,
    output: Vec<Value>,
    open: Option<OpenPart>,
}

/// The message, summary or thought that is being streamed.
#[derive(Debug, Clone)]
struct OpenPart {
    kind: PartKind,
    item_id: String,
    text: String,
}

#[derive(Debug, Clone, Copy)]
enum PartKind {
    Text,
    Refusal,
    Reasoning,
    Summary,
}

impl Default for ResponsesStream {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponsesStream {
    /// A stream that has just begun.
    pub fn new() -> Self {
        let mut stream = Self::headless();
        let snapshot = response_object(&stream.id, "in_progress", &[]);
        stream.emit("response.created", json!({ "response": snapshot }));
        stream.emit("response.in_progress", json!({ "response": snapshot }));
        stream
    }

    /// “one two three four”, which stops after “two ” until `gate` is opened.
    pub fn held(gate: &str) -> Script {
        Self::new()
            .open_text()
            .deltas(&["one ", "two "])
            .gate(gate)
            .deltas(&["three ", "four"])
            .close()
            .completed()
    }

    /// A stream without its first two events, which some servers leave out.
    pub fn headless() -> Self {
        Self {
            script: Script::sse(),
            id: new_id("resp"),
            pace: Duration::ZERO,
            next_sequence_number: 0,
            output: Vec::new(),
            open: None,
        }
    }

    /// Pauses for `pace` before every following delta.
    #[must_use]
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// A message of these deltas.
    #[must_use]
    pub fn text(self, deltas: &[&str]) -> Self {
        self.open_text().deltas(deltas).close()
    }

    /// A message of `n` deltas `w0 `, `w1 ` … at the stream's pace.
    #[must_use]
    pub fn numbered_text(self, n: usize) -> Self {
        let words: Vec<String> = (0..n).map(|i| format!("w{i} ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.text(&words)
    }

    /// A refusal of these deltas.
    #[must_use]
    pub fn refusal(mut self, deltas: &[&str]) -> Self {
        self.begin(PartKind::Refusal);
        self.deltas(deltas).close()
    }

    /// A reasoning item with one summary part of these deltas.
    #[must_use]
    pub fn reasoning_summary(mut self, deltas: &[&str]) -> Self {
        self.begin(PartKind::Summary);
        self.deltas(deltas).close()
    }

    /// A reasoning item with its raw text, as open models send it.
    #[must_use]
    pub fn reasoning_text(mut self, deltas: &[&str]) -> Self {
        self.begin(PartKind::Reasoning);
        self.deltas(deltas).close()
    }

    /// A function call whose arguments come in these deltas.
    #[must_use]
    pub fn function_call(mut self, call_id: &str, name: &str, deltas: &[&str]) -> Self {
        let id = new_id("fc");
        let call = |status: &str, arguments: &str| {
            json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": arguments,
            })
        };
        let place = json!({ "item_id": id, "output_index": self.output.len() });
        self.item_added(&call("in_progress", ""));
        for delta in deltas {
            self.keep_pace();
            self.emit(
                "response.function_call_arguments.delta",
                with(&place, json!({ "delta": delta })),
            );
        }
        let arguments = deltas.concat();
        self.emit(
            "response.function_call_arguments.done",
            with(&place, json!({ "arguments": arguments })),
        );
        self.item_done(call("completed", &arguments));
        self
    }

    /// Begins an item of any kind; [`event`](Self::event)s of its own may follow.
    #[must_use]
    pub fn begin_item(mut self, item: &Value) -> Self {
        self.item_added(item);
        self
    }

    /// Ends the item that [`begin_item`](Self::begin_item) began.
    #[must_use]
    pub fn end_item(mut self, item: Value) -> Self {
        self.item_done(item);
        self
    }

    /// Begins a message and leaves it open for [`deltas`](Self::deltas), gates and cuts.
    #[must_use]
    pub fn open_text(mut self) -> Self {
        self.begin(PartKind::Text);
        self
    }

    /// Goes on with what is open.
    #[must_use]
    pub fn deltas(mut self, deltas: &[&str]) -> Self {
        for delta in deltas {
            self.keep_pace();
            self.delta(delta);
        }
        self
    }

    /// Finishes what is open.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.finish("completed");
        self
    }

    /// Waits for the test to open `gate`.
    #[must_use]
    pub fn gate(mut self, gate: &str) -> Self {
        self.script = self.script.gate(gate);
        self
    }

    /// Says nothing for `duration`.
    #[must_use]
    pub fn pause(mut self, duration: Duration) -> Self {
        self.script = self.script.pause(duration);
        self
    }

    /// Any bytes between the events, such as a comment.
    #[must_use]
    pub fn raw(mut self, bytes: &'static str) -> Self {
        self.script = self.script.raw(bytes);
        self
    }

    /// Any event; `type` and `sequence_number` are added to `fields`.
    #[must_use]
    pub fn event(mut self, event: &str, fields: Value) -> Self {
        self.emit(event, fields);
        self
    }

    /// Ends with `response.completed`.
    pub fn completed(self) -> Script {
        self.end("completed", |_| {})
    }

    /// Ends with `response.completed` whose `output` is empty, as some servers send it.
    pub fn completed_without_output(mut self) -> Script {
        self.output.clear();
        self.completed()
    }

    /// Ends with `response.incomplete`; what is open ends as incomplete before.
    pub fn incomplete(mut self, reason: &str) -> Script {
        if self.open.is_some() {
            self.finish("incomplete");
        }
        self.end("incomplete", |response| {
            response["incomplete_details"] = json!({ "reason": reason });
        })
    }

    /// Ends with `response.failed`.
    pub fn failed(self, code: &str, message: &str) -> Script {
        self.end("failed", |response| {
            response["error"] = json!({
                "code": code, "message": message, "type": "server_error", "param": null,
            });
        })
    }

    /// Breaks the connection here.
    pub fn cut(self) -> Script {
        self.script.cut()
    }

    /// Ends the body here, cleanly but without a last event.
    pub fn stop(self) -> Script {
        self.script
    }

    fn end(mut self, status: &str, change: impl FnOnce(&mut Value)) -> Script {
        let mut response = response_object(&self.id, status, &self.output);
        change(&mut response);
        self.emit(
            &format!("response.{status}"),
            json!({ "response": response }),
        );
        self.script
    }

    fn emit(&mut self, event: &str, fields: Value) {
        let mut data = Map::new();
        data.insert("type".into(), event.into());
        data.insert("sequence_number".into(), self.next_sequence_number.into());
        let data = with(&Value::Object(data), fields);
        self.next_sequence_number += 1;
        self.script = std::mem::replace(&mut self.script, Script::sse()).event(event, &data);
    }

    fn keep_pace(&mut self) {
        self.script = std::mem::replace(&mut self.script, Script::sse()).pause(self.pace);
    }

    fn item_added(&mut self, item: &Value) {
        let fields = json!({ "output_index": self.output.len(), "item": item });
        self.emit("response.output_item.added", fields);
    }

    fn item_done(&mut self, item: Value) {
        let fields = json!({ "output_index": self.output.len(), "item": item });
        self.emit("response.output_item.done", fields);
        self.output.push(item);
    }

    fn begin(&mut self, kind: PartKind) {
        let item_id = new_id(kind.id_prefix());
        self.item_added(&kind.item(&item_id, "in_progress", &[]));
        let fields = with(
            &self.place(kind, &item_id),
            json!({ "part": kind.part("") }),
        );
        self.emit(&format!("response.{}.added", kind.part_event()), fields);
        self.open = Some(OpenPart {
            kind,
            item_id,
            text: String::new(),
        });
    }

    fn delta(&mut self, delta: &str) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        open.text.push_str(delta);
        let fields = with(
            &self.place(open.kind, &open.item_id),
            json!({ "delta": delta }),
        );
        let fields = with(&fields, open.kind.extra());
        self.emit(
            &format!("response.{}.delta", open.kind.text_event()),
            fields,
        );
        self.open = Some(open);
    }

    fn finish(&mut self, status: &str) {
        let Some(OpenPart {
            kind,
            item_id,
            text,
        }) = self.open.take()
        else {
            return;
        };
        let place = self.place(kind, &item_id);
        let whole = with(
            &with(&place, json!({ (kind.text_field()): text })),
            kind.extra(),
        );
        self.emit(&format!("response.{}.done", kind.text_event()), whole);
        let part = kind.part(&text);
        self.emit(
            &format!("response.{}.done", kind.part_event()),
            with(&place, json!({ "part": part })),
        );
        self.item_done(kind.item(&item_id, status, &[part]));
    }

    fn place(&self, kind: PartKind, item_id: &str) -> Value {
        json!({ "item_id": item_id, "output_index": self.output.len(), (kind.index_field()): 0 })
    }
}

impl PartKind {
    fn id_prefix(self) -> &'static str {
        match self {
            Self::Text | Self::Refusal => "msg",
            Self::Reasoning | Self::Summary => "rs",
        }
    }

    fn item(self, id: &str, status: &str, parts: &[Value]) -> Value {
        match self {
            Self::Text | Self::Refusal => json!({
                "id": id, "type": "message", "status": status, "role": "assistant", "content": parts,
            }),
            Self::Reasoning => {
                json!({ "id": id, "type": "reasoning", "summary": [], "content": parts })
            }
            Self::Summary => json!({ "id": id, "type": "reasoning", "summary": parts }),
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Self::Text => {
                json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text })
            }
            Self::Refusal => json!({ "type": "refusal", "refusal": text }),
            Self::Reasoning => json!({ "type": "reasoning_text", "text": text }),
            Self::Summary => json!({ "type": "summary_text", "text": text }),
        }
    }

    fn part_event(self) -> &'static str {
        match self {
            Self::Text | Self::Refusal | Self::Reasoning => "content_part",
            Self::Summary => "reasoning_summary_part",
        }
    }

    fn text_event(self) -> &'static str {
        match self {
            Self::Text => "output_text",
            Self::Refusal => "refusal",
            Self::Reasoning => "reasoning_text",
            Self::Summary => "reasoning_summary_text",
        }
    }

    fn text_field(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::Text | Self::Reasoning | Self::Summary => "text",
        }
    }

    fn index_field(self) -> &'static str {
        match self {
            Self::Text | Self::Refusal | Self::Reasoning => "content_index",
            Self::Summary => "summary_index",
        }
    }

    /// What text events carry besides.
    fn extra(self) -> Value {
        match self {
            Self::Text => json!({ "logprobs": [] }),
            Self::Refusal | Self::Reasoning | Self::Summary => json!({}),
        }
    }
}

/// A response object with every member that clients look for, as it is at `status`.
///
/// Also the body of an answer that is not streamed: `Script::json(200, &response_object(…))`.
pub fn response_object(id: &str, status: &str, output: &[Value]) -> Value {
    let has_ended = matches!(status, "completed" | "incomplete");
    let usage = has_ended.then(|| {
        json!({
            "input_tokens": 8, "input_tokens_details": { "cached_tokens": 0, "cache_write_tokens": 0 },
            "output_tokens": 3, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 11,
        })
    });
    let completed_at = (status == "completed").then_some(1_741_476_543);
    json!({
        "id": id, "object": "response", "created_at": 1_741_476_542, "status": status, "background": false,
        "completed_at": completed_at, "error": null, "frequency_penalty": 0.0, "incomplete_details": null,
        "instructions": null, "max_output_tokens": null, "max_tool_calls": null, "model": "scripted-model",
        "output": output, "parallel_tool_calls": true, "presence_penalty": 0.0, "previous_response_id": null,
        "prompt_cache_key": null, "reasoning": { "effort": null, "summary": null }, "safety_identifier": null,
        "service_tier": "default", "store": true, "temperature": 1.0, "text": { "format": { "type": "text" } },
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled",
        "usage": usage, "user": null, "metadata": {},
    })
}

fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::now_v7().simple())
}

/// The members of both objects.
fn with(fields: &Value, more: Value) -> Value {
    let mut all = fields.clone();
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}
