//! The tools of a chat completion and the choice among them, in the flat form of the Responses API.

use serde_json::{Map, Value, json};

use crate::check::{MAX_TEXT, Node};
use crate::error::ApiError;
use crate::responses::request::tools;

/// Tools of one request at most.
const MAX_TOOLS: usize = 512;

/// Whether a request offers deprecated `functions` and no tools.
pub fn is_legacy(root: &Node) -> bool {
    root.optional("tools").is_none() && root.optional("functions").is_some()
}

/// Adds `tools` and `tool_choice`, or what the deprecated `functions` and `function_call` say, to `given`.
pub fn read(root: &Node, given: &mut Map<String, Value>) -> Result<(), ApiError> {
    let (offered, choice) = if is_legacy(root) {
        given.insert("parallel_tool_calls".to_owned(), false.into());
        (read_functions(root)?, read_function_choice(root)?)
    } else {
        (read_tools(root)?, read_choice(root)?)
    };
    let offered = Value::Array(offered);
    if let Some(choice) = choice {
        tools::check_choice(
            &Node::root(&Value::Null).member("tool_choice", &choice),
            Some(&offered),
        )?;
        given.insert("tool_choice".to_owned(), choice);
    }
    if offered.as_array().is_some_and(|tools| !tools.is_empty()) {
        given.insert("tools".to_owned(), offered);
    }
    Ok(())
}

fn read_tools(root: &Node) -> Result<Vec<Value>, ApiError> {
    let Some(list) = root.optional("tools") else {
        return Ok(Vec::new());
    };
    let mut flat = Vec::new();
    for tool in list.elements(MAX_TOOLS)? {
        tool.object()?;
        let node = tool.required("type")?;
        let kind = node.text(MAX_TEXT)?;
        flat.push(match kind {
            "mcp" => {
                let message =
                    "Invalid value: 'mcp'. MCP servers can be named on /v1/responses only.";
                return Err(node.error("invalid_value", message));
            }
            "function" => flat_function(&tool.required("function")?)?,
            "custom" => flat_custom(&tool.required("custom")?)?,
            // Tools that an upstream runs have no form of their own in chat.
            _ => tool.value().clone(),
        });
    }
    let all = Value::Array(flat);
    tools::check(&Node::root(&Value::Null).member("tools", &all))?;
    Ok(match all {
        Value::Array(flat) => flat,
        _ => Vec::new(),
    })
}

fn read_functions(root: &Node) -> Result<Vec<Value>, ApiError> {
    let list = root.required("functions")?;
    list.elements(128)?
        .map(|function| flat_function(&function))
        .collect()
}

fn flat_function(function: &Node) -> Result<Value, ApiError> {
    function.object()?;
    function.required("name")?.symbol(128)?;
    function.check("description", |text| text.text(MAX_TEXT).map(drop))?;
    function.check("parameters", |schema| schema.object().map(drop))?;
    function.check("strict", |strict| strict.boolean().map(drop))?;
    let mut flat = flat("function", function, &["name", "description", "parameters"]);
    // Chat's default is the other one.
    let strict = function
        .optional("strict")
        .map(|strict| strict.value().clone());
    flat.insert("strict".to_owned(), strict.unwrap_or_else(|| false.into()));
    Ok(flat.into())
}

fn flat_custom(custom: &Node) -> Result<Value, ApiError> {
    custom.object()?;
    custom.required("name")?.symbol(128)?;
    let mut flat = flat("custom", custom, &["name", "description"]);
    if let Some(format) = custom.optional("format") {
        format.object()?;
        let mut inner = match format.optional("grammar") {
            Some(grammar) => grammar.object()?.clone(),
            None => Map::new(),
        };
        let kind = format.required("type")?.text(64)?;
        inner.insert("type".to_owned(), kind.into());
        flat.insert("format".to_owned(), inner.into());
    }
    Ok(flat.into())
}

fn flat(kind: &str, tool: &Node, names: &[&str]) -> Map<String, Value> {
    let mut flat = Map::from_iter([("type".to_owned(), kind.into())]);
    for name in names {
        let member = tool.optional(name);
        flat.extend(member.map(|member| ((*name).to_owned(), member.value().clone())));
    }
    flat
}

fn read_choice(root: &Node) -> Result<Option<Value>, ApiError> {
    let Some(choice) = root.optional("tool_choice") else {
        return Ok(None);
    };
    if choice.value().is_string() {
        return Ok(Some(choice.value().clone()));
    }
    choice.object()?;
    let kind = choice.required("type")?.text(MAX_TEXT)?;
    let Some(inner) = choice.optional(kind) else {
        return Ok(Some(choice.value().clone()));
    };
    inner.object()?;
    if kind != "allowed_tools" {
        let name = inner.required("name")?.symbol(128)?;
        return Ok(Some(json!({"type": kind, "name": name})));
    }
    let mode = inner.required("mode")?.one_of(&["auto", "required"])?;
    let mut named = Vec::new();
    for tool in inner.required("tools")?.elements(MAX_TOOLS)? {
        tool.object()?;
        let kind = tool.required("type")?.text(MAX_TEXT)?;
        named.push(match tool.optional(kind) {
            Some(inner) => json!({"type": kind, "name": inner.required("name")?.symbol(128)?}),
            None => tool.value().clone(),
        });
    }
    Ok(Some(json!({"type": kind, "mode": mode, "tools": named})))
}

fn read_function_choice(root: &Node) -> Result<Option<Value>, ApiError> {
    let Some(choice) = root.optional("function_call") else {
        return Ok(None);
    };
    if choice.value().is_string() {
        return choice
            .one_of(&["none", "auto"])
            .map(|word| Some(word.into()));
    }
    choice.object()?;
    let name = choice.required("name")?.symbol(128)?;
    Ok(Some(json!({"type": "function", "name": name})))
}
