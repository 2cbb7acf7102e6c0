//! The MCP servers that bring agents their tools, and those that requests may name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;
use talaria_orchestrator::tools::Allowed;

use super::agents::Keys;
use super::error::{Error, Found, Origin};
use super::file::{self, Effect, File};
use super::sources::Sources;
use super::{http_url, seconds};

/// Stands for the tools that are built in.
pub const DEMO_TOOLS: &str = "demo";

const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// A server of tools.
#[derive(Debug)]
pub struct McpServer {
    pub transport: Transport,
    pub call_timeout: Duration,
    /// By the server's name for the tool; over what the server says itself.
    pub effects: BTreeMap<String, Effect>,
}

/// How a server of tools is reached.
#[derive(Debug)]
pub enum Transport {
    Stdio {
        command: String,
        args: Vec<String>,
        env: BTreeMap<String, String>,
    },
    Http {
        url: String,
        /// Sent with every request.
        headers: Vec<(String, SecretString)>,
    },
}

/// Where requests may name MCP servers of their own: on the public internet, and here.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestMcp {
    pub allow: Vec<Allowed>,
}

/// Reads whether requests may name MCP servers, and where.
pub fn request_mcp(sources: &Sources<'_>) -> Result<Option<RequestMcp>, Error> {
    let Some(file) = sources.file else {
        return Ok(None);
    };
    let tools = &file.content.tools;
    let at = |key: &str| file.at(format!("tools.{key}"));
    let allow = tools.request_mcp_allow.iter().map(|allowed| {
        let read = allowed.parse::<Allowed>();
        read.map_err(|error| at("request_mcp_allow").error(error.to_string()))
    });
    let allow: Vec<Allowed> = allow.collect::<Result<_, _>>()?;
    if !tools.request_mcp && !allow.is_empty() {
        return Err(at("request_mcp_allow").error("says nothing without request_mcp = true"));
    }
    Ok(tools.request_mcp.then_some(RequestMcp { allow }))
}

/// Reads and checks the servers of the file.
pub fn mcp_servers(
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<BTreeMap<String, McpServer>, Error> {
    let Some(file) = sources.file else {
        return Ok(BTreeMap::new());
    };
    let servers = file.content.mcp_servers.iter();
    servers
        .map(|(name, server)| Ok((name.clone(), mcp_server(name, server, file, sources, keys)?)))
        .collect()
}

/// The names that an agent gives, checked.
pub fn tools_of_agent(
    given: &[String],
    file: &File,
    origin: &Origin,
) -> Result<Vec<String>, Error> {
    let mut names = BTreeSet::new();
    for name in given {
        if name != DEMO_TOOLS && !file.content.mcp_servers.contains_key(name) {
            return Err(origin.error(format!("there is no [mcp_servers.{name}]")));
        }
        if !names.insert(name) {
            return Err(origin.error(format!("names {name:?} twice")));
        }
    }
    Ok(given.to_vec())
}

fn mcp_server(
    name: &str,
    server: &file::McpServer,
    file: &File,
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<McpServer, Error> {
    let at = |key: &str| file.at(format!("mcp_servers.{name}.{key}"));
    if name == DEMO_TOOLS {
        let problem = "the tools of this name are built in; choose another";
        return Err(file.at("mcp_servers.demo").error(problem));
    }
    // It stands before the names of tools that another server has too.
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.is_empty() || name.len() > 32 || !name.bytes().all(is_word) {
        let problem = "a name is 1 to 32 of the characters a-z, A-Z, 0-9, _ and -";
        return Err(file.at(format!("mcp_servers.{name}")).error(problem));
    }
    let transport = match (&server.command, &server.url) {
        (Some(command), None) if command.trim().is_empty() => {
            return Err(at("command").error("must not be empty"));
        }
        (Some(_), None) if !server.headers.is_empty() || server.bearer_token_env.is_some() => {
            let problem = "goes without headers and bearer_token_env, which are a url's";
            return Err(at("command").error(problem));
        }
        (Some(command), None) => Transport::Stdio {
            command: command.clone(),
            args: server.args.clone(),
            env: server.env.clone(),
        },
        (None, Some(_)) if !(server.args.is_empty() && server.env.is_empty()) => {
            return Err(at("url").error("goes without args and env, which are a command's"));
        }
        (None, Some(url)) => {
            http_url(Found {
                value: url.clone(),
                origin: at("url"),
            })?;
            // A slash at its end matters to some servers.
            Transport::Http {
                url: url.clone(),
                headers: headers(server, &at, sources, keys)?,
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(at("command").error("a server has either a command or a url"));
        }
    };
    Ok(McpServer {
        transport,
        call_timeout: seconds(server.call_timeout_seconds, CALL_TIMEOUT),
        effects: server.effects.clone(),
    })
}

/// What is sent with every request to a server. No message repeats a value: they are secrets.
fn headers(
    server: &file::McpServer,
    at: &impl Fn(&str) -> Origin,
    sources: &Sources<'_>,
    keys: Keys,
) -> Result<Vec<(String, SecretString)>, Error> {
    let mut headers = Vec::new();
    for (name, value) in &server.headers {
        if HeaderName::try_from(name).is_err() || is_reserved(name) {
            let problem = format!("{name:?} is no name of a header that can be set");
            return Err(at("headers").error(problem));
        }
        if HeaderValue::from_str(value).is_err() {
            return Err(at("headers").error(format!("the value of {name:?} is none for a header")));
        }
        headers.push((name.clone(), value.clone().into()));
    }
    let Some(variable) = &server.bearer_token_env else {
        return Ok(headers);
    };
    let is_twice = |(name, _): &(String, SecretString)| name.eq_ignore_ascii_case("authorization");
    if headers.iter().any(is_twice) {
        let problem = "goes without a header Authorization, which it is";
        return Err(at("bearer_token_env").error(problem));
    }
    if keys == Keys::Needed {
        let Some(found) = sources.environment(&[variable]) else {
            let problem = format!("the environment variable {variable} is not set");
            return Err(at("bearer_token_env").error(problem));
        };
        let value = format!("Bearer {}", found.value);
        if HeaderValue::from_str(&value).is_err() {
            return Err(found.origin.error("is no token that a header can carry"));
        }
        headers.push(("Authorization".to_owned(), value.into()));
    }
    Ok(headers)
}

/// Headers that are the transport's to write.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("mcp-")
        || [
            "accept",
            "content-length",
            "content-type",
            "host",
            "last-event-id",
        ]
        .contains(&name.as_str())
}
