//! The settings: from flags, then environment, then file, then defaults, checked before anything is opened.

mod agents;
mod error;
mod file;
mod keeping;
mod server;
mod sources;
#[cfg(test)]
mod tests;
mod tools;
mod unsupported;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use crate::cli::{Command, CommonFlags, ImportSource, OrchestratorFlags};

pub use self::agents::{Agent, Endpoint, Upstream};
pub use self::error::{Error, Origin};
pub use self::file::{Effect, OnBrokenStream, OnTimeout, ToolItems};
pub use self::keeping::Keeping;
pub use self::server::{ChatDisconnect, CorsOrigins, Server};
pub use self::tools::{DEMO_TOOLS, McpServer, RequestMcp, Transport};

use self::agents::{Keys, agents};
use self::error::Found;
use self::file::File;
use self::keeping::keeping;
use self::server::{loopback, secret, server, service_address};
use self::sources::{Sources, flag, required};
use self::tools::{mcp_servers, request_mcp};

const APPROVAL_TIMEOUT: Duration = Duration::from_hours(24);
const ORCHESTRATOR_PORT: u16 = 8643;
const STORE_PORT: u16 = 8644;
const DEFAULT_DATA_DIR: &str = "./.talaria";

/// Everything that a process is told, checked.
#[derive(Debug)]
pub struct Settings {
    pub role: Role,
    pub keeping: Keeping,
    pub runs: Runs,
    /// Whether a model name that no agent has is an error.
    pub strict_models: bool,
    /// At least one; the first is the default.
    pub agents: Vec<Agent>,
    pub upstreams: BTreeMap<String, Upstream>,
    pub mcp_servers: BTreeMap<String, McpServer>,
    /// None: requests may not name MCP servers of their own.
    pub request_mcp: Option<RequestMcp>,
    /// The shared secret of calls between services.
    pub token: Option<SecretString>,
    pub log: Log,
}

/// What this process is, with what only it needs.
#[derive(Debug)]
pub enum Role {
    Serve {
        server: Server,
        database: Database,
    },
    Gateway {
        server: Server,
        orchestrators: Vec<String>,
        stores: Vec<String>,
    },
    Orchestrator {
        listen: SocketAddr,
        /// Where others reach it, if that was said.
        advertise: Option<String>,
        stores: Vec<String>,
    },
    Store {
        listen: SocketAddr,
        database_url: SecretString,
    },
    Migrate {
        database_url: SecretString,
    },
    ImportHermes {
        from: PathBuf,
        database: Database,
        tenant: String,
    },
}

/// Where everything durable rests.
#[derive(Debug)]
pub enum Database {
    /// A private Postgres that lives in the data directory.
    Embedded {
        data_dir: PathBuf,
    },
    Url(SecretString),
}

/// How an orchestrator treats its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// How many one orchestrator executes at a time.
    pub max_concurrent: u32,
    /// How many begin at a time at one orchestrator; others wait a moment, and are refused then. None: by its processors.
    pub max_starting: Option<NonZeroU32>,
    pub lease: Duration,
    /// How long a run may go on after the process was asked to stop.
    pub drain: Duration,
    pub max_attempts: u32,
    pub on_broken_stream: OnBrokenStream,
    /// How long a call waits for a person.
    pub approval_timeout: Duration,
    pub approval_on_timeout: OnTimeout,
}

/// What is logged, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// Directives of `tracing-subscriber`'s `EnvFilter`, known to parse.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Reads and checks the settings of `command`; the environment is read through `env`.
    pub fn load(command: Command, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let config = flag("--config", common_flags(&command).config.clone())
            .or_else(|| Sources { env, file: None }.environment(&["TALARIA_CONFIG"]));
        let (path, asked_by) = match config {
            Some(Found { value, origin }) => (Some(value), origin),
            None => (None, Origin::Default("--config")),
        };
        let file = File::read(path.as_deref(), &asked_by)?;
        Self::from_sources(
            command,
            &Sources {
                env,
                file: file.as_ref(),
            },
        )
    }

    fn from_sources(command: Command, sources: &Sources<'_>) -> Result<Self, Error> {
        if let Some(file) = sources.file {
            unsupported::refuse(file)?;
        }
        let keys = match command {
            Command::Serve(_) | Command::Orchestrator(_) => Keys::Needed,
            Command::Gateway(_) | Command::Store(_) | Command::Migrate(_) | Command::Import(_) => {
                Keys::Unused
            }
        };
        let role = role(command, sources)?;
        let (agents, upstreams) = agents(sources, keys)?;
        Ok(Self {
            role,
            keeping: keeping(sources),
            runs: runs(sources),
            strict_models: server::strict_models(sources),
            agents,
            upstreams,
            mcp_servers: mcp_servers(sources, keys)?,
            request_mcp: request_mcp(sources)?,
            token: sources
                .environment(&["TALARIA_TOKEN"])
                .map(secret)
                .transpose()?,
            log: log(sources)?,
        })
    }
}

