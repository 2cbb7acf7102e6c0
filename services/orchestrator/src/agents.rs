//! The agents that `model` can name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use talaria_domain::run::ToolShape;
use talaria_proto::v1::{RunRequest, ToolItems};
use talaria_runtime::error::Reason;
use tonic::Status;

use crate::tools::{RequestedServer, Toolbox, ToolboxConfig};
use crate::upstreams::{Error, Upstream, UpstreamConfig};

/// A named configuration that runs are executed with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub name: String,
    /// The core prompt; the client's instructions are layered on top.
    pub instructions: Option<String>,
    /// Whether a run that continues another without instructions of its own has those of the other.
    pub inherit_instructions: bool,
    /// In the order in which they are asked; one at least.
    pub upstreams: Vec<UpstreamConfig>,
    /// The upstreams' name for the model.
    pub model: String,
    /// The tools that it runs itself.
    pub toolbox: ToolboxConfig,
    /// As which items their calls show, unless a request says otherwise.
    pub tool_shape: ToolShape,
    /// Model calls of one response at most.
    pub max_steps: u32,
    /// Calls of its own tools in one response at most.
    pub max_tool_calls: Option<u32>,
    /// Calls of its own tools that run at a time.
    pub max_parallel_tools: usize,
    /// Tokens of all model calls of one response at most.
    pub max_total_tokens: Option<u64>,
    /// How long a response may take at most, from the beginning of its first attempt.
    pub max_run: Option<Duration>,
}

/// An agent, ready to run.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    pub instructions: Option<String>,
    pub inherit_instructions: bool,
    pub upstreams: Vec<Arc<Upstream>>,
    pub model: String,
    pub toolbox: Arc<Toolbox>,
    pub tool_shape: ToolShape,
    pub max_steps: u32,
    pub max_tool_calls: Option<u32>,
    pub max_parallel_tools: usize,
    pub max_total_tokens: Option<u64>,
    pub max_run: Option<Duration>,
}

/// All agents of this process.
#[derive(Debug)]
pub struct Agents {
    agents: Vec<Arc<Agent>>,
    strict: bool,
}

impl Agents {
    /// Prepares each agent's upstream. Nothing is connected yet.
    pub fn new(configs: &[AgentConfig], strict: bool) -> Result<Self, Error> {
        let mut upstreams = HashMap::new();
        let mut agents = Vec::with_capacity(configs.len());
        for config in configs {
            agents.push(Arc::new(Agent {
                name: config.name.clone(),
                instructions: config.instructions.clone(),
                inherit_instructions: config.inherit_instructions,
                upstreams: prepared(&config.upstreams, &mut upstreams)?,
                model: config.model.clone(),
                toolbox: Arc::new(Toolbox::new(&config.toolbox)),
                tool_shape: config.tool_shape,
                max_steps: config.max_steps,
                max_tool_calls: config.max_tool_calls,
                max_parallel_tools: config.max_parallel_tools,
                max_total_tokens: config.max_total_tokens,
                max_run: config.max_run,
            }));
        }
        Ok(Self { agents, strict })
    }

    /// The agent that `model` selects; empty means the default.
    pub fn select(&self, model: &str) -> Result<Arc<Agent>, Status> {
        let named = self.agents.iter().find(|agent| agent.name == model);
        let default = || {
            (!self.strict || model.is_empty())
                .then(|| self.agents.first())
                .flatten()
        };
        named.or_else(default).cloned().ok_or_else(|| {
            let message = format!("The requested model '{model}' does not exist.");
            Reason::ModelNotFound.status_at("model", message)
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().map(|agent| agent.name.as_str())
    }
}

/// The upstreams, each made once for all agents: they share its connections and what is known of its health.
fn prepared(
    configs: &[UpstreamConfig],
    known: &mut HashMap<String, Arc<Upstream>>,
) -> Result<Vec<Arc<Upstream>>, Error> {
    let mut upstreams = Vec::with_capacity(configs.len());
    for config in configs {
        let upstream = match known.get(&config.name) {
            Some(upstream) => Arc::clone(upstream),
            None => Arc::new(Upstream::new(config.clone())?),
        };
        known.insert(config.name.clone(), Arc::clone(&upstream));
        upstreams.push(upstream);
    }
    Ok(upstreams)
}

impl Agent {
    /// Where among its upstreams the one of this name stands, if it can go on with what it keeps.
    pub fn resumable(&self, upstream: &str) -> Option<usize> {
        let is_it = |known: &Arc<Upstream>| known.is_resumable() && known.name() == upstream;
        self.upstreams.iter().position(is_it)
    }

    /// The agent's tools, and those of the servers that a request names.
    pub fn toolbox_with(&self, servers: Vec<RequestedServer>) -> Arc<Toolbox> {
        if servers.is_empty() {
            return Arc::clone(&self.toolbox);
        }
        Arc::new(self.toolbox.with(servers))
    }

    /// As which items calls of the agent's tools show to whoever made this request.
    pub fn tool_shape(&self, request: &RunRequest) -> ToolShape {
        match request.tool_items() {
            ToolItems::Unspecified => self.tool_shape,
            ToolItems::FunctionCall => ToolShape::FunctionCall,
            ToolItems::McpCall => ToolShape::McpCall,
        }
    }

    /// The agent's own prompt, then the client's.
    pub fn layered_instructions(&self, client: Option<&str>) -> Option<String> {
        let layers: Vec<&str> = self
            .instructions
            .as_deref()
            .into_iter()
            .chain(client)
            .collect();
        (!layers.is_empty()).then(|| layers.join("\n\n"))
    }
}
