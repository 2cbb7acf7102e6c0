//! `hermes.tool.progress`: what the server's own tools are doing, beside the answer and never in it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::parts::text;

const PROGRESS: &str = "hermes.tool.progress";
const APPROVAL: &str = "hermes.approval.request";

/// The calls of server-run tools that a stream has shown.
///
/// Every start has exactly one end: calls that were never shown have none, and those that are still running when the
/// answer ends are ended then.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    started: HashSet<String>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    call_id: String,
    tool: String,
}

impl Progress {
    /// Shows nothing at all unless `is_shown`.
    pub fn new(is_shown: bool) -> Self {
        Self {
            is_shown,
            started: HashSet::new(),
            running: Vec::new(),
        }
    }

    /// Shows that a call begins, once.
    pub fn start(&mut self, frames: &mut String, call_id: &str, tool: &str, arguments: &str) {
        let is_hidden = !self.is_shown || call_id.is_empty() || tool.starts_with('_');
        if is_hidden || !self.started.insert(call_id.to_owned()) {
            return;
        }
        self.running.push(Running {
            call_id: call_id.to_owned(),
            tool: tool.to_owned(),
        });
        let label = label(tool, arguments);
        push_frame(
            frames,
            PROGRESS,
            &json!({
                "tool": tool, "emoji": emoji(tool), "label": label, "toolCallId": call_id,
                "status": "running",
            }),
        );
    }

    /// Shows that a call has ended, if its beginning was shown.
    pub fn end(&mut self, frames: &mut String, call_id: &str) {
        let Some(at) = self.running.iter().position(|it| it.call_id == call_id) else {
            return;
        };
        let Running { call_id, tool } = self.running.remove(at);
        push_frame(
            frames,
            PROGRESS,
            &json!({"tool": tool, "toolCallId": call_id, "status": "completed"}),
        );
    }

    /// Shows that a call waits for a person, who decides with `POST /v1/runs/{run_id}/approval`.
    pub fn ask(&self, frames: &mut String, run_id: &str, request: &Value) {
        let tool = text(request, "name");
        if !self.is_shown {
            return;
        }
        let arguments = text(request, "arguments");
        push_frame(
            frames,
            APPROVAL,
            &json!({
                "run_id": run_id, "request_id": text(request, "id"), "tool": tool, "emoji": emoji(tool),
                "label": label(tool, arguments), "arguments": arguments,
                "choices": ["once", "session", "always", "deny"],
            }),
        );
    }

    /// Ends what is still running.
    pub fn end_all(&mut self, frames: &mut String) {
        while let Some(first) = self.running.first() {
            let call_id = first.call_id.clone();
            self.end(frames, &call_id);
        }
    }
}

/// A tool call that one item holds from beginning to end, run by the server or the upstream: id, tool and arguments.
pub fn hosted_call(item: &Value) -> Option<(&str, &str, &str)> {
    let (tool, arguments) = match text(item, "type") {
        "mcp_call" => (text(item, "name"), text(item, "arguments")),
        "web_search_call" => ("web_search", ""),
        "file_search_call" => ("file_search", ""),
        "code_interpreter_call" => ("code_interpreter", ""),
        "image_generation_call" => ("image_generation", ""),
        _ => return None,
    };
    Some((text(item, "id"), tool, arguments))
}

fn push_frame(frames: &mut String, name: &str, data: &Value) {
    frames.push_str("event: ");
    frames.push_str(name);
    frames.push_str("\ndata: ");
    frames.push_str(&data.to_string());
    frames.push_str("\n\n");
}

/// What a call is mostly about, in the order in which it is looked for.
const PRIMARY: [&str; 13] = [
    "command",
    "query",
    "path",
    "file_path",
    "url",
    "pattern",
    "goal",
    "code",
    "prompt",
    "name",
    "task",
    "text",
    "question",
];

/// The longest label, in characters.
const MAX_LABEL: usize = 80;

