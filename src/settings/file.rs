//! The settings file as it is written: names, types and nothing else.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::Path;

use serde::Deserialize;

use super::error::{Error, Origin};

const DEFAULT_PATH: &str = "talaria.toml";

/// A settings file and the path it came from.
pub struct File {
    pub path: String,
    pub content: Content,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Content {
    pub server: Server,
    pub store: Store,
    pub runs: Runs,
    pub tools: Tools,
    pub agents: Vec<Agent>,
    pub upstreams: BTreeMap<String, Upstream>,
    pub mcp_servers: BTreeMap<String, McpServer>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub listen: Option<String>,
    pub cors_origins: Option<OneOrMany>,
    pub max_body_bytes: Option<NonZeroUsize>,
    pub keepalive_seconds: Option<NonZeroU64>,
    pub drain_seconds: Option<u32>,
    pub allow_remote_images: Option<bool>,
    pub strict_models: Option<bool>,
    pub chat_disconnect: Option<ChatDisconnect>,
    pub tool_progress_events: Option<bool>,
}

/// What becomes of a chat completion whose client leaves.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ChatDisconnect {
    /// It goes on.
    Detach,
    Cancel,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub database_url: Option<String>,
    pub max_responses: Option<u64>,
    pub retention_days: Option<u32>,
    pub event_retention_hours: Option<u32>,
    pub turn_cache_mb: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runs {
    pub max_concurrent: Option<NonZeroU32>,
    pub max_starting: Option<NonZeroU32>,
    pub lease_seconds: Option<NonZeroU64>,
    pub drain_seconds: Option<u64>,
    pub max_steps: Option<NonZeroU32>,
    pub max_total_tokens: Option<NonZeroU64>,
    pub max_run_seconds: Option<NonZeroU64>,
    pub max_attempts: Option<NonZeroU32>,
    pub on_broken_stream: OnBrokenStream,
    pub approval_timeout_seconds: Option<NonZeroU64>,
    pub approval_on_timeout: OnTimeout,
}

/// What it means that nobody decided about a call in time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    #[default]
    Deny,
    Approve,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tools {
    pub request_mcp: bool,
    pub request_mcp_allow: Vec<String>,
}

/// What becomes of a model step that breaks after something of it was shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnBrokenStream {
    /// What was shown is closed as incomplete, and the step is asked again.
    #[default]
    Continue,
    /// The response fails; what was shown is kept.
    Fail,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub name: String,
    pub instructions: Option<String>,
    pub upstream: Option<OneOrMany>,
    pub model: Option<String>,
    pub inherit_instructions: Option<bool>,
    pub mcp_servers: Option<Vec<String>>,
    #[serde(default)]
    pub tool_items: ToolItems,
    pub max_steps: Option<NonZeroU32>,
    pub max_tool_calls: Option<NonZeroU32>,
    pub max_parallel_tools: Option<NonZeroU32>,
    pub max_total_tokens: Option<NonZeroU64>,
    pub max_run_seconds: Option<NonZeroU64>,
    #[serde(default)]
    pub require_approval: Vec<String>,
}

/// How calls of tools that the server runs show among a response's items.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ToolItems {
    #[default]
    FunctionCall,
    McpCall,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub kind: UpstreamKind,
    pub base_url: Option<String>,
    pub api_key_env: Option<String>,
    pub connect_timeout_seconds: Option<NonZeroU64>,
    pub first_byte_timeout_seconds: Option<NonZeroU64>,
    pub idle_timeout_seconds: Option<NonZeroU64>,
    pub total_timeout_seconds: Option<NonZeroU64>,
    pub max_retries: Option<u32>,
    #[serde(default)]
    pub resumable: bool,
}

/// The API that an upstream speaks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamKind {
    Responses,
    ChatCompletions,
    /// Built in: answers by itself, without network or key.
    Demo,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpServer {
    pub command: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub url: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub bearer_token_env: Option<String>,
    pub call_timeout_seconds: Option<NonZeroU64>,
    #[serde(default)]
    pub effects: BTreeMap<String, Effect>,
}

/// What it means to call a tool once more.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It changes nothing.
    Pure,
    /// It changes nothing that the first call has not changed.
    Idempotent,
    /// It must not be.
    Once,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl File {
    /// Reads the file at `path`, or `./talaria.toml` if it is there, or nothing.
    pub fn read(path: Option<&str>, asked_by: &Origin) -> Result<Option<Self>, Error> {
        if path.is_none() && !Path::new(DEFAULT_PATH).exists() {
            return Ok(None);
        }
        let path = path.unwrap_or(DEFAULT_PATH);
        let text = std::fs::read_to_string(path)
            .map_err(|error| asked_by.error(format!("cannot read {path}: {error}")))?;
        Self::parse(path, &text).map(Some)
    }

    /// Parses the text of a settings file.
    pub fn parse(path: &str, text: &str) -> Result<Self, Error> {
        let content = toml::from_str(text).map_err(|error| parse_error(path, text, error))?;
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// Where `key` stands in this file.
    pub fn at(&self, key: impl Into<String>) -> Origin {
        Origin::File {
            path: self.path.clone(),
            key: key.into(),
        }
    }
}

impl OneOrMany {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// One line from the parser's several, with the line number instead of a drawing of the place.
fn parse_error(path: &str, text: &str, mut error: toml::de::Error) -> Error {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    error.set_input(None);
    let problem = error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Origin::File {
        path: format!("{path}, line {line}"),
        key: String::new(),
    }
    .error(problem)
}
