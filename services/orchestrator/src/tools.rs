//! The tools that the server runs for a run: those of MCP servers, its agent's and its request's, and the demo ones.
//!
//! A call never fails: whatever goes wrong is a [`ToolResult`] with `is_error`, for the model to read.

mod arguments;
mod config;
mod demo;
mod egress;
mod mcp;
mod names;
mod output;
mod policy;
mod source;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use serde_json::{Value, json};
use talaria_domain::model::Object;
use talaria_domain::run::{Effect, ToolPart, ToolResult};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use config::{McpServerConfig, McpTransport, OutputLimits, ToolboxConfig};
pub use egress::{Allowed, Egress, NotAllowed, Refusal};
pub use policy::{Approval, Filter, ListLimits, Policy};

use crate::fence::Permit;

use arguments::ArgumentCheck;
use mcp::Server;
use source::{Source, SourceTool, SourceTools};

/// All tools that one agent runs itself, or one run has.
///
/// Servers are started when they are first needed and shared by all runs of the agent; those that a request names are
/// its run's alone. A server stops when the last toolbox that has it is dropped.
#[derive(Debug)]
pub struct Toolbox {
    sources: Vec<Source>,
    /// The place of the first source that the request names: they come last.
    requested: usize,
    limits: OutputLimits,
    require_approval: Vec<String>,
    latest: Mutex<Option<Named>>,
}

/// The tools of a toolbox at one moment, under the names by which models call them.
#[derive(Debug, Default)]
pub struct ToolList {
    pub tools: Vec<Tool>,
    /// What the servers that the request names have, in its order.
    pub requested: Vec<RequestedTools>,
}

/// What a server that the request names has.
#[derive(Debug, PartialEq)]
pub struct RequestedTools {
    pub server_label: String,
    /// Places in [`ToolList::tools`].
    pub tools: Range<usize>,
    /// Why nobody knows.
    pub problem: Option<String>,
}

/// A server that a request names.
#[derive(Debug)]
pub enum RequestedServer {
    /// It is connected to when the run first needs it.
    Live(Box<McpServerConfig>),
    /// It cannot be spoken with any more; calls of the tools that it had get this answer.
    Lost {
        server_label: String,
        tools: Vec<Object>,
        problem: String,
    },
}

/// A tool as a model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Unique in its list, and of the characters and length that upstreams accept.
    pub name: String,
    pub server_label: String,
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Arc<Object>,
    /// What its server says about it, as MCP names it.
    pub annotations: Option<Value>,
    pub effect: Effect,
    /// A person has to agree to each call.
    pub needs_approval: bool,
    /// Its server is one that the request names.
    pub is_requested: bool,
    arguments: ArgumentCheck,
    source: usize,
    name_there: String,
}

/// What a call is made with.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// The same for each repetition of a call; the server gets it as `_meta["talaria/idempotencyKey"]`.
    pub idempotency_key: String,
    /// The call is given up here, or after the server's own `call_timeout`, whichever is earlier.
    pub deadline: Instant,
    pub cancel: CancellationToken,
    /// Asked right before the call is made.
    pub(crate) permit: Arc<Permit>,
}

impl Toolbox {
    /// Nothing is started yet.
    pub fn new(config: &ToolboxConfig) -> Self {
        let servers = config.mcp_servers.iter().cloned();
        let servers = servers.map(|server| Source::Mcp(Arc::new(Server::new(server))));
        let demo = config.demo.then_some(Source::Demo);
        let sources: Vec<Source> = servers.chain(demo).collect();
        Self {
            requested: sources.len(),
            sources,
            limits: config.limits,
            require_approval: config.require_approval.clone(),
            latest: Mutex::default(),
        }
    }

    /// The same tools, and those of the servers that a request names.
    #[must_use]
    pub fn with(&self, servers: Vec<RequestedServer>) -> Self {
        let requested = servers.into_iter().map(|server| match server {
            RequestedServer::Live(config) => Source::Mcp(Arc::new(Server::new(*config))),
            RequestedServer::Lost {
                server_label,
                tools,
                problem,
            } => Source::Lost(Arc::new(SourceTools::lost(server_label, &tools, problem))),
        });
        Self {
            sources: self.sources.iter().cloned().chain(requested).collect(),
            requested: self.sources.len(),
            limits: self.limits,
            require_approval: self.require_approval.clone(),
            latest: Mutex::default(),
        }
    }

    /// Whether one of the servers, the request's or not, has this label.
    pub fn has_server(&self, label: &str) -> bool {
        self.sources.iter().any(|source| source.label() == label)
    }

    /// The labels of the servers that the request names.
    pub fn requested_labels(&self) -> impl Iterator<Item = &str> {
        self.sources[self.requested..].iter().map(Source::label)
    }

