//! The messages of a chat, as the items that say the same.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::check::{MAX_TEXT, Node};
use crate::error::ApiError;
use crate::responses::request::content::{Side, check_output};

/// More messages than any context holds.
const MAX_MESSAGES: usize = 20_000;

/// Tool calls of one message at most.
const MAX_CALLS: usize = 1_000;

/// The longest id of a tool call: other servers' are long.
const MAX_CALL_ID: usize = 512;

const ROLES: [&str; 6] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
];

/// What a chat says, checked.
#[derive(Debug, Default)]
pub struct Messages {
    /// Of the system messages at the head, one a line.
    pub instructions: Option<String>,
    /// The text of the first user message.
    pub first_user_text: String,
    /// Whether the last message is a user's and says nothing.
    pub ends_blank: bool,
    items: Vec<Bytes>,
    /// How many items there are up to the assistant's last message.
    answered: usize,
    calls: MadeCalls,
}

/// The tool calls in the history.
#[derive(Debug, Default)]
struct MadeCalls {
    /// By id, whether the last of it is one of a custom tool.
    are_custom: HashMap<String, bool>,
    /// The id of each name's last call.
    last_of_name: HashMap<String, String>,
}

impl MadeCalls {
    fn push(&mut self, id: String, name: String, is_custom: bool) {
        self.are_custom.insert(id.clone(), is_custom);
        self.last_of_name.insert(name, id);
    }
}

impl Messages {
    /// Reads `messages`.
    pub fn read(root: &Node) -> Result<Self, ApiError> {
        let invalid =
            || ApiError::bad_request("Missing or invalid 'messages' field").with_param("messages");
        let list = root.optional("messages").ok_or_else(invalid)?;
        if list.value().as_array().is_none_or(Vec::is_empty) {
            return Err(invalid());
        }
        let mut messages = Self::default();
        let mut at_head = true;
        let mut has_user = false;
        for node in list.elements(MAX_MESSAGES)? {
            node.object()?;
            let role = node.required("role")?.one_of(&ROLES)?;
            messages.ends_blank = role == "user" && is_blank(&node);
            match role {
                "system" | "developer" if at_head => messages.push_instructions(&node)?,
                "system" | "developer" => messages.push_message(&node, role)?,
                "user" => {
                    if !std::mem::replace(&mut has_user, true) {
                        messages.first_user_text = plain_text(&node);
                    }
                    messages.push_message(&node, role)?;
                }
                "assistant" => messages.push_assistant(&node)?,
                "tool" => messages.push_output(&node)?,
                _ => messages.push_function_output(&node)?,
            }
            at_head &= matches!(role, "system" | "developer");
        }
        Ok(messages)
    }

    /// All items.
    pub fn all(&self) -> Vec<Bytes> {
        self.items.clone()
    }

    /// The items after the assistant's last message.
    pub fn since_last_answer(&self) -> Vec<Bytes> {
        self.items[self.answered..].to_vec()
    }

    fn push_instructions(&mut self, node: &Node) -> Result<(), ApiError> {
        read_content(node, Side::Input)?;
        let text = plain_text(node);
        let instructions = self.instructions.get_or_insert_default();
        if !instructions.is_empty() {
            instructions.push('\n');
        }
        instructions.push_str(&text);
        Ok(())
    }

    fn push_message(&mut self, node: &Node, role: &str) -> Result<(), ApiError> {
        let content = read_content(node, Side::Input)?;
        self.push(&json!({"type": "message", "role": role, "content": content}));
        Ok(())
    }

    fn push_assistant(&mut self, node: &Node) -> Result<(), ApiError> {
        let mut content = read_content(node, Side::Output)?;
        if let Some(refusal) = node.optional("refusal") {
            let refusal = refusal.text(MAX_TEXT)?;
            content.push(json!({"type": "refusal", "refusal": refusal}));
        }
        content.retain(says_something);
        if !content.is_empty() {
            self.push(&json!({"type": "message", "role": "assistant", "content": content}));
        }
        if let Some(calls) = node.optional("tool_calls") {
            for call in calls.elements(MAX_CALLS)? {
                self.push_call(&call)?;
            }
        }
        if let Some(call) = node.optional("function_call") {
            call.object()?;
            let id = format!("call_{}", self.items.len());
            self.push_function_call(&call, id)?;
        }
        self.answered = self.items.len();
        Ok(())
    }

