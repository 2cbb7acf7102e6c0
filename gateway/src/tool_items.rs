//! `X-Talaria-Tool-Items`: as which items a response shows the calls of tools that the server runs.

use http::{HeaderMap, HeaderName};
use talaria_proto::v1::ToolItems;

use crate::error::ApiError;

const TOOL_ITEMS: HeaderName = HeaderName::from_static("x-talaria-tool-items");

/// Reads and checks the header. Without it, or with a blank one, the agent's configuration decides.
pub fn from_headers(headers: &HeaderMap) -> Result<ToolItems, ApiError> {
    let mut values = headers.get_all(TOOL_ITEMS).iter();
    let value = values.next().map_or(Ok(""), |value| value.to_str());
    match (value.map(str::trim), values.next()) {
        (Ok(""), None) => Ok(ToolItems::Unspecified),
        (Ok("function_call"), None) => Ok(ToolItems::FunctionCall),
        (Ok("mcp_call"), None) => Ok(ToolItems::McpCall),
        _ => {
            let message = "X-Talaria-Tool-Items must be 'function_call' or 'mcp_call'.";
            Err(ApiError::invalid("invalid_value", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_header_names_one_of_two_shapes_or_nothing() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TOOL_ITEMS, HeaderValue::from_static(value));
            }
            from_headers(&headers).map_err(|error| error.code)
        };

        assert_eq!(read(&[]), Ok(ToolItems::Unspecified));
        assert_eq!(read(&[" "]), Ok(ToolItems::Unspecified));
        assert_eq!(read(&["function_call"]), Ok(ToolItems::FunctionCall));
        assert_eq!(read(&[" mcp_call "]), Ok(ToolItems::McpCall));
        for wrong in [&["MCP_CALL"][..], &["mcp"], &["mcp_call", "mcp_call"]] {
            assert_eq!(
                read(wrong),
                Err(Some("invalid_value".to_owned())),
                "{wrong:?}"
            );
        }
    }
}
