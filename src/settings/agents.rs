//! Agents and the upstreams they call.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::Duration;

use secrecy::SecretString;

use super::error::{Error, Found, Origin};
use super::file::{self, File, ToolItems, UpstreamKind};
use super::sources::Sources;
use super::tools::{DEMO_TOOLS, tools_of_agent};
use super::{http_url, max_steps, number, seconds};

const DEFAULT_AGENT: &str = "hermes-agent";
const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";
const OPENAI_MODEL: &str = "gpt-5.2";
const DEMO: &str = "demo";
const ENVIRONMENT_UPSTREAM: &str = "openai";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_mins(1);
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const TOTAL_TIMEOUT: Duration = Duration::from_mins(30);
const MAX_RETRIES: u32 = 2;
const MAX_PARALLEL_TOOLS: u32 = 8;

/// What a client's `model` selects.
#[derive(Debug, PartialEq, Eq)]
pub struct Agent {
    pub name: String,
    pub instructions: Option<String>,
    /// Names of upstreams in the order in which they are tried; at least one, each defined.
    pub upstreams: Vec<String>,
    /// The upstream's name for the model.
    pub model: String,
    /// Whether a response without instructions takes those of what it continues from.
    pub inherit_instructions: bool,
    /// Names of servers whose tools it has, each once; each defined or [`DEMO_TOOLS`].
    pub mcp_servers: Vec<String>,
    pub tool_items: ToolItems,
    /// Model calls of one response.
    pub max_steps: u32,
    /// Calls of the server's tools in one response.
    pub max_tool_calls: Option<u32>,
    /// Calls of tools at one time.
    pub max_parallel_tools: u32,
    /// Tools to whose calls a person has to agree.
    pub require_approval: Vec<String>,
    /// Tokens of all model calls of one response.
    pub max_total_tokens: Option<u64>,
    /// How long a response may take.
    pub max_run: Option<Duration>,
}

/// An LLM API that the orchestrator calls.
#[derive(Debug)]
pub struct Upstream {
    pub endpoint: Endpoint,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub idle_timeout: Duration,
    pub total_timeout: Duration,
    /// How often a call is tried again.
    pub max_retries: u32,
}

/// How an upstream is spoken to. Base URLs have no slash at their end.
#[derive(Debug)]
pub enum Endpoint {
    Responses {
        base_url: String,
        api_key: Option<SecretString>,
        /// It makes responses in the background, and its streams can be gone on with.
        resumable: bool,
    },
    ChatCompletions {
        base_url: String,
        api_key: Option<SecretString>,
    },
    /// Built in: answers by itself.
    Demo,
}

/// Whether this process calls upstreams itself and so needs their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Needed,
    /// Not looked for, so that a façade can share the file without holding the keys.
    Unused,
}

