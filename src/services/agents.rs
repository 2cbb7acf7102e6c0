//! From the settings of agents to what an orchestrator runs them with.

use anyhow::Context;
use talaria_domain::run::{Effect, ToolShape};
use talaria_orchestrator::AgentConfig;
use talaria_orchestrator::tools::{McpServerConfig, McpTransport, ToolboxConfig};
use talaria_orchestrator::upstreams::{Kind, UpstreamConfig};

use crate::settings::{self, Agent, DEMO_TOOLS, Endpoint, Settings, ToolItems, Transport};

pub fn agent_config(settings: &Settings, agent: &Agent) -> anyhow::Result<AgentConfig> {
    let upstreams = agent
        .upstreams
        .iter()
        .map(|name| upstream_config(settings, name));
    let own = |name: &&String| *name != DEMO_TOOLS;
    let mcp_servers = agent
        .mcp_servers
        .iter()
        .filter(own)
        .map(|name| mcp_server_config(settings, name));
    Ok(AgentConfig {
        name: agent.name.clone(),
        instructions: agent.instructions.clone(),
        inherit_instructions: agent.inherit_instructions,
        upstreams: upstreams.collect::<anyhow::Result<_>>()?,
        model: agent.model.clone(),
        toolbox: ToolboxConfig {
            mcp_servers: mcp_servers.collect::<anyhow::Result<_>>()?,
            require_approval: agent.require_approval.clone(),
            demo: agent.mcp_servers.iter().any(|name| name == DEMO_TOOLS),
            ..ToolboxConfig::default()
        },
        tool_shape: match agent.tool_items {
            ToolItems::FunctionCall => ToolShape::FunctionCall,
            ToolItems::McpCall => ToolShape::McpCall,
        },
        max_steps: agent.max_steps,
        max_tool_calls: agent.max_tool_calls,
        max_parallel_tools: agent.max_parallel_tools as usize,
        max_total_tokens: agent.max_total_tokens,
        max_run: agent.max_run,
    })
}

fn upstream_config(settings: &Settings, name: &str) -> anyhow::Result<UpstreamConfig> {
    let upstream = settings.upstreams.get(name);
    let upstream = upstream.with_context(|| format!("upstream {name} is not defined"))?;
    let resumable = matches!(
        upstream.endpoint,
        Endpoint::Responses {
            resumable: true,
            ..
        }
    );
    let (kind, base_url, api_key) = match &upstream.endpoint {
        Endpoint::Responses {
            base_url, api_key, ..
        } => (Kind::Responses, base_url.clone(), api_key),
        Endpoint::ChatCompletions { base_url, api_key } => {
            (Kind::ChatCompletions, base_url.clone(), api_key)
        }
        Endpoint::Demo => (Kind::Demo, String::new(), &None),
    };
    Ok(UpstreamConfig {
        name: name.to_owned(),
        kind,
        base_url,
        api_key: api_key.clone(),
        connect_timeout: upstream.connect_timeout,
        first_byte_timeout: upstream.first_byte_timeout,
        idle_timeout: upstream.idle_timeout,
        total_timeout: upstream.total_timeout,
        max_retries: upstream.max_retries,
        resumable,
    })
}

fn mcp_server_config(settings: &Settings, name: &str) -> anyhow::Result<McpServerConfig> {
    let server = settings.mcp_servers.get(name);
    let server = server.with_context(|| format!("MCP server {name} is not defined"))?;
    let effect = |effect: &settings::Effect| match effect {
        settings::Effect::Pure => Effect::Pure,
        settings::Effect::Idempotent => Effect::Idempotent,
        settings::Effect::Once => Effect::Once,
    };
    let effects = server.effects.iter();
    let transport = match &server.transport {
        Transport::Stdio { command, args, env } => McpTransport::Stdio {
            command: command.clone(),
            args: args.clone(),
            env: env.clone().into_iter().collect(),
        },
        Transport::Http { url, headers } => McpTransport::Http {
            url: url.clone(),
            headers: headers.clone(),
            // The operator named it.
            egress: None,
        },
    };
    Ok(McpServerConfig {
        call_timeout: server.call_timeout,
        effects: effects
            .map(|(tool, given)| (tool.clone(), effect(given)))
            .collect(),
        ..McpServerConfig::new(name, transport)
    })
}
