//! Where tools come from: a server and what it has, before its tools are named.

use std::sync::Arc;

use serde_json::Value;
use talaria_domain::model::Object;

use super::mcp::Server;
use super::{Effect, demo};

#[derive(Clone, Debug)]
pub(super) enum Source {
    Mcp(Arc<Server>),
    Demo,
    Lost(Arc<SourceTools>),
}

impl Source {
    pub(super) async fn tools(&self) -> Arc<SourceTools> {
        match self {
            Self::Mcp(server) => server.tools().await,
            Self::Demo => demo::tools(),
            Self::Lost(tools) => Arc::clone(tools),
        }
    }

    pub(super) fn label(&self) -> &str {
        match self {
            Self::Mcp(server) => server.name(),
            Self::Demo => "demo",
            Self::Lost(tools) => &tools.label,
        }
    }
}

/// The tools of one server, under its own names.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SourceTools {
    pub label: String,
    pub tools: Vec<SourceTool>,
    /// Why nothing better is known, or why they cannot be called.
    pub problem: Option<String>,
}

impl SourceTools {
    /// Nothing, and why.
    pub(super) fn unknown(label: &str, error: &impl std::fmt::Display) -> Self {
        Self {
            label: label.to_owned(),
            tools: Vec::new(),
            problem: Some(format!(
                "The MCP server \"{label}\" cannot be used: {error}."
            )),
        }
    }

    /// Tools that cannot be called any more, as an `mcp_list_tools` item shows them.
    pub(super) fn lost(label: String, listed: &[Object], problem: String) -> Self {
        let tool = |listed: &Object| {
            let text = |name: &str| listed.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(SourceTool {
                name: text("name")?,
                description: text("description"),
                parameters: Arc::new(listed.get("input_schema")?.as_object()?.clone()),
                annotations: listed.get("annotations").cloned(),
                // Calling it does nothing.
                effect: Effect::Pure,
                needs_approval: false,
            })
        };
        Self {
            tools: listed.iter().filter_map(tool).collect(),
            label,
            problem: Some(problem),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SourceTool {
    pub name: String,
    pub description: Option<String>,
    pub parameters: Arc<Object>,
    pub annotations: Option<Value>,
    pub effect: Effect,
    pub needs_approval: bool,
}
