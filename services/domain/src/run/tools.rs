//! The vocabulary of tools that the server runs: what a run knows of them, and what it is told.

use std::collections::BTreeMap;

use super::Approvals;
use crate::model::Object;

/// The tools that the server runs for an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerTools {
    /// As which items calls of tools show that are not there any more when a person agrees to them.
    pub shape: ToolShape,
    /// The request streams: outputs are lists of content parts, not strings.
    pub streamed: bool,
    /// The agent has tools, though its servers may list none just now.
    pub has_servers: bool,
    pub approvals: Approvals,
    /// Until when a call that is made now waits for a person, in Unix seconds.
    pub approval_until: i64,
    /// By the name under which the model knows the tool.
    pub tools: BTreeMap<String, ServerTool>,
}

/// A tool that the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTool {
    /// The name of the tool's server.
    pub server_label: String,
    /// As which items its calls show.
    pub shape: ToolShape,
    pub effect: Effect,
    /// A person has to agree to each call.
    pub needs_approval: bool,
}

/// What calling a tool twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It changes nothing.
    Pure,
    /// Twice under one idempotency key is as good as once.
    Idempotent,
    /// It must not be repeated.
    Once,
}

/// As which items calls of server-run tools show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolShape {
    /// `function_call` and `function_call_output`.
    #[default]
    FunctionCall,
    /// `mcp_call`.
    McpCall,
}

/// How far a run may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Model calls that said something.
    pub max_steps: u32,
    /// Calls of server-run tools.
    pub max_tool_calls: Option<u32>,
    /// Tokens of all model calls, read and written: when so many are used, the model is not asked again.
    pub max_total_tokens: Option<u64>,
    /// Tokens that all model calls write.
    pub max_output_tokens: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_steps: u32::MAX,
            max_tool_calls: None,
            max_total_tokens: None,
            max_output_tokens: None,
        }
    }
}

/// A call of a server-run tool that has no result yet.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Of the item that is the call; with the response's id, the call's name for good.
    pub output_index: u32,
    pub call_id: String,
    pub name: String,
    pub arguments: Object,
    pub effect: Effect,
    /// An earlier attempt recorded that it begins, and not what came of it.
    pub repetition: bool,
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolResult {
    pub parts: Vec<ToolPart>,
    pub is_error: bool,
}

/// A piece of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolPart {
    Text(String),
    Image {
        /// `data:image/png;base64,…`
        data_url: String,
    },
}

impl ToolResult {
    /// A result that is one text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            parts: vec![ToolPart::Text(text.into())],
            is_error: false,
        }
    }

    /// An error that the model is told.
    pub fn error(text: impl Into<String>) -> Self {
        Self {
            is_error: true,
            ..Self::text(text)
        }
    }
}