fn common_flags(command: &Command) -> &CommonFlags {
    match command {
        Command::Serve(flags) => &flags.common,
        Command::Gateway(flags) => &flags.common,
        Command::Orchestrator(flags) => &flags.common,
        Command::Store(flags) => &flags.common,
        Command::Migrate(flags) => &flags.common,
        Command::Import(flags) => match &flags.source {
            ImportSource::Hermes(flags) => &flags.common,
        },
    }
}

fn role(command: Command, sources: &Sources<'_>) -> Result<Role, Error> {
    Ok(match command {
        Command::Serve(flags) => Role::Serve {
            database: database(flags.database_url, flags.data_dir, sources)?,
            server: server(flags.listen, sources)?,
        },
        Command::Gateway(flags) => Role::Gateway {
            server: server(flags.listen, sources)?,
            orchestrators: service_urls(
                flag("--orchestrator", flags.orchestrator)
                    .or_else(|| sources.environment(&["TALARIA_ORCHESTRATOR"])),
                "--orchestrator",
            )?,
            stores: store_urls(flags.store, sources)?,
        },
        Command::Orchestrator(flags) => orchestrator(flags, sources)?,
        Command::Store(flags) => Role::Store {
            listen: service_address(flags.listen, sources, loopback(STORE_PORT))?,
            database_url: required_database_url(flags.database_url, sources)?,
        },
        Command::Migrate(flags) => Role::Migrate {
            database_url: required_database_url(flags.database_url, sources)?,
        },
        Command::Import(flags) => import(flags.source, sources)?,
    })
}

fn import(source: ImportSource, sources: &Sources<'_>) -> Result<Role, Error> {
    let ImportSource::Hermes(flags) = source;
    let from = PathBuf::from(&flags.from);
    if !from.is_file() {
        let problem = format!("there is no file {}", flags.from);
        return Err(Origin::Flag("--from").error(problem));
    }
    if flags.tenant.trim().is_empty() || flags.tenant.contains('\0') {
        return Err(Origin::Flag("--tenant").error("must be a name"));
    }
    // Named on the command line, the private Postgres is meant, whatever else is configured.
    let database = match flags.data_dir {
        Some(data_dir) => Database::Embedded {
            data_dir: data_dir.into(),
        },
        None => database(flags.database_url, None, sources)?,
    };
    Ok(Role::ImportHermes {
        from,
        database,
        tenant: flags.tenant,
    })
}

fn orchestrator(flags: OrchestratorFlags, sources: &Sources<'_>) -> Result<Role, Error> {
    let listen = service_address(flags.listen, sources, loopback(ORCHESTRATOR_PORT))?;
    let advertise = flag("--advertise", flags.advertise)
        .or_else(|| sources.environment(&["TALARIA_ADVERTISE"]))
        .map(http_url)
        .transpose()?;
    Ok(Role::Orchestrator {
        listen,
        advertise,
        stores: store_urls(flags.store, sources)?,
    })
}

fn store_urls(given: Option<String>, sources: &Sources<'_>) -> Result<Vec<String>, Error> {
    let found = flag("--store", given).or_else(|| sources.environment(&["TALARIA_STORE"]));
    service_urls(found, "--store")
}

/// One URL, or several with commas between them.
fn service_urls(found: Option<Found<String>>, setting: &'static str) -> Result<Vec<String>, Error> {
    let Found { value, origin } = required(found, setting, "the URL of that service is required")?;
    let url = |url: &str| {
        http_url(Found {
            value: url.trim().to_owned(),
            origin: origin.clone(),
        })
    };
    value.split(',').map(url).collect()
}