    fn push_call(&mut self, node: &Node) -> Result<(), ApiError> {
        node.object()?;
        let id = node.required("id")?.identifier(MAX_CALL_ID)?.to_owned();
        let kind = match node.optional("type") {
            Some(kind) => kind.one_of(&["function", "custom"])?,
            None => "function",
        };
        let call = node.required(kind)?;
        call.object()?;
        if kind == "function" {
            return self.push_function_call(&call, id);
        }
        let name = call.required("name")?.identifier(128)?.to_owned();
        let input = call.required("input")?.text(MAX_TEXT)?;
        self.push(&json!({
            "type": "custom_tool_call", "call_id": id, "name": name, "input": input,
        }));
        self.calls.push(id, name, true);
        Ok(())
    }

    fn push_function_call(&mut self, call: &Node, id: String) -> Result<(), ApiError> {
        let name = call.required("name")?.identifier(128)?.to_owned();
        let arguments = match call.optional("arguments") {
            Some(arguments) => arguments.text(MAX_TEXT)?,
            None => "{}",
        };
        self.push(&json!({
            "type": "function_call", "call_id": id, "name": name, "arguments": arguments,
        }));
        self.calls.push(id, name, false);
        Ok(())
    }

    fn push_output(&mut self, node: &Node) -> Result<(), ApiError> {
        let id = node.required("tool_call_id")?.identifier(MAX_CALL_ID)?;
        let kind = match self.calls.are_custom.get(id) {
            Some(true) => "custom_tool_call_output",
            Some(false) | None => "function_call_output",
        };
        let output = read_output(node)?;
        self.push(&json!({"type": kind, "call_id": id, "output": output}));
        Ok(())
    }

    /// The deprecated answer to a `function_call`, which has no id: the last one of this name is meant.
    fn push_function_output(&mut self, node: &Node) -> Result<(), ApiError> {
        let name = node.required("name")?.identifier(128)?;
        let output = read_output(node)?;
        let Some(id) = self.calls.last_of_name.get(name) else {
            let message = "No function call of this name found before the message.";
            return Err(node.required("name")?.error("invalid_value", message));
        };
        let item = json!({"type": "function_call_output", "call_id": id, "output": output});
        self.push(&item);
        Ok(())
    }

    fn push(&mut self, item: &Value) {
        self.items.push(item.to_string().into());
    }
}

/// The content parts of a message in OpenAI's long form; none where there is no content.
fn read_content(node: &Node, side: Side) -> Result<Vec<Value>, ApiError> {
    let Some(content) = node.optional("content") else {
        return Ok(Vec::new());
    };
    let json = content.value().to_string();
    let long = side.read_content(&content, &json)?.unwrap_or(json);
    // What was checked a line before is a list.
    Ok(serde_json::from_str(&long).unwrap_or_default())
}

/// What a tool said: text as it is, parts in OpenAI's long form.
fn read_output(node: &Node) -> Result<Value, ApiError> {
    match node
        .optional("content")
        .map(|content| content.value().clone())
    {
        None => Ok("".into()),
        Some(Value::Array(_)) => {
            let parts = Value::Array(read_content(node, Side::Input)?);
            check_output(&node.member("content", &parts))?;
            Ok(parts)
        }
        Some(text) => {
            node.required("content")?.text(MAX_TEXT)?;
            Ok(text)
        }
    }
}

/// The text of a message, a line for each part.
fn plain_text(node: &Node) -> String {
    match node.optional("content").map(|content| content.value()) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts
                .iter()
                .filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str()));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Whether a message holds no text but blanks, and no image.
fn is_blank(node: &Node) -> bool {
    let has_image = node
        .optional("content")
        .and_then(|content| content.value().as_array())
        .is_some_and(|parts| {
            let is_image = |part: &Value| part.get("text").is_none() && part.is_object();
            parts.iter().any(is_image)
        });
    !has_image && plain_text(node).trim().is_empty()
}

/// An assistant's empty text stands for none: chat messages that only call tools have it.
fn says_something(part: &Value) -> bool {
    let text = part.get("text").or_else(|| part.get("refusal"));
    text.and_then(Value::as_str)
        .is_none_or(|text| !text.is_empty())
}
