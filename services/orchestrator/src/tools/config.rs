//! What a toolbox is made from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::{Effect, Egress, Policy};

/// The tools of one agent.
#[derive(Clone, Debug, Default)]
pub struct ToolboxConfig {
    pub mcp_servers: Vec<McpServerConfig>,
    /// Adds clock, calculator and wait.
    pub demo: bool,
    pub limits: OutputLimits,
    /// Tools to whose calls a person has to agree: by the names that models or their servers know them by, with or
    /// without `server/` before, or `*` for all.
    pub require_approval: Vec<String>,
}

/// An MCP server, and how its tools are called.
#[derive(Clone, Debug)]
pub struct McpServerConfig {
    /// What it is called in `server_label`, in names that would clash, and in logs.
    pub name: String,
    pub transport: McpTransport,
    pub call_timeout: Duration,
    /// How long the server may take to say hello.
    pub start_timeout: Duration,
    /// How long it may take to list its tools.
    pub list_timeout: Duration,
    /// By the server's own names of its tools; they win over what the server says about itself.
    pub effects: HashMap<String, Effect>,
    pub policy: Policy,
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum McpTransport {
    /// A child process that speaks on its standard input and output.
    ///
    /// It sees of our environment only what programs need to start (`PATH`, `HOME` and the like), and `env`.
    Stdio {
        command: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
    },
    /// Streamable HTTP.
    Http {
        url: String,
        /// Sent with every request; names and values are such that HTTP takes them.
        headers: Vec<(String, SecretString)>,
        /// Where the server may be, if not everywhere.
        egress: Option<Arc<Egress>>,
    },
}

/// How much of what a tool says reaches the model.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimits {
    /// Of all text parts together.
    pub text_bytes: usize,
    /// Of all images together, as data URLs.
    pub image_bytes: usize,
}

impl McpServerConfig {
    pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_mins(1);
    /// Long enough for `npx` and `uvx` to download a usual server; all runs of the agent wait for it.
    const START_TIMEOUT: Duration = Duration::from_secs(30);
    const LIST_TIMEOUT: Duration = Duration::from_secs(30);

    pub fn new(name: impl Into<String>, transport: McpTransport) -> Self {
        Self {
            name: name.into(),
            transport,
            call_timeout: Self::DEFAULT_CALL_TIMEOUT,
            start_timeout: Self::START_TIMEOUT,
            list_timeout: Self::LIST_TIMEOUT,
            effects: HashMap::new(),
            policy: Policy::default(),
        }
    }
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self {
            text_bytes: 64 * 1024,
            image_bytes: 8 * 1024 * 1024,
        }
    }
}