/// A short preview of a call's primary argument, or else the tool's name.
fn label(tool: &str, arguments: &str) -> String {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let preview = PRIMARY
        .iter()
        .map(|name| {
            text(&arguments, name)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .find(|preview| !preview.is_empty())
        .unwrap_or_else(|| tool.to_owned());
    if preview.chars().nth(MAX_LABEL).is_none() {
        return preview;
    }
    preview.chars().take(MAX_LABEL - 1).chain(['…']).collect()
}

/// Pictures of kinds of tools, by how their names begin. Source: the Hermes API server.
const EMOJIS: [(&str, &str); 26] = [
    ("terminal", "💻"),
    ("shell", "💻"),
    ("process", "💻"),
    ("web_search", "🔍"),
    ("read", "📖"),
    ("write", "✍️"),
    ("patch", "🔧"),
    ("apply_patch", "🔧"),
    ("search_files", "🔎"),
    ("file_search", "🔎"),
    ("browser", "🌐"),
    ("web", "🌐"),
    ("memory", "🧠"),
    ("cron", "⏰"),
    ("schedule", "⏰"),
    ("execute_code", "🐍"),
    ("code", "🐍"),
    ("python", "🐍"),
    ("delegate", "🔀"),
    ("todo", "📋"),
    ("skill", "📚"),
    ("tts", "🔊"),
    ("text_to_speech", "🔊"),
    ("speech", "🔊"),
    ("image", "🎨"),
    ("vision", "🎨"),
];

fn emoji(tool: &str) -> &'static str {
    let known = EMOJIS.iter().find(|(name, _)| tool.starts_with(name));
    known.map_or("⚡", |(_, emoji)| emoji)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REQ-67, REQ-68, REQ-69, REQ-70, REQ-74, REQ-106
    #[test]
    fn every_start_has_one_end_in_whatever_order_and_orphans_are_dropped() {
        let mut frames = String::new();
        let mut progress = Progress::new(true);
        progress.start(&mut frames, "a", "terminal", r#"{"command":"ls  -l"}"#);
        progress.start(&mut frames, "b", "web_search", r#"{"x":1,"query":"rain"}"#);
        progress.start(&mut frames, "a", "terminal", "{}");
        progress.start(&mut frames, "c", "_internal", "{}");
        progress.start(&mut frames, "", "nameless", "{}");
        progress.end(&mut frames, "c");
        progress.end(&mut frames, "never");
        progress.end(&mut frames, "b");
        progress.end(&mut frames, "b");
        progress.start(&mut frames, "d", "mine", "broken");
        progress.end_all(&mut frames);
        progress.end_all(&mut frames);

        insta::assert_snapshot!(frames, @r#"
        event: hermes.tool.progress
        data: {"tool":"terminal","emoji":"💻","label":"ls -l","toolCallId":"a","status":"running"}

        event: hermes.tool.progress
        data: {"tool":"web_search","emoji":"🔍","label":"rain","toolCallId":"b","status":"running"}

        event: hermes.tool.progress
        data: {"tool":"web_search","toolCallId":"b","status":"completed"}

        event: hermes.tool.progress
        data: {"tool":"mine","emoji":"⚡","label":"mine","toolCallId":"d","status":"running"}

        event: hermes.tool.progress
        data: {"tool":"terminal","toolCallId":"a","status":"completed"}

        event: hermes.tool.progress
        data: {"tool":"mine","toolCallId":"d","status":"completed"}
        "#);
    }

    #[test]
    fn a_stream_without_progress_shows_none() {
        let mut frames = String::new();
        let mut progress = Progress::new(false);
        progress.start(&mut frames, "a", "terminal", "{}");
        progress.end(&mut frames, "a");
        progress.end_all(&mut frames);

        assert_eq!(frames, "");
    }

    #[test]
    fn a_label_is_one_short_line() {
        let long = json!({"command": format!("echo\n{}", "x".repeat(100))}).to_string();

        assert_eq!(label("t", &long), format!("echo {}…", "x".repeat(74)));
        assert_eq!(label("t", r#"{"command":" ","path":"/a b"}"#), "/a b");
        assert_eq!(label("t", r#"{"command":7}"#), "t");
    }
}
