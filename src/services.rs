//! The services of this process: made from the settings, wired to each other, stopped in order.

mod agents;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
use talaria_domain::run::Choice;
use talaria_gateway::{Cors, Gateway};
use talaria_orchestrator::{ApprovalTiming, Orchestrator};
use talaria_runtime::link;
use talaria_runtime::server::GrpcServer;
use talaria_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

use crate::settings::{
    ChatDisconnect, CorsOrigins, Keeping, OnBrokenStream, OnTimeout, Server, Settings,
};

/// How long gRPC calls may take to end when their server stops.
const GRPC_GRACE: Duration = Duration::from_secs(5);

/// All three services in this process.
pub struct AllInOne {
    gateway: Gateway,
    orchestrator: Orchestrator,
    store: Store,
    listener: TcpListener,
    drain: Duration,
}

impl AllInOne {
    /// Migrates the database and starts the services on it. `alone`: nothing else uses this database.
    pub async fn start(
        settings: &Settings,
        server: &Server,
        database_url: &str,
        alone: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        // Before anything else, so that a busy port changes nothing.
        let listener = listen(server.listen).await?;
        let store = start_store(database_url, &settings.keeping).await?;
        let store_link = || link::local(store.server());
        let config = orchestrator_config(settings, String::new(), alone)?;
        let orchestrator = Orchestrator::start(config, store_link())?;
        let gateway = Gateway::new(
            gateway_config(server),
            link::local(orchestrator.server()),
            store_link(),
            stop.clone(),
        );
        let drain = settings.runs.drain;
        Ok(Self {
            gateway,
            orchestrator,
            store,
            listener,
            drain,
        })
    }

    /// The address that clients reach it at.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop`, then ends streams, drains runs, and writes what is left to write.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let served = talaria_gateway::serve(self.gateway, self.listener, stop).await;
        self.orchestrator.stop(self.drain).await;
        self.store.stop().await;
        served.context("serving HTTP")
    }
}

/// A façade alone, until `stop`.
pub async fn run_gateway(
    settings: &Settings,
    server: &Server,
    orchestrator: &str,
    store: &str,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen(server.listen).await?;
    let gateway = Gateway::new(
        gateway_config(server),
        remote(orchestrator, settings)?,
        remote(store, settings)?,
        stop.clone(),
    );
    say_address("gateway", listener.local_addr()?);
    talaria_gateway::serve(gateway, listener, stop)
        .await
        .context("serving HTTP")
}

/// An orchestrator alone, until `stop`.
pub async fn run_orchestrator(
    settings: &Settings,
    address: SocketAddr,
    advertise: &str,
    store: &str,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let server = GrpcServer::bind(address, token(settings)).await?;
    let config = orchestrator_config(settings, advertise.to_owned(), false)?;
    let orchestrator = Orchestrator::start(config, remote(store, settings)?)?;
    say_address("orchestrator", server.address()?);
    let guard = server.guard();
    let service = InterceptedService::new(orchestrator.server(), guard);
    // Callers follow their runs while these drain.
    let grace = settings.runs.drain + GRPC_GRACE;
    let serving = server.with(service).serve(stop.clone(), grace);
    let draining = async {
        stop.cancelled().await;
        orchestrator.stop(settings.runs.drain).await;
    };
    let (outcome, ()) = tokio::join!(serving, draining);
    outcome
}

/// A store alone, until `stop`.
pub async fn run_store(
    settings: &Settings,
    address: SocketAddr,
    database_url: &str,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let server = GrpcServer::bind(address, token(settings)).await?;
    let store = start_store(database_url, &settings.keeping).await?;
    say_address("store", server.address()?);
    let guard = server.guard();
    let service = InterceptedService::new(store.server(), guard);
    let outcome = server.with(service).serve(stop, GRPC_GRACE).await;
    store.stop().await;
    outcome
}

/// Applies migrations and says how many there were.
pub async fn migrate(database_url: &str) -> anyhow::Result<()> {
    let applied = talaria_store::migrate(database_url)
        .await
        .context("migrating the database")?;
    eprintln!("Applied {applied} migrations.");
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

async fn start_store(database_url: &str, keeping: &Keeping) -> anyhow::Result<Store> {
    talaria_store::migrate(database_url)
        .await
        .context("preparing the database")?;
    let config = talaria_store::Config {
        max_responses: keeping.max_responses,
        retention_days: keeping.retention_days,
        event_retention_hours: keeping.event_retention_hours,
        ..talaria_store::Config::new(database_url.to_owned())
    };
    Store::start(&config).context("starting the store")
}

fn say_address(what: &str, address: SocketAddr) {
    eprintln!("Talaria {what} listens on http://{address}");
}

fn token(settings: &Settings) -> Option<String> {
    settings
        .token
        .as_ref()
        .map(|token| token.expose_secret().to_owned())
}

fn remote(url: &str, settings: &Settings) -> anyhow::Result<link::Link> {
    link::remote(url, token(settings)).with_context(|| format!("{url} is no usable URL"))
}

fn gateway_config(server: &Server) -> talaria_gateway::Config {
    talaria_gateway::Config {
        api_key: server.api_key.clone(),
        cors: match &server.cors_origins {
            CorsOrigins::Any => Cors::Any,
            CorsOrigins::List(origins) => Cors::List(origins.clone()),
        },
        max_body_bytes: server.max_body_bytes,
        keepalive: server.keepalive,
        chat_disconnect: match server.chat_disconnect {
            None => talaria_gateway::ChatDisconnect::BySession,
            Some(ChatDisconnect::Detach) => talaria_gateway::ChatDisconnect::Detach,
            Some(ChatDisconnect::Cancel) => talaria_gateway::ChatDisconnect::Cancel,
        },
        tool_progress_events: server.tool_progress_events,
    }
}

fn orchestrator_config(
    settings: &Settings,
    address: String,
    alone: bool,
) -> anyhow::Result<talaria_orchestrator::Config> {
    let agents = settings
        .agents
        .iter()
        .map(|agent| agents::agent_config(settings, agent));
    Ok(talaria_orchestrator::Config {
        agents: agents.collect::<anyhow::Result<_>>()?,
        strict_models: settings.strict_models,
        max_concurrent: settings.runs.max_concurrent as usize,
        on_broken_stream: match settings.runs.on_broken_stream {
            OnBrokenStream::Continue => talaria_orchestrator::OnBrokenStream::Continue,
            OnBrokenStream::Fail => talaria_orchestrator::OnBrokenStream::Fail,
        },
        approval: ApprovalTiming {
            timeout: settings.runs.approval_timeout,
            on_timeout: match settings.runs.approval_on_timeout {
                OnTimeout::Deny => Choice::Deny,
                OnTimeout::Approve => Choice::Once,
            },
        },
        request_mcp: settings.request_mcp.as_ref().map(|request_mcp| {
            let allowed = request_mcp.allow.clone();
            Arc::new(talaria_orchestrator::tools::Egress::new(allowed))
        }),
        max_attempts: settings.runs.max_attempts,
        lease: settings.runs.lease,
        address,
        alone,
    })
}
