//! The lists of tools that a context shows: what the servers named in requests had when they were asked.

use std::sync::LazyLock;

use serde::Deserialize;
use talaria_proto::v1::ContextItem;

use crate::json::Word;
use crate::model::Object;

/// A server's tools as an `mcp_list_tools` item shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolListing {
    pub server_label: String,
    /// The tools as the item shows them: `name`, `input_schema` and more.
    pub tools: Vec<Object>,
}

/// The lists among `items` that were read without an error.
pub fn tool_listings<'a>(items: impl IntoIterator<Item = &'a ContextItem>) -> Vec<ToolListing> {
    items.into_iter().filter_map(tool_listing).collect()
}

fn tool_listing(item: &ContextItem) -> Option<ToolListing> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(default, rename = "type", borrow)]
        item_type: std::borrow::Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct Listed {
        server_label: String,
        tools: Vec<Object>,
        #[serde(default)]
        error: Option<serde_json::Value>,
    }
    static LIST: LazyLock<Word> = LazyLock::new(|| Word::new("mcp_list_tools"));
    // Most items are none, and long: look before parsing all of it.
    if !LIST.may_be_in(&item.item) {
        return None;
    }
    let head: Head<'_> = serde_json::from_slice(&item.item).ok()?;
    if head.item_type != "mcp_list_tools" {
        return None;
    }
    let listed: Listed = serde_json::from_slice(&item.item).ok()?;
    listed.error.is_none().then_some(ToolListing {
        server_label: listed.server_label,
        tools: listed.tools,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_counts_if_it_was_read() {
        let item = |json: serde_json::Value| ContextItem {
            item: json.to_string().into(),
            upstream_id: String::new(),
        };
        let tool = json!({"name": "add", "input_schema": {"type": "object"}});
        let list = |label: &str, more: serde_json::Value| {
            let mut list = json!({"type": "mcp_list_tools", "id": "mcpl_1", "server_label": label, "tools": [tool]});
            if let (Some(list), serde_json::Value::Object(more)) = (list.as_object_mut(), more) {
                list.extend(more);
            }
            item(list)
        };
        let items = [
            item(json!({"role": "user", "content": "mcp_list_tools"})),
            list("a", json!({})),
            list("b", json!({"error": "it is gone"})),
            list("c", json!({"error": null})),
            item(json!({"type": "mcp_list_tools", "server_label": "d"})),
        ];

        let found = tool_listings(&items);

        let listing = |label: &str| ToolListing {
            server_label: label.to_owned(),
            tools: vec![tool.as_object().cloned().unwrap_or_default()],
        };
        assert_eq!(found, [listing("a"), listing("c")]);
    }
}
