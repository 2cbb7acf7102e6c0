//! An item of the context as upstreams are shown it.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use talaria_proto::v1::ContextItem;

use crate::item::json_bytes;
use crate::json::Word;
use crate::marker::Marker;
use crate::model::{CallItem, Object};
use crate::run::call_id_of;

/// Appends the item, or the pair of items, that stands for `item`; nothing for a list of the tools of a server that the
/// upstream does not know.
pub(super) fn push_shown(item: &ContextItem, shown: &mut Vec<CallItem>) {
    // Most items have nothing to do with a server, and are long.
    static OF_SERVER: LazyLock<Word> = LazyLock::new(|| Word::new("mcp_"));
    let as_it_is = |upstream_id| CallItem {
        json: item.item.clone(),
        upstream_id,
    };
    if item.upstream_id.is_empty() && !OF_SERVER.may_be_in(&item.item) {
        shown.push(as_it_is(None));
        return;
    }
    let marker = Marker::parse(&item.upstream_id);
    let is_foreign = marker.is_none() && !item.upstream_id.is_empty();
    if is_foreign {
        shown.push(as_it_is(Some(item.upstream_id.clone())));
        return;
    }
    if is_of_type(&item.item, "mcp_list_tools") {
        return;
    }
    let Some([call, output]) = function_call(&item.item, marker.as_ref()) else {
        shown.push(as_it_is(None));
        return;
    };
    let id = marker.map(|marker| marker.upstream_id);
    shown.push(CallItem {
        json: call,
        upstream_id: id.filter(|id| !id.is_empty()),
    });
    shown.push(CallItem {
        json: output,
        upstream_id: None,
    });
}

/// Whether the item's type is `wanted`.
fn is_of_type(json: &[u8], wanted: &str) -> bool {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(rename = "type", borrow)]
        item_type: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice(json).is_ok_and(|head: Head<'_>| head.item_type == wanted)
}

/// An `mcp_call` as a function call and its output.
fn function_call(json: &Bytes, marker: Option<&Marker>) -> Option<[Bytes; 2]> {
    if !is_of_type(json, "mcp_call") {
        return None;
    }
    let item: Object = serde_json::from_slice(json).ok()?;
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    let call_id = match marker.map(|marker| marker.call_id.as_str()) {
        Some(call_id) if !call_id.is_empty() => call_id,
        _ => text("id"),
    };
    // A call that was asked about is known by its question.
    let asked_about = call_id_of(text("approval_request_id"));
    let call_id = asked_about.as_deref().unwrap_or(call_id);
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
