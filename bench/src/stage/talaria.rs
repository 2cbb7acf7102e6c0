//! A Talaria with a database of its own: as one process, or every service apart.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::part::{Instances, Part};
use super::postgres::Postgres;
use super::{Process, Target};
use crate::database::Session;
use crate::processes::Group;

/// How the services are spread over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `talaria serve`.
    OneProcess,
    /// Stores, orchestrators and gateways, so many of each.
    Apart(Instances),
}

/// How a Talaria is set up.
pub struct Setup {
    pub shape: Shape,
    /// `runs.max_concurrent`, and as many may begin at a time where nothing else is said; Talaria's own defaults if there is
    /// none.
    pub max_concurrent: Option<u32>,
    /// `runs.max_starting`.
    pub max_starting: Option<u32>,
}

/// A running Talaria.
pub struct Talaria {
    /// In the order in which they are stopped: those that clients speak to first.
    services: Vec<Service>,
    /// Where the services do not start it themselves.
    postgres: Option<Postgres>,
    data: TempDir,
}

/// A process that serves.
struct Service {
    /// Which part it is; `None` if it is all of them but Postgres.
    part: Option<Part>,
    process: Process,
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
        let whole = Service {
            part: None,
            process: start_service(server, &data, &["serve", "--data-dir", &data_dir]).await?,
        };
        let mut talaria = Self {
            services: vec![whole],
            postgres: None,
            data,
        };
        if let Shape::Apart(instances) = setup.shape {
            talaria.take_apart(server, instances).await?;
        }
        Ok(talaria)
    }

    /// Goes on with the same database and processes of its own for each service.
    async fn take_apart(&mut self, server: &Path, instances: Instances) -> anyhow::Result<()> {
        for service in self.services.drain(..) {
            service.process.stop().await?;
        }
        self.postgres = Some(Postgres::start(self.data.path()).await?);
        self.connect().await?;

        let host = self.socket().to_string_lossy().replace('/', "%2F");
        let database = format!("postgres://talaria@{host}/postgres");
        let options = ["--database-url", &database];
        self.start_part(server, Part::Store, instances.stores, &options)
            .await?;
        let stores = self.urls(Part::Store);
        let options = ["--store", &stores];
        self.start_part(
            server,
            Part::Orchestrator,
            instances.orchestrators,
            &options,
        )
        .await?;
        let orchestrators = self.urls(Part::Orchestrator);
        let options = ["--store", &stores, "--orchestrator", &orchestrators];
        self.start_part(server, Part::Gateway, instances.gateways, &options)
            .await
    }

    /// Starts so many processes of one part, which are to be stopped before those that there are.
    async fn start_part(
        &mut self,
        server: &Path,
        part: Part,
        count: u32,
        options: &[&str],
    ) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut arguments = vec![part.name()];
            arguments.extend(options);
            let service = Service {
                part: Some(part),
                process: start_service(server, &self.data, &arguments).await?,
            };
            self.services.insert(0, service);
        }
        Ok(())
    }

    /// Where other parts reach all processes of this one.
    fn urls(&self, part: Part) -> String {
        let of_part = |service: &&Service| service.part == Some(part);
        let url = |service: &Service| format!("http://{}", service.process.address);
        let urls: Vec<String> = self.services.iter().filter(of_part).map(url).collect();
        urls.join(",")
    }

    /// The processes of one part; none if it is not apart from the others.
    pub fn part(&self, part: Part) -> Group {
        let services = self.services.iter();
        Group {
            services: services
                .filter(|service| service.part == Some(part))
                .map(|service| service.process.pid)
                .collect(),
            postgres: (part == Part::Postgres)
                .then(|| self.postgres.as_ref().map(|postgres| postgres.pid))
                .flatten(),
        }
    }

    /// Where clients reach it: all its gateways.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let services = self.services.iter();
        services
            .filter(|service| matches!(service.part, None | Some(Part::Gateway)))
            .map(|service| service.process.address)
            .collect()
    }

    /// Where clients reach it, and what it consists of.
    pub fn target(&self) -> Target {
        Target {
            address: self.services[0].process.address,
            group: Group {
                services: self.services.iter().map(|it| it.process.pid).collect(),
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
            service.process.stop().await?;
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
    let set = |name: &str, value: Option<u32>| {
        value.map_or_else(String::new, |value| format!("{name} = {value}"))
    };
    let concurrent = set("max_concurrent", setup.max_concurrent);
    let starting = set("max_starting", setup.max_starting.or(setup.max_concurrent));
    format!(
        r#"[runs]
{concurrent}
{starting}

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
