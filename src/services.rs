//! The services of this process: made from the settings, wired to each other, stopped in order.

mod agents;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, ensure};
use secrecy::ExposeSecret;
use talaria_domain::run::Choice;
use talaria_gateway::{Cors, Gateway};
use talaria_orchestrator::{ApprovalTiming, Orchestrator};
use talaria_runtime::link::{self, Replicas};
use talaria_runtime::server::GrpcServer;
use talaria_store::Store;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

use crate::settings::{
    ChatDisconnect, CorsOrigins, Keeping, OnBrokenStream, OnTimeout, Server, Settings,
};

/// How long the names of the stores may be unknown at the start.
const NAMES: Duration = Duration::from_mins(1);
/// Runs that may begin at a time, for each processor, where no number is set: that many short ones keep it busy.
const STARTING_PER_PROCESSOR: usize = 16;
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
        let renewals = store_link();
        let orchestrator = Orchestrator::start(config, store_link(), move || {
            Ok::<_, std::convert::Infallible>(renewals)
        })?;
        let gateway = Gateway::new(
            gateway_config(server),
            Replicas::local(link::local(orchestrator.server())),
            store_link(),
            stop.clone(),
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

/// A façade alone. From `stop` on it is not ready, and a moment later it stops.
pub async fn run_gateway(
    settings: &Settings,
    server: &Server,
    orchestrators: &[String],
    stores: &[String],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen(server.listen).await?;
    let stores = replicas(stores, settings)?;
    let stop_now = CancellationToken::new();
    let gateway = Gateway::new(
        gateway_config(server),
        replicas(orchestrators, settings)?,
        stores.link(),
        stop.clone(),
        stop_now.clone(),
    );
    say_address("gateway", listener.local_addr()?);
    let serving = talaria_gateway::serve(gateway, listener, stop_now.clone());
    let stopping = async {
        stop.cancelled().await;
        tokio::time::sleep(server.drain).await;
        stop_now.cancel();
    };
    let (outcome, ()) = tokio::join!(serving, stopping);
    outcome.context("serving HTTP")
}

/// An orchestrator alone, until `stop`.
pub async fn run_orchestrator(
    settings: &Settings,
    address: SocketAddr,
    advertise: Option<&str>,
    stores: &[String],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let server = GrpcServer::bind(address, token(settings)).await?;
    let advertise = match advertise {
        Some(advertise) => advertise.to_owned(),
        None => own_url(server.address()?, stores).await?,
    };
    tracing::info!(advertise, "others reach this process there");
    let config = orchestrator_config(settings, advertise, false)?;
    // Renewals have connections of their own.
    let (urls, secret) = (stores.to_owned(), token(settings));
    let renewals = move || Replicas::remote(&urls, secret.as_deref()).map(|stores| stores.link());
    let stores = replicas(stores, settings)?;
    let orchestrator = Orchestrator::start(config, stores.link(), renewals)?;
    say_address("orchestrator", server.address()?);
    let guard = server.guard();
    let runs = InterceptedService::new(orchestrator.server(), guard.clone());
    let peers = InterceptedService::new(orchestrator.peer_server(), guard);
    let server = server.with(runs).with(peers);
    // Callers reach their runs for as long as there are any.
    let stopped = CancellationToken::new();
    let (healthy, is_healthy) = watch::channel(false);
    let serving = server.serve(is_healthy, stopped.clone(), GRPC_GRACE);
    let draining = async {
        stop.run_until_cancelled(orchestrator.tell_health(&healthy))
            .await;
        healthy.send_replace(false);
        orchestrator.stop(settings.runs.drain).await;
        stopped.cancel();
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
    let outcome = server
        .with(service)
        .serve(store.is_healthy(), stop, GRPC_GRACE)
        .await;
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
        turn_cache_bytes: u64::from(keeping.turn_cache_mb) * 1_000_000,
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

fn replicas(urls: &[String], settings: &Settings) -> anyhow::Result<Replicas> {
    Replicas::remote(urls, token(settings).as_deref())
        .with_context(|| format!("{} cannot be used", urls.join(", ")))
}

/// Where others reach what listens on `address`: there, or, if it listens on all addresses, on the one from which the
/// stores are reached.
async fn own_url(address: SocketAddr, stores: &[String]) -> anyhow::Result<String> {
    if !address.ip().is_unspecified() {
        return Ok(format!("http://{address}"));
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let stores: Vec<http::Uri> = stores.iter().filter_map(|url| url.parse().ok()).collect();
    let unknown = "cannot tell at which address others reach this process: say it with --advertise http://host:port";
    // The stores may have yet to get their names.
    let until = Instant::now() + NAMES;
    loop {
        for uri in &stores {
            // Nothing is sent: it only chooses a route.
            let socket = UdpSocket::bind((any, 0)).await?;
            let host = uri.host().unwrap_or_default();
            if socket
                .connect((host, uri.port_u16().unwrap_or(80)))
                .await
                .is_ok()
            {
                let own = socket.local_addr()?.ip();
                ensure!(!own.is_loopback(), unknown);
                return Ok(format!("http://{}", SocketAddr::new(own, address.port())));
            }
        }
        ensure!(Instant::now() < until, unknown);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
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
        max_starting: settings.runs.max_starting.map_or_else(
            || STARTING_PER_PROCESSOR * available_parallelism().map_or(1, NonZeroUsize::get),
            |most| most.get() as usize,
        ),
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
        token: settings.token.clone(),
        alone,
    })
}
