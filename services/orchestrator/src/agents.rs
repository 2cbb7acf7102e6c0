//! The agents that `model` can name.

use std::sync::Arc;

use talaria_runtime::error::Reason;
use tonic::Status;

use crate::upstreams::{Error, Upstream, UpstreamConfig};

/// A named configuration that runs are executed with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub name: String,
    /// The core prompt; the client's instructions are layered on top.
    pub instructions: Option<String>,
    pub upstream: UpstreamConfig,
    /// The upstream's name for the model.
    pub model: String,
}

/// An agent, ready to run.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    pub instructions: Option<String>,
    pub upstream: Arc<Upstream>,
    pub model: String,
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
        let agent = |config: &AgentConfig| {
            Ok(Arc::new(Agent {
                name: config.name.clone(),
                instructions: config.instructions.clone(),
                upstream: Arc::new(Upstream::new(config.upstream.clone())?),
                model: config.model.clone(),
            }))
        };
        let agents = configs.iter().map(agent).collect::<Result<_, Error>>()?;
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

impl Agent {
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
