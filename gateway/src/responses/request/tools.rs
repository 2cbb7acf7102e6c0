//! The tools that a request offers, and the choice among them.

mod mcp;

use std::collections::HashSet;

use serde_json::Value;

use crate::check::{MAX_TEXT, Node, quoted};
use crate::error::ApiError;

const MAX_TOOLS: usize = 512;

/// The longest name of a function. Source: OpenAI's API reference.
const MAX_NAME: usize = 128;

/// Tools that only some upstreams run; they decide what these need.
const HOSTED: [&str; 16] = [
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "file_search",
    "code_interpreter",
    "image_generation",
    "computer",
    "computer_use",
    "computer_use_preview",
    "local_shell",
    "shell",
    "apply_patch",
    "tool_search",
    "namespace",
    "programmatic_tool_calling",
];

/// Checks the list of tools.
pub fn check(tools: &Node) -> Result<(), ApiError> {
    let mut names = HashSet::new();
    let mut labels = HashSet::new();
    for tool in tools.elements(MAX_TOOLS)? {
        check_tool(&tool)?;
        if let Some(label) = mcp::label(tool.value())
            && !labels.insert(label)
        {
            let message = format!(
                "Duplicate server_label {}: the labels of MCP servers must differ.",
                quoted(label)
            );
            return Err(tool
                .required("server_label")?
                .error("invalid_value", message));
        }
        if let Some(name) = own_name(tool.value())
            && !names.insert(name)
        {
            let message = format!(
                "Duplicate tool name {}: the names of tools must differ.",
                quoted(name)
            );
            return Err(tool.required("name")?.error("invalid_value", message));
        }
    }
    Ok(())
}

fn check_tool(tool: &Node) -> Result<(), ApiError> {
    tool.object()?;
    let kind = tool.required("type")?;
    match kind.text(MAX_TEXT)? {
        "function" => check_function(tool),
        "custom" => check_custom(tool),
        "mcp" => mcp::check(tool),
        hosted if HOSTED.contains(&hosted) => Ok(()),
        unknown => {
            let mut known = vec!["function", "custom", "mcp"];
            known.extend(HOSTED);
            Err(kind.not_among(unknown, &known))
        }
    }
}

fn check_function(tool: &Node) -> Result<(), ApiError> {
    tool.required("name")?.symbol(MAX_NAME)?;
    tool.check("description", |text| text.text(MAX_TEXT).map(drop))?;
    tool.check("parameters", |schema| schema.object().map(drop))?;
    tool.check("strict", |strict| strict.boolean().map(drop))
}

fn check_custom(tool: &Node) -> Result<(), ApiError> {
    tool.required("name")?.symbol(MAX_NAME)?;
    tool.check("description", |text| text.text(MAX_TEXT).map(drop))?;
    tool.check("format", |format| {
        format.object()?;
        if format.required("type")?.one_of(&["text", "grammar"])? == "grammar" {
            format.required("syntax")?.one_of(&["lark", "regex"])?;
            format.required("definition")?.text(MAX_TEXT)?;
        }
        Ok(())
    })
}

/// Checks `tool_choice` against the request's `tools`, which were checked before.
pub fn check_choice(choice: &Node, tools: Option<&Value>) -> Result<(), ApiError> {
    let tools = tools
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    match choice.value() {
        Value::String(_) => choice.one_of(&["none", "auto", "required"]).map(drop),
        Value::Object(_) => {
            let kind = choice.required("type")?;
            if kind.text(MAX_TEXT)? == "allowed_tools" {
                check_allowed(choice, tools)
            } else {
                check_named(choice, tools)
            }
        }
        _ => Err(choice.wrong_type("one of a string or an object")),
    }
}

fn check_allowed(choice: &Node, tools: &[Value]) -> Result<(), ApiError> {
    choice.required("mode")?.one_of(&["auto", "required"])?;
    choice
        .required("tools")?
        .elements(MAX_TOOLS)?
        .try_for_each(|tool| {
            tool.object()?;
            check_named(&tool, tools)
        })
}

/// Checks an object that names one of the tools by its type, and its name if it has one.
///
/// A function that is not among them may be one of the agent's; who runs the agent knows.
fn check_named(choice: &Node, tools: &[Value]) -> Result<(), ApiError> {
    let node = choice.required("type")?;
    let kind = node.text(MAX_TEXT)?;
    let of_kind = |tool: &&Value| tool.get("type").and_then(Value::as_str) == Some(kind);
    let (is_there, word) = match kind {
        "function" => return choice.required("name")?.symbol(MAX_NAME).map(drop),
        "custom" => {
            let name = choice.required("name")?.symbol(MAX_NAME)?;
            (
                tools
                    .iter()
                    .filter(of_kind)
                    .any(|tool| own_name(tool) == Some(name)),
                name,
            )
        }
        "mcp" => {
            let label = choice.required("server_label")?.identifier(MAX_NAME)?;
            choice.check("name", |name| name.identifier(MAX_NAME).map(drop))?;
            let is_there = tools.iter().any(|tool| mcp::label(tool) == Some(label));
            (is_there, label)
        }
        hosted if HOSTED.contains(&hosted) => (tools.iter().any(|tool| of_kind(&tool)), kind),
        unknown => {
            let mut known = vec!["function", "custom", "mcp", "allowed_tools"];
            known.extend(HOSTED);
            return Err(node.not_among(unknown, &known));
        }
    };
    if is_there {
        return Ok(());
    }
    let message = format!(
        "Tool choice {} not found in 'tools' parameter.",
        quoted(word)
    );
    Err(choice.error("invalid_value", message))
}

/// The name of a tool that is the client's to run.
fn own_name(tool: &Value) -> Option<&str> {
    let kind = tool.get("type")?.as_str()?;
    matches!(kind, "function" | "custom")
        .then(|| tool.get("name")?.as_str())
        .flatten()
}
