//! The processes that a measurement needs: the mock upstream, the proxy, Talaria.

mod part;
mod postgres;
mod process;
mod talaria;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

pub use self::part::{Instances, Part};
pub use self::process::Process;
pub use self::talaria::{Setup, Shape, Talaria};

use crate::cli::Subject;
use crate::processes::Group;

/// Everything that runs during a measurement.
pub struct Stage {
    mock: Process,
    proxy: Option<Process>,
    /// `talaria serve`.
    one: Option<Talaria>,
    apart: Option<Talaria>,
    server: PathBuf,
}

/// What a load is put on.
pub struct Target {
    pub address: SocketAddr,
    pub group: Group,
}

impl Stage {
    /// Starts the mock upstream and what the subjects need besides. `server` is the program `talaria`, if it is not
    /// the one beside this program.
    pub async fn set(server: Option<&Path>, subjects: &[Subject]) -> anyhow::Result<Self> {
        let mut mock = Command::new(own_program()?);
        mock.arg("mock");
        let mut stage = Self {
            mock: Process::start("the mock upstream", mock).await?,
            proxy: None,
            one: None,
            apart: None,
            server: server_program(server)?,
        };
        let needs = |shape| subjects.iter().any(|s| s.shape() == Some(shape));
        if subjects.contains(&Subject::Proxy) {
            stage.proxy = Some(stage.start_proxy().await?);
        }
        if needs(Shape::OneProcess) {
            stage.one = Some(stage.start_talaria(Shape::OneProcess).await?);
        }
        if needs(Shape::Apart(Instances::ONE)) {
            let shape = Shape::Apart(Instances::ONE);
            stage.apart = Some(stage.start_talaria(shape).await?);
        }
        Ok(stage)
    }

    /// What answers for a subject.
    pub fn target(&self, subject: Subject) -> anyhow::Result<Target> {
        let target = match subject {
            Subject::Straight => Some(self.mock.target()),
            Subject::Proxy => self.proxy.as_ref().map(Process::target),
            Subject::Durable | Subject::Ephemeral => self.one.as_ref().map(Talaria::target),
            Subject::Apart => self.apart.as_ref().map(Talaria::target),
        };
        target.with_context(|| format!("nothing was started for {subject:?}"))
    }

    /// The Talaria that answers for a subject, if one does.
    pub fn talaria(&self, subject: Subject) -> Option<&Talaria> {
        match subject.shape()? {
            Shape::OneProcess => self.one.as_ref(),
            Shape::Apart(_) => self.apart.as_ref(),
        }
    }

    /// Whichever Talaria was started.
    pub fn any_talaria(&self) -> Option<&Talaria> {
        self.one.as_ref().or(self.apart.as_ref())
    }

    /// The program `talaria`.
    pub fn server(&self) -> &Path {
        &self.server
    }

    /// Starts another proxy.
    pub async fn start_proxy(&self) -> anyhow::Result<Process> {
        let mut proxy = Command::new(own_program()?);
        proxy.args(["proxy", "--upstream", &self.mock.address.to_string()]);
        Process::start("the proxy", proxy).await
    }

    /// Starts another Talaria, with a new database and room for any number of runs.
    pub async fn start_talaria(&self, shape: Shape) -> anyhow::Result<Talaria> {
        self.start_talaria_with(&Setup {
            shape,
            max_concurrent: Some(8192),
            max_starting: None,
        })
        .await
    }

    /// Starts another Talaria, with a new database.
    pub async fn start_talaria_with(&self, setup: &Setup) -> anyhow::Result<Talaria> {
        Talaria::start(&self.server, self.mock.address, setup).await
    }

    /// Stops everything in order.
    pub async fn clear(self) -> anyhow::Result<()> {
        for talaria in [self.one, self.apart].into_iter().flatten() {
            talaria.stop().await?;
        }
        if let Some(proxy) = self.proxy {
            proxy.stop().await?;
        }
        self.mock.stop().await
    }
}

/// The program `talaria` that was named, or the one beside this program.
pub fn server_program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => Ok(own_program()?.with_file_name("talaria")),
    }
}

fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}
