//! The `input` of a request: one JSON object per item, in the spelling of the client.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::Value;

use super::{items, message};
use crate::check::body::{compact, raw_elements};
use crate::check::{MAX_TEXT, Node, quoted};
use crate::error::ApiError;

/// More items than any context holds; keeps short forms from growing without bound when they are rewritten.
pub const MAX_ITEMS: usize = 20_000;

/// The input items of a request, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Input {
    pub items: Vec<Bytes>,
    /// Whether nothing was said: no items, or messages of blank text only.
    pub is_blank: bool,
}

impl Input {
    /// Reads `input`, whose text is `json`: one user message, or a list of items.
    pub fn read(input: &Node, json: &str) -> Result<Self, ApiError> {
        match input.value() {
            Value::String(_) => read_text(input, json),
            Value::Array(_) => read_list(input, json),
            _ => Err(input.wrong_type("one of a string or an array of input items")),
        }
    }
}

fn read_text(input: &Node, json: &str) -> Result<Input, ApiError> {
    let is_blank = input.text(MAX_TEXT)?.trim().is_empty();
    let items = if is_blank {
        Vec::new()
    } else {
        vec![message::of_user(json).into()]
    };
    Ok(Input { items, is_blank })
}

fn read_list(input: &Node, json: &str) -> Result<Input, ApiError> {
    let nodes = input.elements(MAX_ITEMS)?;
    let texts = raw_elements(json)?;
    let mut items = Vec::with_capacity(texts.len());
    let mut ids = HashSet::new();
    let mut is_blank = true;
    for (node, text) in nodes.zip(texts) {
        items.push(read_item(&node, text.get())?.into());
        if let Some(id) = node.value().get("id").and_then(Value::as_str)
            && !ids.insert(id)
        {
            let message = format!(
                "Duplicate item found with id {}. Remove duplicate items from your input and try \
                 again.",
                quoted(id).trim_matches('\'')
            );
            return Err(ApiError::bad_request(message).with_param("input"));
        }
        is_blank &= message::is_blank(node.value());
    }
    Ok(Input { items, is_blank })
}

/// One item in the long form.
fn read_item(node: &Node, json: &str) -> Result<String, ApiError> {
    if node.value().is_string() {
        node.text(MAX_TEXT)?;
        return Ok(message::of_user(json));
    }
    let item = node.object()?;
    match node.optional("type") {
        Some(kind) => match kind.identifier(128)? {
            "message" => message::read(node, json),
            kind => {
                items::check(node, kind)?;
                Ok(compact(json))
            }
        },
        None if item.contains_key("role") || item.contains_key("content") => {
            message::read(node, json)
        }
        None if item.contains_key("id") => items::reference(node),
        None => Err(node.required("type")?.wrong_type("a string")),
    }
}
