//! Items as OpenAI's API lists them.

use std::collections::HashSet;

use bytes::Bytes;
use talaria_domain::json::{ObjectWriter, RawObject};
use talaria_proto::v1::ContextItem;

/// Types of items that have a status. Source: OpenAI's API reference.
const WITH_STATUS: [&str; 5] = [
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
];

/// Ids and JSON of the items, in the same order. An item that stands there twice, because a later turn referred to it,
/// is shown once; what has no id is no item and left out.
pub fn listed_items(items: &[ContextItem]) -> Vec<(String, Bytes)> {
    let mut seen = HashSet::new();
    items
        .iter()
        .filter_map(|item| {
            let members = RawObject::parse(&item.item).ok()?;
            let id: String = serde_json::from_str(members.get("id")?).ok()?;
            seen.insert(id.clone())
                .then(|| (id, with_status(item, &members)))
        })
        .collect()
}

/// The item with a status: what is kept without one came whole.
fn with_status(item: &ContextItem, members: &RawObject) -> Bytes {
    let item_type: Option<&str> = members
        .get("type")
        .and_then(|json| serde_json::from_str(json).ok());
    let has_status = item_type.is_some_and(|name| WITH_STATUS.contains(&name));
    if !has_status || members.get("status").is_some() {
        return item.item.clone();
    }
    let mut writer = ObjectWriter::new();
    for (name, value) in &members.0 {
        if name != "status" {
            writer.raw(name, value.get());
        }
    }
    writer.string("status", "completed");
    writer.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_shown_once_with_id_and_status() {
        let kept = [
            r#"{"id":"msg_1","type":"message","role":"user","content":[]}"#,
            r#"{"id":"msg_2","type":"message","status":"incomplete","role":"assistant","content":[]}"#,
            r#"{"id":"rs_1","type":"reasoning","summary":[]}"#,
            r#"{"id":"fc_1","type":"function_call","status":null,"name":"f"}"#,
            r#"{"id":"msg_1","type":"message","role":"user","content":[]}"#,
            r#"{"type":"message"}"#,
            "[]",
        ];
        let items = kept.map(|json| ContextItem {
            item: Bytes::from_static(json.as_bytes()),
            upstream_id: String::new(),
        });

        let shown: Vec<String> = listed_items(&items)
            .into_iter()
            .map(|(id, json)| format!("{id}: {}", String::from_utf8_lossy(&json)))
            .collect();

        insta::assert_snapshot!(shown.join("\n"), @r#"
        msg_1: {"id":"msg_1","type":"message","role":"user","content":[],"status":"completed"}
        msg_2: {"id":"msg_2","type":"message","status":"incomplete","role":"assistant","content":[]}
        rs_1: {"id":"rs_1","type":"reasoning","summary":[]}
        fc_1: {"id":"fc_1","type":"function_call","name":"f","status":"completed"}
        "#);
    }
}
