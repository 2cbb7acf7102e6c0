//! The processes that a measurement needs: the mock upstream, the proxy, Talaria.

mod process;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

pub use self::process::Process;

use crate::cli::{Measurement, Subject};

/// Everything that runs during a measurement.
pub struct Stage {
    mock: Process,
    proxy: Option<Process>,
    talaria: Option<Talaria>,
    server: PathBuf,
}

/// A `talaria serve` with a database of its own.
pub struct Talaria {
    pub process: Process,
    data: TempDir,
}

impl Stage {
    /// Starts what the subjects need.
    pub async fn set(measurement: &Measurement) -> anyhow::Result<Self> {
        let server = match &measurement.server {
            Some(path) => path.clone(),
            None => own_program()?.with_file_name("talaria"),
        };
        let mut mock = Command::new(own_program()?);
        mock.arg("mock");
        let mut stage = Self {
            mock: Process::start("the mock upstream", mock).await?,
            proxy: None,
            talaria: None,
            server,
        };
        if measurement.subjects.contains(&Subject::Proxy) {
            stage.proxy = Some(stage.start_proxy().await?);
        }
        if measurement
            .subjects
            .iter()
            .any(|subject| subject.is_talaria())
        {
            stage.talaria = Some(stage.start_talaria().await?);
        }
        Ok(stage)
    }

    /// The process that answers for a subject.
    pub fn process(&self, subject: Subject) -> anyhow::Result<&Process> {
        let process = match subject {
            Subject::Straight => Some(&self.mock),
            Subject::Proxy => self.proxy.as_ref(),
            Subject::Durable | Subject::Ephemeral => {
                self.talaria.as_ref().map(|talaria| &talaria.process)
            }
        };
        process.with_context(|| format!("nothing was started for {subject:?}"))
    }

    pub fn talaria(&self) -> Option<&Talaria> {
        self.talaria.as_ref()
    }

    /// Starts another proxy.
    pub async fn start_proxy(&self) -> anyhow::Result<Process> {
        let mut proxy = Command::new(own_program()?);
        proxy.args(["proxy", "--upstream", &self.mock.address.to_string()]);
        Process::start("the proxy", proxy).await
    }

    /// Starts another Talaria, with a new database.
    pub async fn start_talaria(&self) -> anyhow::Result<Talaria> {
        ensure!(
            self.server.exists(),
            "there is no {}: build it with `cargo build --release`, name it with --server, or leave it out with --subjects straight,proxy",
            self.server.display()
        );
        let data = tempfile::Builder::new()
            .prefix("talaria-bench-")
            // The user that Postgres runs as, when we are root, must get through.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("creating a data directory")?;
        let config = data.path().join("talaria.toml");
        fs::write(&config, settings(self.mock.address)).context("writing the settings")?;

        let mut serve = Command::new(&self.server);
        serve
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(
                "RUST_LOG",
                std::env::var_os("RUST_LOG").unwrap_or_else(|| "warn".into()),
            )
            .current_dir(data.path())
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path());
        Ok(Talaria {
            process: Process::start("talaria", serve).await?,
            data,
        })
    }

    /// Stops everything in order.
    pub async fn clear(self) -> anyhow::Result<()> {
        if let Some(talaria) = self.talaria {
            talaria.stop().await?;
        }
        if let Some(proxy) = self.proxy {
            proxy.stop().await?;
        }
        self.mock.stop().await
    }
}

impl Talaria {
    /// The directory of its database's socket.
    pub fn socket(&self) -> PathBuf {
        self.data.path().join("socket")
    }

    /// Where it keeps its data; on the disk that counts.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}

fn settings(mock: SocketAddr) -> String {
    format!(
        r#"[runs]
max_concurrent = 4096

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
