//! A program whose life is tied to ours, also where it runs as another user.
//!
//! A process can only ask for its own end at its parent's death, and the wish is forgotten when it changes its user. So
//! we start ourselves as that user, ask there, and then turn into the program.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// The hidden command that [`become_program`] is reached by.
const NAME: &str = "__follow";

/// A command that needs only the program and its arguments.
pub fn command() -> Command {
    // Works for a user who cannot reach our file by its path.
    let mut command = Command::new("/proc/self/exe");
    command.arg(NAME).arg(std::process::id().to_string());
    command
}

/// Turns this process into `program`, which gets Postgres' signal for a fast shutdown when `parent` ends.
pub fn become_program(parent: i32, program: &[OsString]) -> anyhow::Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::INT)).context("following the parent")?;
    // It may have ended before we asked.
    let is_there = getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(parent);
    ensure!(is_there, "the parent has ended");
    let (name, arguments) = program.split_first().context("there is no program")?;
    let error = std::process::Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", name.display()))
}
