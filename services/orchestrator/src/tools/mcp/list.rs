//! Reads the list of a server's tools: what of it is malformed hides only itself.

use rmcp::model::{
    ClientRequest, CustomResult, ListToolsRequest, PaginatedRequestParams, ServerResult, Tool,
};
use serde_json::Value;
use tracing::warn;

/// A page of the list.
#[derive(Debug)]
pub(super) struct Page {
    pub tools: Vec<Tool>,
    pub next_cursor: Option<String>,
}

/// The request for the page at `cursor`.
pub(super) fn request(cursor: Option<String>) -> ClientRequest {
    let params = PaginatedRequestParams::default().with_cursor(cursor);
    ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params))
}

/// The page in an answer; none if it is an answer to something else.
pub(super) fn page(answer: ServerResult) -> Option<Page> {
    match answer {
        ServerResult::ListToolsResult(list) => Some(Page {
            tools: list.tools,
            next_cursor: list.next_cursor,
        }),
        // One malformed tool makes of the list a result that rmcp does not know.
        ServerResult::CustomResult(CustomResult(mut result)) => {
            let Some(Value::Array(listed)) = result.get_mut("tools").map(Value::take) else {
                return None;
            };
            let all = listed.len();
            let tools: Vec<Tool> = listed.into_iter().filter_map(tool).collect();
            warn!(
                malformed = all - tools.len(),
                "tools of an MCP server are left out"
            );
            let next_cursor = result["nextCursor"].as_str().map(str::to_owned);
            Some(Page { tools, next_cursor })
        }
        _ => None,
    }
}

/// The tool, as far as it can be read: without a name or a schema it is none, and what else is wrong is left out.
fn tool(mut listed: Value) -> Option<Tool> {
    if let Ok(tool) = serde_json::from_value(listed.clone()) {
        return Some(tool);
    }
    listed
        .as_object_mut()?
        .retain(|name, _| ["name", "description", "inputSchema"].contains(&name.as_str()));
    if !listed["description"].is_string() {
        listed.as_object_mut()?.shift_remove("description");
    }
    serde_json::from_value(listed).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_malformed_tool_hides_only_itself() {
        let schema = json!({"type": "object"});
        let answer = json!({
            "tools": [
                {"name": "fine", "description": "Fine.", "inputSchema": schema, "annotations": {"readOnlyHint": true}},
                {"name": "no schema"},
                {"name": "null schema", "inputSchema": null},
                {"name": 7, "inputSchema": schema},
                "no tool",
                null,
                {"name": "odd extras", "description": 7, "inputSchema": schema, "annotations": "none", "icons": 1},
                {"name": "last", "inputSchema": schema},
            ],
            "nextCursor": "2",
        });

        let page = page(serde_json::from_value(answer).unwrap()).unwrap();

        let names: Vec<&str> = page.tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["fine", "odd extras", "last"]);
        assert!(page.tools[0].annotations.is_some());
        assert_eq!(page.next_cursor.as_deref(), Some("2"));
    }

    #[test]
    fn an_answer_to_something_else_is_no_page() {
        for answer in [
            json!({}),
            json!({"tools": {}}),
            json!({"content": []}),
            json!({"x": 1}),
        ] {
            let text = answer.to_string();
            assert!(
                page(serde_json::from_value(answer).unwrap()).is_none(),
                "{text}"
            );
        }
    }
}
