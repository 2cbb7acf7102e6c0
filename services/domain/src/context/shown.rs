//! An item of the context as upstreams are shown it.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use talaria_proto::v1::ContextItem;

use crate::item::json_bytes;
use crate::marker::Marker;
use crate::model::{CallItem, Object};

/// The item, or the pair of items, that stands for `item`.
pub(super) fn shown(item: &ContextItem) -> Vec<CallItem> {
    let marker = Marker::parse(&item.upstream_id);
    let is_foreign = marker.is_none() && !item.upstream_id.is_empty();
    if !is_foreign && let Some([call, output]) = function_call(&item.item, marker.as_ref()) {
        let id = marker.map(|marker| marker.upstream_id);
        return vec![
            CallItem {
                json: call,
                upstream_id: id.filter(|id| !id.is_empty()),
            },
            CallItem {
                json: output,
                upstream_id: None,
            },
        ];
    }
    vec![CallItem {
        json: item.item.clone(),
        upstream_id: is_foreign.then(|| item.upstream_id.clone()),
    }]
}

/// An `mcp_call` as a function call and its output.
fn function_call(json: &Bytes, marker: Option<&Marker>) -> Option<[Bytes; 2]> {
    #[derive(Deserialize)]
    struct Type<'a> {
        #[serde(rename = "type", borrow)]
        item_type: std::borrow::Cow<'a, str>,
    }
    // Most items are none, and long: look before parsing all of it.
    let head: Type<'_> = serde_json::from_slice(json).ok()?;
    if head.item_type != "mcp_call" {
        return None;
    }
    let item: Object = serde_json::from_slice(json).ok()?;
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    let call_id = match marker.map(|marker| marker.call_id.as_str()) {
        Some(call_id) if !call_id.is_empty() => call_id,
        _ => text("id"),
    };
    let call = json!({
        "type": "function_call",
        "call_id": call_id,
        "name": text("name"),
        "arguments": text("arguments"),
        "status": "completed",
    });
    let output = match item.get("error") {
        None | Some(Value::Null) => text("output").to_owned(),
        Some(error) => error_text(error),
    };
    let output = json!({"type": "function_call_output", "call_id": call_id, "output": output});
    Some([json_bytes(&call), json_bytes(&output)])
}

/// What an `mcp_call`'s error says.
fn error_text(error: &Value) -> String {
    let texts = match error {
        Value::String(text) => return text.clone(),
        error => error.get("content").and_then(Value::as_array),
    };
    let texts: Vec<&str> = texts
        .into_iter()
        .flatten()
        .filter_map(|part| part.get("text")?.as_str())
        .collect();
    if texts.is_empty() {
        return error.to_string();
    }
    texts.join("\n")
}