/// Checks the shape of a URL and takes the slash off its end.
fn http_url(found: Found<String>) -> Result<String, Error> {
    let Found { value, origin } = found;
    let rest = value
        .strip_prefix("http://")
        .or_else(|| value.strip_prefix("https://"));
    match rest {
        Some(rest) if rest.contains('@') => Err(origin.error("must not hold a user or password")),
        Some(rest)
            if !rest.is_empty()
                && !rest.starts_with(['/', ':'])
                && !rest.contains(['?', '#'])
                && rest.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(origin.error("must be a URL such as http://host:port")),
    }
}

fn database(
    url: Option<SecretString>,
    data_dir: Option<String>,
    sources: &Sources<'_>,
) -> Result<Database, Error> {
    if let Some(found) = database_url(url, sources) {
        return checked_database_url(found).map(Database::Url);
    }
    let data_dir = flag("--data-dir", data_dir)
        .or_else(|| sources.environment(&["TALARIA_DATA_DIR"]))
        .map_or_else(|| DEFAULT_DATA_DIR.to_owned(), |found| found.value);
    Ok(Database::Embedded {
        data_dir: data_dir.into(),
    })
}

fn required_database_url(
    given: Option<SecretString>,
    sources: &Sources<'_>,
) -> Result<SecretString, Error> {
    checked_database_url(required(
        database_url(given, sources),
        "TALARIA_DATABASE_URL",
        "is required here: only `talaria serve` brings its own Postgres",
    )?)
}

fn database_url(given: Option<SecretString>, sources: &Sources<'_>) -> Option<Found<SecretString>> {
    let hide = |Found { value, origin }: Found<String>| Found {
        value: value.into(),
        origin,
    };
    flag("--database-url", given)
        .or_else(|| {
            sources
                .environment(&["TALARIA_DATABASE_URL", "DATABASE_URL"])
                .map(hide)
        })
        .or_else(|| {
            sources
                .file("store.database_url", |file| {
                    file.content.store.database_url.clone()
                })
                .map(hide)
        })
}

fn checked_database_url(found: Found<SecretString>) -> Result<SecretString, Error> {
    let url = found.value.expose_secret();
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(found.value),
        // The value may hold a password, so it is not shown.
        _ => Err(found
            .origin
            .error("must be a URL such as postgres://user:password@host/database")),
    }
}

fn runs(sources: &Sources<'_>) -> Runs {
    let section = sources.file.map(|file| &file.content.runs);
    Runs {
        max_concurrent: number(section.and_then(|runs| runs.max_concurrent), 256),
        max_starting: section.and_then(|runs| runs.max_starting),
        lease: seconds(
            section.and_then(|runs| runs.lease_seconds),
            Duration::from_secs(10),
        ),
        drain: Duration::from_secs(section.and_then(|runs| runs.drain_seconds).unwrap_or(30)),
        max_attempts: number(section.and_then(|runs| runs.max_attempts), 3),
        on_broken_stream: section.map_or_else(Default::default, |runs| runs.on_broken_stream),
        approval_timeout: seconds(
            section.and_then(|runs| runs.approval_timeout_seconds),
            APPROVAL_TIMEOUT,
        ),
        approval_on_timeout: section.map_or_else(Default::default, |runs| runs.approval_on_timeout),
    }
}

/// Model calls of one response, for agents that say nothing.
fn max_steps(sources: &Sources<'_>) -> u32 {
    let section = sources.file.map(|file| &file.content.runs);
    number(section.and_then(|runs| runs.max_steps), 64)
}

fn number(value: Option<NonZeroU32>, default: u32) -> u32 {
    value.map_or(default, Into::into)
}

fn seconds(value: Option<NonZeroU64>, default: Duration) -> Duration {
    value.map_or(default, |seconds| Duration::from_secs(seconds.get()))
}

fn log(sources: &Sources<'_>) -> Result<Log, Error> {
    let format = match sources.environment(&["TALARIA_LOG"]) {
        None => LogFormat::Text,
        Some(Found { value, .. }) if value == "text" => LogFormat::Text,
        Some(Found { value, .. }) if value == "json" => LogFormat::Json,
        Some(Found { value, origin }) => {
            return Err(origin.error(format!("{value:?} is neither \"text\" nor \"json\"")));
        }
    };
    let filter = match sources.environment(&["RUST_LOG"]) {
        None => "info".to_owned(),
        Some(Found { value, origin }) => match EnvFilter::builder().parse(&value) {
            Ok(_) => value,
            Err(error) => return Err(origin.error(format!("{value:?}: {error}"))),
        },
    };
    Ok(Log { format, filter })
}
