//! The shapes of items: what an upstream's object says, and how it is shown.

use serde_json::{Value, json};

use crate::ids::ItemPlace;
use crate::item::text_member;
use crate::model::{Field, Object};

pub(super) fn holds(item_type: &str, field: Field) -> bool {
    match field {
        Field::Text | Field::Refusal => item_type == "message",
        Field::ReasoningText | Field::ReasoningSummary => item_type == "reasoning",
        Field::Arguments => text_member(item_type) == Some("arguments"),
        Field::Input => text_member(item_type) == Some("input"),
    }
}

pub(super) fn item_type(item: &Object) -> Option<&str> {
    item.get("type").and_then(Value::as_str)
}

pub(super) fn text<'a>(item: &'a Object, name: &str) -> &'a str {
    item.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The item as `response.output_item.added` shows it: its identity, and nothing written yet.
pub(super) fn added_object(item: &Object, item_type: &str, place: ItemPlace) -> Object {
    let mut added = Object::new();
    added.insert("id".into(), place.id(item_type).into());
    added.insert("type".into(), item_type.into());
    match item_type {
        "message" => {
            added.insert("status".into(), "in_progress".into());
            added.insert("role".into(), "assistant".into());
            added.insert("content".into(), json!([]));
        }
        "reasoning" => {
            added.insert("summary".into(), json!([]));
        }
        "function_call" | "custom_tool_call" => {
            added.insert("status".into(), "in_progress".into());
            let call_id = match text(item, "call_id") {
                "" => format!("call_{}o{}", place.response.simple(), place.index),
                call_id => call_id.to_owned(),
            };
            added.insert("call_id".into(), call_id.into());
            added.insert("name".into(), text(item, "name").into());
            let member = text_member(item_type).unwrap_or("arguments");
            added.insert(member.into(), "".into());
        }
        "function_call_output" => {
            added.insert("status".into(), "in_progress".into());
        }
        _ => {
            if let Some(member) = text_member(item_type) {
                added.insert("status".into(), "in_progress".into());
                added.insert(member.into(), "".into());
            }
        }
    }
    for (name, value) in item {
        let written = (item_type == "message" && name == "phase" && value.is_string())
            || !matches!(item_type, "message" | "reasoning");
        // Nulls that clients' parsers refuse are left out; so are texts, which deltas bring.
        if written && !added.contains_key(name) && !value.is_null() {
            added.insert(name.clone(), value.clone());
        }
    }
    added
}

/// The upstream's whole item with the identity under which clients know it.
pub(super) fn merge(added: Object, whole: Object) -> Object {
    let keep = ["id", "type", "call_id", "name"];
    let mut object = added;
    for (name, value) in whole {
        let ours = keep.contains(&name.as_str()) && object.contains_key(&name);
        let refused_null = value.is_null()
            && (matches!(name.as_str(), "phase" | "encrypted_content")
                || item_type(&object) == Some("mcp_list_tools"));
        if !ours && !refused_null {
            object.insert(name, value);
        }
    }
    object
}
