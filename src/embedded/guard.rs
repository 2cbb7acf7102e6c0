//! The step between us and Postgres that ties its life to ours.
//!
//! A process can only ask for its own end at its parent's death, and the wish is forgotten when it changes its user.
//! So we start ourselves as the user of Postgres, ask there, and then turn into Postgres.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use clap::Args;

/// The hidden command that [`become_postgres`] is reached by.
pub const GUARD_COMMAND: &str = "__postgres-guard";

#[derive(Args, Debug)]
pub struct GuardArgs {
    /// The process whose end shall end Postgres
    parent: i32,
    postgres: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Turns this process into Postgres; returns only if that fails.
pub fn become_postgres(guard: &GuardArgs) -> anyhow::Error {
    if let Err(error) = end_with_parent(guard.parent) {
        return error;
    }
    let error = Command::new(&guard.postgres).args(&guard.args).exec();
    anyhow::Error::new(error).context(format!("running {}", guard.postgres.display()))
}

#[cfg(target_os = "linux")]
fn end_with_parent(parent: i32) -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

    // SIGINT is Postgres' fast shutdown.
    set_parent_process_death_signal(Some(Signal::INT)).context("asking to end with talaria")?;
    // It may have ended before we asked.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .is_some_and(|pid| pid.get() == parent)
    {
        Ok(())
    } else {
        anyhow::bail!("talaria ended before Postgres started")
    }
}

/// Elsewhere the next start stops what was left over.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_parent: i32) -> anyhow::Result<()> {
    Ok(())
}

/// How we start ourselves.
pub fn own_program() -> anyhow::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        // Works for a user who cannot reach our file by its path, and after the file was replaced.
        Ok(link)
    } else {
        std::env::current_exe().context("finding our own program")
    }
}
