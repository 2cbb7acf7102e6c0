//! A server that was started and says where it listens.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Target;
use crate::processes::Group;
use crate::serve::LISTENS_ON;

const START_PATIENCE: Duration = Duration::from_mins(2);
const STOP_PATIENCE: Duration = Duration::from_mins(1);

/// A running server; it is killed when this is dropped.
pub struct Process {
    pub address: SocketAddr,
    pub pid: u32,
    what: &'static str,
    child: Child,
    /// Passes on what the server says.
    _listener: JoinSet<()>,
}

impl Process {
    /// Starts `command` and waits until it says where it listens.
    pub async fn start(what: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        let pid = child.id().context("reading the process id")?;
        let stderr = child.stderr.take().context("reading what it says")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = timeout(START_PATIENCE, address(&mut lines))
            .await
            .unwrap_or_else(|_| bail!("it did not say where it listens"))
            .with_context(|| format!("starting {what}"))?;

        let mut listener = JoinSet::new();
        listener.spawn(pass_on(what, lines));
        Ok(Self {
            address,
            pid,
            what,
            child,
            _listener: listener,
        })
    }

    /// Where clients reach it, and that it is all there is.
    pub fn target(&self) -> Target {
        Target {
            address: self.address,
            group: Group {
                services: vec![self.pid],
                postgres: None,
            },
        }
    }

    /// Asks the server to stop and waits until it has.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        stop(self.what, &mut self.child, Signal::TERM).await
    }
}

/// Sends a child process the signal that asks it to stop, and waits until it has.
pub async fn stop(what: &str, child: &mut Child, signal: Signal) -> anyhow::Result<()> {
    // None: it has ended and was waited for.
    if let Some(pid) = child.id() {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("reading the process id")?;
        kill_process(pid, signal).with_context(|| format!("stopping {what}"))?;
    }
    timeout(STOP_PATIENCE, child.wait())
        .await
        .with_context(|| format!("{what} does not stop"))?
        .with_context(|| format!("waiting for {what}"))?;
    Ok(())
}

async fn address(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<SocketAddr> {
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.context("reading what it says")? {
        if let Some((_, address)) = line.split_once(LISTENS_ON) {
            return address
                .trim()
                .parse()
                .with_context(|| format!("reading the address {address:?}"));
        }
        said.push_str(&line);
        said.push('\n');
    }
    bail!("it ended, after it said:\n{said}")
}

async fn pass_on(what: &str, mut lines: Lines<BufReader<ChildStderr>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        // The rest of Talaria's greeting.
        if !line.starts_with("  ") && line != "Try it:" {
            eprintln!("  {what}: {line}");
        }
    }
}
