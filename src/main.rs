//! The `talaria` program: reads what it is told, starts what was asked for, and stops it in order.

mod banner;
mod cli;
mod embedded;
mod logging;
#[expect(
    dead_code,
    reason = "what the services are told is read where they are started"
)]
mod settings;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::banner::{Banner, database_place};
use crate::cli::{Cli, Invocation};
use crate::embedded::Embedded;
use crate::settings::{Database, Role, Server, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    match &settings.role {
        Role::Serve { server, database } => serve(settings, server, database).await,
        role => anyhow::bail!("not built yet: {role:?}"),
    }
}

async fn serve(settings: &Settings, server: &Server, database: &Database) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;

    let mut embedded = match database {
        Database::Embedded { data_dir } => tokio::select! {
            embedded = Embedded::start(data_dir) => Some(embedded?),
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        },
        Database::Url(_) => None,
    };
    if let Some(embedded) = &embedded {
        info!(
            url = embedded.database_url(),
            "the private Postgres is ready"
        );
    }
    eprint!("{}", banner(settings, server, database));

    let stopped = async {
        match &mut embedded {
            Some(embedded) => Err(embedded.ended().await),
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = stopped => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };

    info!("stopping");
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    result
}

fn banner(settings: &Settings, server: &Server, database: &Database) -> String {
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
        listen: server.listen,
        needs_key,
        agents: &agents,
        store: &store,
    }
    .text()
}
