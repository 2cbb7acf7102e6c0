//! The `talaria` program: reads what it is told, starts what was asked for, and stops it in order.

mod banner;
mod cli;
mod embedded;
mod import;
mod logging;
mod services;
mod settings;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::banner::{Banner, database_place};
use crate::cli::{Cli, Invocation};
use crate::embedded::{Embedded, InUse};
use crate::services::AllInOne;
use crate::settings::{Database, Role, Server, Settings};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What a process that was told something wrong ends with.
const WRONG_SETTING: u8 = 2;

fn main() -> ExitCode {
    let command = match Cli::parse().invocation() {
        Invocation::Command(command) => command,
        Invocation::PostgresGuard(guard) => return failed(&embedded::become_postgres(&guard)),
    };
    // Read as text: a variable that is none counts as not set.
    let settings = match Settings::load(command, &|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("talaria: {error}");
            return ExitCode::from(WRONG_SETTING);
        }
    };
    match logging::start(&settings.log).and_then(|()| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("talaria: {error:#}");
    ExitCode::FAILURE
}

/// Runs until asked to stop. On the main thread, which the embedded Postgres must be started by.
#[tokio::main]
async fn run(settings: &Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let asked = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("stopping; a second signal ends it at once");
        stop.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let work = async {
        match &settings.role {
            Role::Serve { server, database } => {
                serve(settings, server, database, stop.clone()).await
            }
            Role::Gateway {
                server,
                orchestrators,
                stores,
            } => services::run_gateway(settings, server, orchestrators, stores, stop.clone()).await,
            Role::Orchestrator {
                listen,
                advertise,
                stores,
            } => {
                let advertise = advertise.as_deref();
                services::run_orchestrator(settings, *listen, advertise, stores, stop.clone()).await
            }
            Role::Store {
                listen,
                database_url,
            } => {
                let url = database_url.expose_secret();
                services::run_store(settings, *listen, url, stop.clone()).await
            }
            Role::Migrate { database_url } => services::migrate(database_url.expose_secret()).await,
            Role::ImportHermes {
                from,
                database,
                tenant,
            } => import_hermes(from, database, tenant, &stop).await,
        }
    };
    tokio::select! {
        result = work => result,
        () = asked => bail!("stopped before everything was put away"),
    }
}

async fn serve(
    settings: &Settings,
    server: &Server,
    database: &Database,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut embedded = match database {
        Database::Embedded { data_dir } => tokio::select! {
            embedded = Embedded::start(data_dir) => Some(embedded?),
            () = stop.cancelled() => return Ok(()),
        },
        Database::Url(_) => None,
    };
    let url = match (&embedded, database) {
        (Some(embedded), _) => embedded.database_url().to_owned(),
        (None, Database::Url(url)) => url.expose_secret().to_owned(),
        (None, Database::Embedded { .. }) => bail!("the private Postgres did not start"),
    };
    let result = serve_on(settings, server, database, &url, &mut embedded, stop).await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    result
}

async fn import_hermes(
    from: &Path,
    database: &Database,
    tenant: &str,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let source = import::open(from)?;
    let data_dir = match database {
        Database::Url(url) => {
            return import::hermes(&source, url.expose_secret(), tenant, stop).await;
        }
        Database::Embedded { data_dir } => data_dir,
    };
    let embedded = Embedded::start(data_dir).await.map_err(|error| {
        match error.downcast_ref::<InUse>() {
            Some(in_use) => anyhow!(
                "{in_use}: stop it for the time of the import, or give --database-url if its database is another"
            ),
            None => error,
        }
    })?;
    let url = embedded.database_url().to_owned();
    let outcome = import::hermes(&source, &url, tenant, stop).await;
    let stopped = embedded.stop().await;
    outcome.and(stopped)
}

async fn serve_on(
    settings: &Settings,
    server: &Server,
    database: &Database,
    url: &str,
    embedded: &mut Option<Embedded>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let alone = embedded.is_some();
    let services = AllInOne::start(settings, server, url, alone, &stop).await?;
    eprint!(
        "{}",
        banner(settings, server, database, services.address()?)
    );
    let database_ended = async {
        match embedded {
            Some(embedded) => embedded.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = services.run(stop) => result,
        error = database_ended => Err(error),
    }
}

fn banner(settings: &Settings, server: &Server, database: &Database, listen: SocketAddr) -> String {
    let agents: Vec<_> = settings
        .agents
        .iter()
        .map(|agent| (agent.name.as_str(), agent.upstreams.join(", ")))
        .collect();
    let agents: Vec<_> = agents
        .iter()
        .map(|(name, upstreams)| (*name, upstreams.as_str()))
        .collect();
    let store = match database {
        Database::Embedded { data_dir } => format!("embedded in {}", data_dir.display()),
        Database::Url(url) => database_place(url.expose_secret()),
    };
    let needs_key = server.api_key.is_some();
    Banner {
        listen,
        needs_key,
        agents: &agents,
        store: &store,
    }
    .text()
}
