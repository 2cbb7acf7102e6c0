//! What an earlier process that was killed may have left running.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};
use tracing::warn;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Stops a server that still runs on `cluster`, and forgets one whose process id is someone else's today.
///
/// Only for whoever holds the lock of the data directory: then such a server can have no living owner.
pub async fn stop(cluster: &Path) -> anyhow::Result<()> {
    let Some(pid) = recorded_pid(cluster)? else {
        return Ok(());
    };
    let cluster =
        &fs::canonicalize(cluster).with_context(|| format!("opening {}", cluster.display()))?;
    match owner_of(pid, cluster) {
        // Postgres removes the file of a dead server itself, after checking that none of its children live.
        Owner::Nobody => return Ok(()),
        Owner::SomeoneElse => {
            return fs::remove_file(cluster.join("postmaster.pid"))
                .context("removing the stale postmaster.pid");
        }
        Owner::LeftOver => {}
    }

    warn!(
        pid = pid.as_raw_nonzero().get(),
        "stopping the Postgres that a killed talaria left running"
    );
    for signal in [Signal::INT, Signal::QUIT] {
        match kill_process(pid, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("stopping the old Postgres {pid:?}"));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if matches!(owner_of(pid, cluster), Owner::Nobody | Owner::SomeoneElse) {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    bail!(
        "the old Postgres server with the process id {} does not stop",
        pid.as_raw_nonzero()
    )
}

/// Whose a recorded process id is.
enum Owner {
    Nobody,
    LeftOver,
    SomeoneElse,
}

fn owner_of(pid: Pid, cluster: &Path) -> Owner {
    match test_kill_process(pid) {
        Ok(()) => {}
        // Not ours to signal means not of the cluster's user, so not this cluster's server; Postgres thinks so too.
        Err(_) => return Owner::Nobody,
    }
    if !cfg!(target_os = "linux") {
        return Owner::LeftOver;
    }
    // A postmaster's working directory is its data directory; a dead one that nobody waited for has none.
    match fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
        Ok(directory) if directory == cluster => Owner::LeftOver,
        Ok(_) => Owner::SomeoneElse,
        Err(_) => Owner::Nobody,
    }
}

fn recorded_pid(cluster: &Path) -> anyhow::Result<Option<Pid>> {
    let path = cluster.join("postmaster.pid");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let first = text.lines().next().unwrap_or_default().trim();
            Ok(first.parse().ok().and_then(Pid::from_raw))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
