//! The Postgres of services that run apart: the one that `talaria serve` made, started again as it had started it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::process;
use crate::database::Session;
use crate::follow;

const START_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A running server; it is killed when this is dropped.
pub struct Postgres {
    pub pid: u32,
    child: Child,
}

impl Postgres {
    /// Starts what is in the data directory of a Talaria that was stopped, with the options that it last had.
    pub async fn start(data: &Path) -> anyhow::Result<Self> {
        let cluster = data.join("postgres");
        let options = fs::read_to_string(cluster.join("postmaster.opts"))
            .context("reading how Postgres was started")?;
        let owner = fs::metadata(&cluster).context("looking at the database")?;

        let mut command = follow::command();
        command
            .args(words(&options))
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal is for us; we stop it after what uses it.
            .process_group(0)
            .kill_on_drop(true);
        run_as(&mut command, &owner);
        let mut child = command.spawn().context("starting Postgres")?;
        let pid = child.id().context("reading the process id")?;
        timeout(START_PATIENCE, ready(&mut child, &data.join("socket")))
            .await
            .context("Postgres does not take connections")??;
        Ok(Self { pid, child })
    }

    /// Stops it by its fast shutdown.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        process::stop("Postgres", &mut self.child, Signal::INT).await
    }
}

async fn ready(child: &mut Child, socket: &Path) -> anyhow::Result<()> {
    while Session::open(socket).await.is_err() {
        if let Some(status) = child.try_wait().context("waiting for Postgres")? {
            bail!("Postgres ended ({status})");
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn run_as(command: &mut Command, owner: &fs::Metadata) {
    if rustix::process::geteuid().as_raw() != owner.uid() {
        command.uid(owner.uid()).gid(owner.gid());
    }
}

/// The words of a command line as Postgres notes it: `program "argument" "argument"`.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim();
    let (program, arguments) = line.split_once(" \"").unwrap_or((line, ""));
    let arguments = arguments.strip_suffix('"').unwrap_or(arguments);
    let mut words = vec![program];
    if !arguments.is_empty() {
        words.extend(arguments.split("\" \""));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_what_stands_in_quotes() {
        let line = "/usr/bin/postgres \"-D\" \"/a b\" \"-c\" \"listen_addresses=\"\n";

        assert_eq!(
            words(line),
            ["/usr/bin/postgres", "-D", "/a b", "-c", "listen_addresses="]
        );
        assert_eq!(words("/usr/bin/postgres\n"), ["/usr/bin/postgres"]);
    }
}