    /// Whether there can be no tools.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The tools of all servers, which are started if they do not run.
    ///
    /// Of a server that cannot be reached, the tools that it had before are listed, so that they do not come and go
    /// in the middle of a run. The same list is returned until one of the servers has other tools.
    pub async fn list(&self) -> Arc<ToolList> {
        let listed = join_all(self.sources.iter().map(Source::tools)).await;
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = latest.as_ref().filter(|named| named.is_of(&listed)) {
            return Arc::clone(&named.list);
        }
        let mut tools = names::named(&listed, self.requested);
        for tool in &mut tools {
            tool.needs_approval |= self.requires_approval(tool);
            tool.is_requested = tool.source >= self.requested;
        }
        let requested = (self.requested..).zip(&listed[self.requested..]);
        let requested = requested.map(|(source, listed)| RequestedTools {
            server_label: listed.label.clone(),
            tools: range_of(&tools, source),
            problem: listed.problem.clone(),
        });
        let list = Arc::new(ToolList {
            requested: requested.collect(),
            tools,
        });
        *latest = Some(Named {
            listed,
            list: Arc::clone(&list),
        });
        list
    }

    /// Runs the tool that models call `name`.
    ///
    /// Dropping the future tells the server that nobody waits for the answer any more.
    pub async fn call(&self, name: &str, arguments: Object, context: CallContext) -> ToolResult {
        let found = tokio::select! {
            biased;
            found = self.find(name) => found,
            () = context.cancel.cancelled() => return ToolResult::error("The call was cancelled."),
            () = sleep_until(context.deadline) => None,
        };
        let Some(tool) = found else {
            return ToolResult::error(format!("There is no tool named \"{name}\"."));
        };
        let output = match &self.sources[tool.source] {
            Source::Mcp(server) => server.call(tool.name_there, arguments, context).await,
            Source::Demo => demo::call(&tool.name_there, &arguments, &context)
                .await
                .into(),
            Source::Lost(tools) => {
                ToolResult::error(tools.problem.clone().unwrap_or_default()).into()
            }
        };
        output::limited(output, self.limits)
    }

    fn requires_approval(&self, tool: &Tool) -> bool {
        self.require_approval.iter().any(|name| {
            let there = name.strip_prefix(&tool.server_label);
            let there = there.and_then(|rest| rest.strip_prefix('/'));
            let names = ["*", &tool.name, &tool.name_there];
            names.contains(&name.as_str()) || there == Some(&tool.name_there) || there == Some("*")
        })
    }

    /// A name that is in the latest list needs no server to be asked.
    async fn find(&self, name: &str) -> Option<Tool> {
        if let Some(tool) = self.known().and_then(|list| list.get(name).cloned()) {
            return Some(tool);
        }
        self.list().await.get(name).cloned()
    }

    /// Whether a tool of this name is listed, or may be by a server that listed none so far.
    pub fn may_have(&self, name: &str) -> bool {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match latest.as_ref() {
            Some(named) => named.list.get(name).is_some() || named.is_partial(),
            None => !self.is_empty(),
        }
    }

    fn known(&self) -> Option<Arc<ToolList>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|named| Arc::clone(&named.list))
    }
}

impl ToolList {
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

/// Where the tools of the source at this place stand: each source's follow one another.
fn range_of(tools: &[Tool], source: usize) -> Range<usize> {
    let start = tools.partition_point(|tool| tool.source < source);
    start..tools.partition_point(|tool| tool.source <= source)
}

impl Tool {
    /// What is wrong with the arguments of a call, for the model to read.
    pub async fn check(&self, arguments: &Object) -> Result<(), String> {
        self.arguments.check(&self.name, arguments).await
    }

    /// Its server's own name for it.
    pub fn name_there(&self) -> &str {
        &self.name_there
    }

    /// The tool as an entry of an `mcp_list_tools` item.
    pub fn listed(&self) -> Value {
        let mut listed = json!({"name": self.name, "input_schema": *self.parameters});
        // Clients' parsers refuse nulls here.
        if let Some(description) = &self.description {
            listed["description"] = description.as_str().into();
        }
        if let Some(annotations) = &self.annotations {
            listed["annotations"] = annotations.clone();
        }
        listed
    }

    /// The tool as an entry of the Responses API's `tools`.
    pub fn definition(&self) -> Value {
        let mut definition = json!({
            "type": "function",
            "name": self.name,
            "parameters": *self.parameters,
            "strict": false,
        });
        if let Some(description) = &self.description {
            definition["description"] = description.as_str().into();
        }
        definition
    }
}

/// A list, and what it was made from.
#[derive(Debug)]
struct Named {
    listed: Vec<Arc<SourceTools>>,
    list: Arc<ToolList>,
}

impl Named {
    /// A server has no tools, or could not be reached.
    fn is_partial(&self) -> bool {
        self.listed.iter().any(|source| source.tools.is_empty())
    }

    fn is_of(&self, listed: &[Arc<SourceTools>]) -> bool {
        self.listed.len() == listed.len()
            && self
                .listed
                .iter()
                .zip(listed)
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// What a call gave, before it is made to fit.
#[derive(Debug)]
struct Output {
    result: ToolResult,
    /// How long the server's answer was, if only its beginning was kept.
    cut_from_bytes: Option<u64>,
}

impl From<ToolResult> for Output {
    fn from(result: ToolResult) -> Self {
        Self {
            result,
            cut_from_bytes: None,
        }
    }
}
