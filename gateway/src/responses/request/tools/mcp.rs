//! Tools of type `mcp`: servers that the request names.

use serde_json::Value;

use super::MAX_NAME;
use crate::check::{MAX_TEXT, Node, quoted};
use crate::error::ApiError;

/// The longest URL, header value or token.
const MAX_VALUE: usize = 8192;
const MAX_HEADERS: usize = 64;
const MAX_TOOL_NAMES: usize = 512;

/// Headers that are the transport's to write.
const RESERVED: [&str; 14] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Checks one tool of type `mcp`. Whether its server may be spoken with is the orchestrator's to say.
pub fn check(tool: &Node) -> Result<(), ApiError> {
    tool.required("server_label")?.symbol(MAX_NAME)?;
    for elsewhere in ["connector_id", "tunnel_id"] {
        if let Some(node) = tool.optional(elsewhere) {
            let message = format!(
                "Unsupported parameter: '{elsewhere}' names a service of OpenAI's; give the server's \
                 'server_url'."
            );
            return Err(node.error("unsupported_parameter", message));
        }
    }
    let url = tool.required("server_url")?;
    let text = url.identifier(MAX_VALUE)?.to_ascii_lowercase();
    if !(text.starts_with("https://") || text.starts_with("http://")) {
        return Err(url.invalid(
            "invalid_value",
            "a URL that begins with https:// is expected",
        ));
    }
    tool.check("server_description", |text| text.text(MAX_TEXT).map(drop))?;
    tool.check("allowed_tools", allowed_tools)?;
    tool.check("require_approval", require_approval)?;
    tool.check("headers", headers)?;
    tool.check("authorization", |token| authorization(token, tool))
}

/// The label of a tool that is a server.
pub fn label(tool: &Value) -> Option<&str> {
    (tool.get("type")?.as_str()? == "mcp").then(|| tool.get("server_label")?.as_str())?
}

fn allowed_tools(node: &Node) -> Result<(), ApiError> {
    match node.value() {
        Value::Array(_) => names(node),
        Value::Object(_) => filter(node),
        _ => Err(node.wrong_type("one of an array or an object")),
    }
}

fn require_approval(node: &Node) -> Result<(), ApiError> {
    match node.value() {
        Value::String(_) => node.one_of(&["always", "never"]).map(drop),
        Value::Object(_) => ["always", "never"]
            .into_iter()
            .try_for_each(|name| node.check(name, filter)),
        _ => Err(node.wrong_type("one of a string or an object")),
    }
}

fn filter(node: &Node) -> Result<(), ApiError> {
    node.object()?;
    node.check("tool_names", names)?;
    node.check("read_only", |flag| flag.boolean().map(drop))
}

fn names(node: &Node) -> Result<(), ApiError> {
    node.elements(MAX_TOOL_NAMES)?
        .try_for_each(|name| name.identifier(MAX_VALUE).map(drop))
}

/// The values are secrets: no message repeats one.
fn headers(node: &Node) -> Result<(), ApiError> {
    let headers = node.object()?;
    if headers.len() > MAX_HEADERS {
        let why = format!("too many headers. Expected at most {MAX_HEADERS}");
        return Err(node.invalid("object_above_max_properties", &why));
    }
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let is_reserved = RESERVED.contains(&lower.as_str())
            || lower.starts_with("mcp-")
            || lower.starts_with("proxy-");
        if is_reserved || name.len() > MAX_NAME || http::HeaderName::try_from(name).is_err() {
            let why = format!("{} is no name of a header that can be sent", quoted(name));
            return Err(node.invalid("invalid_value", &why));
        }
        secret(&node.member(name, value))?;
    }
    Ok(())
}

fn authorization(token: &Node, tool: &Node) -> Result<(), ApiError> {
    secret(token)?;
    let headers = tool.optional("headers");
    let names = headers
        .as_ref()
        .and_then(|headers| headers.value().as_object());
    let is_twice = names
        .into_iter()
        .flat_map(|headers| headers.keys())
        .any(|name| name.eq_ignore_ascii_case("authorization"));
    if is_twice {
        let why = "it is given in 'headers' as well";
        return Err(token.invalid("invalid_value", why));
    }
    Ok(())
}

/// A value that can stand in a header.
fn secret(node: &Node) -> Result<(), ApiError> {
    let text = node
        .value()
        .as_str()
        .ok_or_else(|| node.wrong_type("a string"))?;
    let fits = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.is_empty() || text.len() > MAX_VALUE || !fits {
        let why = format!("a header's value is 1 to {MAX_VALUE} visible ASCII characters");
        return Err(node.invalid("invalid_value", &why));
    }
    Ok(())
}
