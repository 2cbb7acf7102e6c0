//! The MCP servers that bring agents their tools.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::{Error, Found, Origin};
use super::file::{self, Effect, File};
use super::sources::Sources;
use super::{http_url, seconds};

/// Stands for the tools that are built in.
pub const DEMO_TOOLS: &str = "demo";

const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// A server of tools.
#[derive(Debug, PartialEq, Eq)]
pub struct McpServer {
    pub transport: Transport,
    pub call_timeout: Duration,
    /// By the server's name for the tool; over what the server says itself.
    pub effects: BTreeMap<String, Effect>,
}

/// How a server of tools is reached.
#[derive(Debug, PartialEq, Eq)]
pub enum Transport {
    Stdio {
        command: String,
        args: Vec<String>,
        env: BTreeMap<String, String>,
    },
    Http {
        url: String,
    },
}

/// Reads and checks the servers of the file.
pub fn mcp_servers(sources: &Sources<'_>) -> Result<BTreeMap<String, McpServer>, Error> {
    let Some(file) = sources.file else {
        return Ok(BTreeMap::new());
    };
    let servers = file.content.mcp_servers.iter();
    servers
        .map(|(name, server)| Ok((name.clone(), mcp_server(name, server, file)?)))
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

fn mcp_server(name: &str, server: &file::McpServer, file: &File) -> Result<McpServer, Error> {
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
            Transport::Http { url: url.clone() }
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