/// Reads and checks the agents, the default one first, and their upstreams.
///
/// A file that names neither agents nor upstreams leaves both to the environment: with `OPENAI_BASE_URL` or
/// `OPENAI_API_KEY` the default agent calls that API, without them it is the built-in demo.
pub fn agents(
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<(Vec<Agent>, BTreeMap<String, Upstream>), Error> {
    match sources.file {
        Some(file) if !(file.content.agents.is_empty() && file.content.upstreams.is_empty()) => {
            Ok((
                agents_of_file(file, sources)?,
                upstreams_of_file(file, sources, keys)?,
            ))
        }
        _ => of_environment(sources, keys),
    }
}

fn default_agent_name(sources: &Sources<'_>) -> Option<String> {
    sources
        .environment(&["TALARIA_MODEL_NAME", "API_SERVER_MODEL_NAME"])
        .map(|found| found.value)
}

fn of_environment(
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<(Vec<Agent>, BTreeMap<String, Upstream>), Error> {
    let name = default_agent_name(sources).unwrap_or_else(|| DEFAULT_AGENT.to_owned());
    let given_url = sources.environment(&["OPENAI_BASE_URL"]);
    let given_key = sources.environment(&["OPENAI_API_KEY"]);
    let given_model = sources
        .environment(&["OPENAI_MODEL"])
        .map(|found| found.value);

    let (upstream, endpoint, model) = if given_url.is_none() && given_key.is_none() {
        (DEMO, Endpoint::Demo, DEMO.to_owned())
    } else {
        let base_url = match given_url {
            Some(found) => http_url(found)?,
            None => OPENAI_BASE_URL.to_owned(),
        };
        // OpenAI knows no model of the agent's name; a server of one's own often knows no other.
        let model_of_api = if base_url == OPENAI_BASE_URL {
            OPENAI_MODEL.to_owned()
        } else {
            name.clone()
        };
        let api_key = given_key
            .filter(|_| keys == Keys::Needed)
            .map(|found| found.value.into());
        let endpoint = Endpoint::Responses {
            base_url,
            api_key,
            resumable: false,
        };
        (
            ENVIRONMENT_UPSTREAM,
            endpoint,
            given_model.unwrap_or(model_of_api),
        )
    };

    let is_demo = matches!(endpoint, Endpoint::Demo);
    let agent = Agent {
        name,
        instructions: None,
        upstreams: vec![upstream.to_owned()],
        model,
        inherit_instructions: true,
        mcp_servers: is_demo.then(|| DEMO_TOOLS.to_owned()).into_iter().collect(),
        tool_items: ToolItems::default(),
        max_steps: max_steps(sources),
        max_tool_calls: None,
        max_parallel_tools: MAX_PARALLEL_TOOLS,
        require_approval: Vec::new(),
        max_total_tokens: max_total_tokens(None, sources),
        max_run: max_run(None, sources),
    };
    let upstream = (upstream.to_owned(), Upstream::new(endpoint));
    Ok((vec![agent], BTreeMap::from([upstream])))
}

fn agents_of_file(file: &File, sources: &Sources<'_>) -> Result<Vec<Agent>, Error> {
    if file.content.agents.is_empty() {
        return Err(file
            .at("agents")
            .error("there are upstreams, but no [[agents]] to call them"));
    }
    let mut agents = file
        .content
        .agents
        .iter()
        .map(|agent| agent_of_file(agent, file, sources))
        .collect::<Result<Vec<_>, _>>()?;
    if let (Some(given), Some(first)) = (file.content.agents.first(), agents.first_mut()) {
        // Hermes' clients expect it of the agent that they know.
        first.inherit_instructions = given.inherit_instructions.unwrap_or(true);
        if let Some(name) = default_agent_name(sources) {
            first.name = name;
        }
    }

    let mut names = BTreeSet::new();
    match agents.iter().find(|agent| !names.insert(&agent.name)) {
        Some(twice) => Err(file
            .at("agents.name")
            .error(format!("two agents are named {:?}", twice.name))),
        None => Ok(agents),
    }
}

fn agent_of_file(agent: &file::Agent, file: &File, sources: &Sources<'_>) -> Result<Agent, Error> {
    let name = &agent.name;
    let at = |key: &str| file.at(format!("agents.{key} of {name:?}"));
    if name.trim().is_empty() {
        return Err(at("name").error("must not be empty"));
    }

    let known = &file.content.upstreams;
    let upstreams = match (&agent.upstream, known.keys().next()) {
        (Some(given), _) => given.clone().into_vec(),
        (None, Some(only)) if known.len() == 1 => vec![only.clone()],
        (None, _) => return Err(at("upstream").error("must name one of [upstreams]")),
    };
    if upstreams.is_empty() {
        return Err(at("upstream").error("must name at least one of [upstreams]"));
    }
    if let Some(unknown) = upstreams
        .iter()
        .find(|upstream| !known.contains_key(*upstream))
    {
        return Err(at("upstream").error(format!("there is no [upstreams.{unknown}]")));
    }

    let is_demo = |upstream: &String| known[upstream].kind == UpstreamKind::Demo;
    let is_all_demo = upstreams.iter().all(is_demo);
    let model = match &agent.model {
        Some(model) if !model.is_empty() => model.clone(),
        None if is_all_demo => DEMO.to_owned(),
        _ => return Err(at("model").error("must be the upstream's name for the model")),
    };
    let mcp_servers = match &agent.mcp_servers {
        Some(given) => tools_of_agent(given, file, &at("mcp_servers"))?,
        None if is_all_demo => vec![DEMO_TOOLS.to_owned()],
        None => Vec::new(),
    };
    Ok(Agent {
        name: name.clone(),
        instructions: agent.instructions.clone(),
        upstreams,
        model,
        inherit_instructions: agent.inherit_instructions.unwrap_or(false),
        mcp_servers,
        tool_items: agent.tool_items,
        max_steps: number(agent.max_steps, max_steps(sources)),
        max_tool_calls: agent.max_tool_calls.map(Into::into),
        max_parallel_tools: number(agent.max_parallel_tools, MAX_PARALLEL_TOOLS),
        require_approval: agent.require_approval.clone(),
        max_total_tokens: max_total_tokens(agent.max_total_tokens, sources),
        max_run: max_run(agent.max_run_seconds, sources),
    })
}

/// What the agent says, or what holds for all of them.
fn max_total_tokens(of_agent: Option<NonZeroU64>, sources: &Sources<'_>) -> Option<u64> {
    let of_all = || sources.file?.content.runs.max_total_tokens;
    of_agent.or_else(of_all).map(NonZeroU64::get)
}

/// The same.
fn max_run(of_agent: Option<NonZeroU64>, sources: &Sources<'_>) -> Option<Duration> {
    let of_all = || sources.file?.content.runs.max_run_seconds;
    let seconds = of_agent.or_else(of_all)?;
    Some(Duration::from_secs(seconds.get()))
}

fn upstreams_of_file(
    file: &File,
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<BTreeMap<String, Upstream>, Error> {
    let read = |(name, upstream): (&String, &file::Upstream)| {
        let endpoint = endpoint_of_file(name, upstream, file, sources, keys)?;
        let upstream = Upstream {
            endpoint,
            connect_timeout: seconds(upstream.connect_timeout_seconds, CONNECT_TIMEOUT),
            first_byte_timeout: seconds(upstream.first_byte_timeout_seconds, FIRST_BYTE_TIMEOUT),
            idle_timeout: seconds(upstream.idle_timeout_seconds, IDLE_TIMEOUT),
            total_timeout: seconds(upstream.total_timeout_seconds, TOTAL_TIMEOUT),
            max_retries: upstream.max_retries.unwrap_or(MAX_RETRIES),
        };
        Ok((name.clone(), upstream))
    };
    file.content.upstreams.iter().map(read).collect()
}

fn endpoint_of_file(
    name: &str,
    upstream: &file::Upstream,
    file: &File,
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<Endpoint, Error> {
    let at = |key: &str| file.at(format!("upstreams.{name}.{key}"));
    let base_url = || match &upstream.base_url {
        Some(url) => http_url(Found {
            value: url.clone(),
            origin: at("base_url"),
        }),
        None => Err(at("base_url").error("is required")),
    };
    let api_key = || upstream_key(upstream, &at("api_key_env"), sources, keys);
    match upstream.kind {
        UpstreamKind::Responses => Ok(Endpoint::Responses {
            base_url: base_url()?,
            api_key: api_key()?,
            resumable: upstream.resumable,
        }),
        UpstreamKind::ChatCompletions | UpstreamKind::Demo if upstream.resumable => {
            Err(at("resumable").error("only upstreams of kind \"responses\" can be resumed"))
        }
        UpstreamKind::ChatCompletions => Ok(Endpoint::ChatCompletions {
            base_url: base_url()?,
            api_key: api_key()?,
        }),
        UpstreamKind::Demo if upstream.base_url.is_some() => {
            Err(at("base_url").error("an upstream of kind \"demo\" calls nobody"))
        }
        UpstreamKind::Demo => Ok(Endpoint::Demo),
    }
}

fn upstream_key(
    upstream: &file::Upstream,
    origin: &Origin,
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<Option<SecretString>, Error> {
    let Some(variable) = upstream
        .api_key_env
        .as_deref()
        .filter(|_| keys == Keys::Needed)
    else {
        return Ok(None);
    };
    match sources.environment(&[variable]) {
        Some(found) => Ok(Some(found.value.into())),
        None => Err(origin.error(format!("the environment variable {variable} is not set"))),
    }
}

impl Upstream {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            connect_timeout: CONNECT_TIMEOUT,
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
            max_retries: MAX_RETRIES,
        }
    }
}
