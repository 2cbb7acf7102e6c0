//! A Talaria with a database of its own: as one process, or every service apart.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::postgres::Postgres;
use super::{Process, Target};
use crate::database::Session;
use crate::processes::Group;

/// How the services are spread over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `talaria serve`.
    OneProcess,
    /// Store, orchestrator and gateway, one of each.
    Apart,
}

/// How a Talaria is set up.
pub struct Setup {
    pub shape: Shape,
    /// `runs.max_concurrent`, and then nothing is refused for being late either; Talaria's own defaults if there is none.
    pub max_concurrent: Option<u32>,
}

/// A running Talaria.
pub struct Talaria {
    /// The one that clients speak to is the first, and the first to be stopped.
    services: Vec<Process>,
    /// Where the services do not start it themselves.
    postgres: Option<Postgres>,
    data: TempDir,
}

impl Talaria {
    /// Starts the program `server`, with the mock as its upstream.
    pub async fn start(server: &Path, mock: SocketAddr, setup: &Setup) -> anyhow::Result<Self> {
        ensure!(
            server.exists(),
            "there is no {}: build it with `cargo build --release`, name it with --server, or leave it out with --subjects straight,proxy",
            server.display()
        );
        let data = tempfile::Builder::new()
            .prefix("talaria-bench-")
            // The user that Postgres runs as, when we are root, must get through.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("creating a data directory")?;
        fs::write(config(&data), settings(mock, setup)).context("writing the settings")?;

        let data_dir = data.path().to_string_lossy();
        let mut talaria = Self {
            services: vec![
                start_service(server, &data, &["serve", "--data-dir", &data_dir]).await?,
            ],
            postgres: None,
            data,
        };
        if setup.shape == Shape::Apart {
            talaria.take_apart(server).await?;
        }
        Ok(talaria)
    }

    /// Goes on with the same database and a process for each service.
    async fn take_apart(&mut self, server: &Path) -> anyhow::Result<()> {
        for service in self.services.drain(..) {
            service.stop().await?;
        }
        self.postgres = Some(Postgres::start(self.data.path()).await?);
        self.connect().await?;

        let host = self.socket().to_string_lossy().replace('/', "%2F");
        let database = format!("postgres://talaria@{host}/postgres");
        let store = ["store", "--database-url", &database];
        let store = start_service(server, &self.data, &store).await?;
        let store_url = format!("http://{}", store.address);
        let orchestrator = ["orchestrator", "--store", &store_url];
        let orchestrator = start_service(server, &self.data, &orchestrator).await?;
        let orchestrator_url = format!("http://{}", orchestrator.address);
        let gateway = [
            "gateway",
            "--store",
            &store_url,
            "--orchestrator",
            &orchestrator_url,
        ];
        let gateway = start_service(server, &self.data, &gateway).await?;
        self.services = vec![gateway, orchestrator, store];
        Ok(())
    }

    /// Where clients reach it, and what it consists of.
    pub fn target(&self) -> Target {
        Target {
            address: self.services[0].address,
            group: Group {
                services: self.services.iter().map(|service| service.pid).collect(),
                postgres: self.postgres.as_ref().map(|postgres| postgres.pid),
            },
        }
    }

    /// Where it keeps its data; on the disk that counts.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The directory of its database's socket.
    pub fn socket(&self) -> PathBuf {
        self.data.path().join("socket")
    }

    /// Opens a session with its database.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Session::open(&self.socket()).await
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        for service in self.services {
            service.stop().await?;
        }
        match self.postgres {
            Some(postgres) => postgres.stop().await,
            None => Ok(()),
        }
    }
}

/// Starts one process of it with these arguments.
async fn start_service(
    server: &Path,
    data: &TempDir,
    arguments: &[&str],
) -> anyhow::Result<Process> {
    let mut command = Command::new(server);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env(
            "RUST_LOG",
            std::env::var_os("RUST_LOG").unwrap_or_else(|| "warn".into()),
        )
        .current_dir(data.path())
        .args(arguments)
        .args(["--listen", "127.0.0.1:0", "--config"])
        .arg(config(data));
    Process::start("talaria", command).await
}

fn config(data: &TempDir) -> PathBuf {
    data.path().join("talaria.toml")
}

fn settings(mock: SocketAddr, setup: &Setup) -> String {
    let runs = setup
        .max_concurrent
        .map(|count| format!("max_concurrent = {count}\noverload_delay_ms = 0"))
        .unwrap_or_default();
    format!(
        r#"[runs]
{runs}

[[agents]]
name = "bench"
upstream = "mock"
model = "mock"

[upstreams.mock]
kind = "responses"
base_url = "http://{mock}/v1"
"#
    )
}
