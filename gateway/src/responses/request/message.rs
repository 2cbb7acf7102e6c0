//! Messages in the input, and their long form: with a type, a role and a list of content parts.

use serde_json::Value;
use talaria_domain::json::ObjectWriter;

use super::content::Side;
use crate::check::Node;
use crate::check::body::{compact, raw_members};
use crate::error::ApiError;

const ROLES: [&str; 4] = ["assistant", "system", "developer", "user"];
const STATUSES: [&str; 3] = ["in_progress", "completed", "incomplete"];

/// The user message whose text is the JSON string `text`.
pub fn of_user(text: &str) -> String {
    let content = format!("[{}]", Side::Input.text_part(text));
    let mut writer = ObjectWriter::new();
    writer
        .string("type", "message")
        .string("role", "user")
        .raw("content", &content);
    writer.finish()
}

/// Checks a message and gives its long form; one that has it already keeps its text.
pub fn read(node: &Node, json: &str) -> Result<String, ApiError> {
    let is_typed = node.optional("type").is_some();
    let role = match node.optional("role") {
        Some(role) => Some(role.one_of(&ROLES)?),
        // Hermes: a message without type and role is the user's.
        None if !is_typed => None,
        None => return Err(node.required("role")?.wrong_type("a string")),
    };
    node.check("id", |id| id.id("msg").map(drop))?;
    node.check("status", |status| status.one_of(&STATUSES).map(drop))?;
    node.check("phase", |phase| {
        phase.one_of(&["commentary", "final_answer"]).map(drop)
    })?;
    let side = if role == Some("assistant") {
        Side::Output
    } else {
        Side::Input
    };
    let content = node.required("content")?;
    let members = raw_members(json)?;
    let content_json = members.get("content").unwrap_or("null");
    let rewritten = side.read_content(&content, content_json)?;
    if is_typed && role.is_some() && rewritten.is_none() {
        return Ok(compact(json));
    }

    let mut writer = ObjectWriter::new();
    writer
        .string("type", "message")
        .string("role", role.unwrap_or("user"));
    for (name, value) in &members.0 {
        match (name.as_str(), &rewritten) {
            ("type" | "role", _) => {}
            ("content", Some(content)) => drop(writer.raw("content", content)),
            _ => drop(writer.raw(name, &compact(value.get()))),
        }
    }
    Ok(writer.finish())
}

/// Whether this is a message, or the string that stands for one, of nothing but blank text.
pub fn is_blank(item: &Value) -> bool {
    if item
        .get("type")
        .is_some_and(|kind| !kind.is_null() && kind != "message")
    {
        return false;
    }
    let blank = |text: &Value| text.as_str().is_some_and(|text| text.trim().is_empty());
    match item.get("content").unwrap_or(item) {
        Value::Array(parts) => parts
            .iter()
            .all(|part| blank(part) || part.get("text").is_some_and(blank)),
        content => blank(content),
    }
}
