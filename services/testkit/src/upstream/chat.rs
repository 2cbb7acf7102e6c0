//! Streams as the Chat Completions API sends them.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Script;

/// A stream of chat completion chunks; begins with the chunk that names the role.
#[derive(Debug, Clone)]
pub struct ChatStream {
    script: Script,
    id: String,
    pace: Duration,
    tool_calls: usize,
}

impl Default for ChatStream {
    fn default() -> Self {
        Self::new()
    }
}

impl ChatStream {
    /// A stream that has just begun.
    pub fn new() -> Self {
        let stream = Self {
            script: Script::sse(),
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            pace: Duration::ZERO,
            tool_calls: 0,
        };
        stream.delta(&json!({ "role": "assistant", "content": "" }))
    }

    /// Pauses for `pace` before every following delta.
    #[must_use]
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Text in these deltas.
    #[must_use]
    pub fn text(self, deltas: &[&str]) -> Self {
        self.strings("content", deltas)
    }

    /// `n` deltas `w0 `, `w1 ` … at the stream's pace.
    #[must_use]
    pub fn numbered_text(self, n: usize) -> Self {
        (0..n).fold(self, |stream, i| stream.text(&[&format!("w{i} ")]))
    }

    /// A refusal in these deltas.
    #[must_use]
    pub fn refusal(self, deltas: &[&str]) -> Self {
        self.strings("refusal", deltas)
    }

    /// Reasoning in these deltas, in the member that most compatible servers use.
    #[must_use]
    pub fn reasoning(self, deltas: &[&str]) -> Self {
        self.strings("reasoning_content", deltas)
    }

    /// A function call whose arguments come in these deltas.
    #[must_use]
    pub fn function_call(mut self, call_id: &str, name: &str, deltas: &[&str]) -> Self {
        let index = self.tool_calls;
        self.tool_calls += 1;
        let first = json!({
            "index": index, "id": call_id, "type": "function",
            "function": { "name": name, "arguments": "" },
        });
        let stream = self.delta(&json!({ "tool_calls": [first] }));
        deltas.iter().fold(stream, |stream, delta| {
            let call = json!({ "index": index, "function": { "arguments": delta } });
            stream.keep_pace().delta(&json!({ "tool_calls": [call] }))
        })
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

    /// Any bytes between the chunks, such as a comment.
    #[must_use]
    pub fn raw(mut self, bytes: &'static str) -> Self {
        self.script = self.script.raw(bytes);
        self
    }

    /// Ends with `finish_reason` (`stop`, `tool_calls`, `length`, `content_filter`), a usage chunk and `[DONE]`.
    pub fn finish(self, finish_reason: &str) -> Script {
        let usage = json!({ "prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11 });
        let mut last = self.chunk(&json!([]));
        last["usage"] = usage;
        self.finish_without_usage(finish_reason)
            .data(&last)
            .done_mark()
    }

    /// Ends with `finish_reason` alone: no usage, no `[DONE]`.
    pub fn finish_without_usage(self, finish_reason: &str) -> Script {
        let choices = json!([{ "index": 0, "delta": {}, "finish_reason": finish_reason }]);
        let chunk = self.chunk(&choices);
        self.script.data(&chunk)
    }

    /// Ends with an error in the stream.
    pub fn failed(self, code: &str, message: &str) -> Script {
        let error =
            json!({ "message": message, "type": "server_error", "param": null, "code": code });
        self.script.data(&json!({ "error": error }))
    }

    /// Breaks the connection here.
    pub fn cut(self) -> Script {
        self.script.cut()
    }

    /// Ends the body here, cleanly but without a finish reason.
    pub fn stop(self) -> Script {
        self.script
    }

    fn strings(self, field: &str, deltas: &[&str]) -> Self {
        deltas.iter().fold(self, |stream, delta| {
            stream.keep_pace().delta(&json!({ (field): delta }))
        })
    }

    fn keep_pace(mut self) -> Self {
        self.script = self.script.pause(self.pace);
        self
    }

    fn delta(mut self, delta: &Value) -> Self {
        let chunk = self.chunk(&json!([{ "index": 0, "delta": delta, "finish_reason": null }]));
        self.script = self.script.data(&chunk);
        self
    }

    fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": 1_741_476_542,
            "model": "scripted-model", "choices": choices,
        })
    }
}
