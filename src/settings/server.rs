//! The part of the settings that faces clients: address, key, origins and limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use secrecy::SecretString;

pub use super::file::ChatDisconnect;

use super::error::{Error, Found, Origin};
use super::seconds;
use super::sources::{Sources, flag};

const DEFAULT_PORT: u16 = 8642;
const DEFAULT_MAX_BODY_BYTES: usize = 10_000_000;
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(10);
const DEFAULT_DRAIN: Duration = Duration::from_secs(2);
const MIN_KEY_CHARACTERS: usize = 16;

/// How the façade meets its clients.
#[derive(Debug)]
pub struct Server {
    pub listen: SocketAddr,
    /// The one key of the tenant `default`; always there unless `listen` is loopback.
    pub api_key: Option<SecretString>,
    pub cors_origins: CorsOrigins,
    pub max_body_bytes: usize,
    /// How long a stream may be silent before a comment is sent.
    pub keepalive: Duration,
    /// How long a façade of its own goes on after it said that it is not ready any more.
    pub drain: Duration,
    /// None: it goes on with a session, and is cancelled without.
    pub chat_disconnect: Option<ChatDisconnect>,
    /// Whether streams of chat completions show the tools that the server runs.
    pub tool_progress_events: bool,
}

/// Which web pages of other origins may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    Any,
    /// These and no others; empty means none.
    List(Vec<String>),
}

/// Reads and checks everything about the façade.
pub fn server(listen_flag: Option<String>, sources: &Sources<'_>) -> Result<Server, Error> {
    let listen = facade_address(listen_flag, sources)?;
    let section = sources.file.map(|file| &file.content.server);
    Ok(Server {
        listen: listen.value,
        api_key: api_key(&listen, sources)?,
        cors_origins: cors_origins(sources)?,
        max_body_bytes: section
            .and_then(|server| server.max_body_bytes)
            .map_or(DEFAULT_MAX_BODY_BYTES, Into::into),
        keepalive: seconds(
            section.and_then(|server| server.keepalive_seconds),
            DEFAULT_KEEPALIVE,
        ),
        drain: section
            .and_then(|server| server.drain_seconds)
            .map_or(DEFAULT_DRAIN, |seconds| Duration::from_secs(seconds.into())),
        chat_disconnect: section.and_then(|server| server.chat_disconnect),
        tool_progress_events: section
            .and_then(|server| server.tool_progress_events)
            .unwrap_or(true),
    })
}

/// Where a service that is not the façade listens: its flag, the environment, or `default`.
pub fn service_address(
    listen_flag: Option<String>,
    sources: &Sources<'_>,
    default: SocketAddr,
) -> Result<SocketAddr, Error> {
    flag("--listen", listen_flag)
        .or_else(|| sources.environment(&["TALARIA_LISTEN"]))
        .map_or(Ok(default), |found| Ok(address(found)?.value))
}

/// The address on this machine with the given port.
pub const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Checks that a secret can be sent in a header and is long enough to be one.
pub fn secret(found: Found<String>) -> Result<SecretString, Error> {
    let Found { value, origin } = found;
    if value.len() < MIN_KEY_CHARACTERS {
        return Err(origin.error(format!(
            "must have at least {MIN_KEY_CHARACTERS} characters"
        )));
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(origin.error("must be visible ASCII characters without spaces"));
    }
    Ok(value.into())
}

fn facade_address(
    listen_flag: Option<String>,
    sources: &Sources<'_>,
) -> Result<Found<SocketAddr>, Error> {
    let whole = flag("--listen", listen_flag).or_else(|| sources.environment(&["TALARIA_LISTEN"]));
    if let Some(found) = whole {
        return address(found);
    }
    let host = sources.environment(&["API_SERVER_HOST"]);
    let port = sources.environment(&["API_SERVER_PORT"]);
    if host.is_some() || port.is_some() {
        return address_of_parts(host, port);
    }
    match sources.file("server.listen", |file| file.content.server.listen.clone()) {
        Some(found) => address(found),
        None => Ok(Found {
            value: loopback(DEFAULT_PORT),
            origin: Origin::Default("TALARIA_LISTEN"),
        }),
    }
}

fn address_of_parts(
    host: Option<Found<String>>,
    port: Option<Found<String>>,
) -> Result<Found<SocketAddr>, Error> {
    let port = match port {
        None => DEFAULT_PORT,
        Some(Found { value, origin }) => value
            .parse()
            .map_err(|_| origin.error(format!("{value:?} is not a port number")))?,
    };
    let Some(Found { value, origin }) = host else {
        let origin = Origin::Environment("API_SERVER_PORT".to_owned());
        return Ok(Found {
            value: loopback(port),
            origin,
        });
    };
    let ip = ip(&value).ok_or_else(|| {
        origin.error(format!(
            "{value:?} is not an IP address such as 127.0.0.1 or 0.0.0.0"
        ))
    })?;
    Ok(Found {
        value: SocketAddr::new(ip, port),
        origin,
    })
}

fn address(found: Found<String>) -> Result<Found<SocketAddr>, Error> {
    let Found {
        value: text,
        origin,
    } = found;
    let of_name = || {
        let (host, port) = text.split_once(':')?;
        Some(SocketAddr::new(ip(host)?, port.parse().ok()?))
    };
    match text.parse().ok().or_else(of_name) {
        Some(value) => Ok(Found { value, origin }),
        None => Err(origin.error(format!(
            "{text:?} is not an address such as 127.0.0.1:{DEFAULT_PORT}"
        ))),
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    if host == "localhost" {
        Some(Ipv4Addr::LOCALHOST.into())
    } else {
        host.parse().ok()
    }
}

fn api_key(
    listen: &Found<SocketAddr>,
    sources: &Sources<'_>,
) -> Result<Option<SecretString>, Error> {
    match sources.environment(&["TALARIA_API_KEY", "API_SERVER_KEY"]) {
        Some(found) => secret(found).map(Some),
        None if listen.value.ip().is_loopback() => Ok(None),
        None => Err(Origin::Default("TALARIA_API_KEY").error(format!(
            "a key of at least {MIN_KEY_CHARACTERS} characters is required, because {} from {} can be reached from other machines",
            listen.value, listen.origin
        ))),
    }
}

fn cors_origins(sources: &Sources<'_>) -> Result<CorsOrigins, Error> {
    let from_env = sources
        .environment(&["TALARIA_CORS_ORIGINS", "API_SERVER_CORS_ORIGINS"])
        .map(|Found { value, origin }| Found {
            value: split(&value),
            origin,
        });
    let from_file = || {
        sources.file("server.cors_origins", |file| {
            file.content
                .server
                .cors_origins
                .clone()
                .map(super::file::OneOrMany::into_vec)
        })
    };
    let Some(Found {
        value: origins,
        origin,
    }) = from_env.or_else(from_file)
    else {
        return Ok(CorsOrigins::List(Vec::new()));
    };
    if origins == ["*"] {
        return Ok(CorsOrigins::Any);
    }
    if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
        return Err(origin.error(format!(
            "{wrong:?} is not an origin such as https://example.com (or \"*\" alone)"
        )));
    }
    Ok(CorsOrigins::List(origins))
}

fn split(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether `text` has the form in which browsers send `Origin`: scheme, host, port, no path.
fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && !host.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && !host.contains(['/', '?', '#', '@', '*'])
    })
}

/// Whether a model name that no agent has is an error. Said of the server, but decided where the agents are.
pub fn strict_models(sources: &Sources<'_>) -> bool {
    sources
        .file
        .is_some_and(|file| file.content.server.strict_models == Some(true))
}
