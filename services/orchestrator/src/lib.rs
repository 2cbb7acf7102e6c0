//! What happens next: admits runs, executes the agent loop, streams what it says, takes over from the dead.
//!
//! The only part of Talaria that calls out.

mod active;
mod admission;
mod agents;
mod approval;
mod breaker;
mod cancel;
mod claims;
mod execution;
mod feed;
mod fence;
mod journal;
mod keys;
mod lease;
mod overload;
mod panics;
mod peers;
mod released;
mod request_mcp;
mod retry;
mod service;
mod stamps;
mod start;
mod takeover;
pub mod tools;
mod unheard;
pub mod upstreams;

use std::sync::Arc;
use std::time::Duration;

pub use agents::AgentConfig;
pub use execution::Timing as ApprovalTiming;
pub use retry::OnBrokenStream;
pub use service::{Orchestrator, StartError};

/// What an orchestrator needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first is the default.
    pub agents: Vec<AgentConfig>,
    /// Refuse model names that no agent has, instead of giving them to the default agent.
    pub strict_models: bool,
    /// Runs at a time; more are refused.
    pub max_concurrent: usize,
    /// Runs that begin at a time: others wait for them for a moment, and are refused then.
    pub max_starting: usize,
    /// What becomes of a step whose answer broke off after something of it was shown.
    pub on_broken_stream: OnBrokenStream,
    /// How long people are waited for, and what it means if none comes.
    pub approval: ApprovalTiming,
    /// Where requests may name MCP servers; none: they may not.
    pub request_mcp: Option<Arc<tools::Egress>>,
    /// How many processes may die of a run that makes no progress before it is given up.
    pub max_attempts: u32,
    /// How long this process counts as alive after it last said so.
    pub lease: Duration,
    /// URL at which others reach this process; empty when it shares its process with the callers.
    pub address: String,
    /// This process knows that no other orchestrator uses the store.
    pub alone: bool,
    /// What the services of this installation tell each other that they belong to it.
    pub token: Option<secrecy::SecretString>,
}
