//! Cleaning up after a test process that was killed before it could clean up itself.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::process::Pid;

/// A shell that waits for the death of this process and then runs a clean-up script.
///
/// It holds the reading end of a pipe whose only writing end is here: however this process ends, the pipe closes.
/// Dropping the guard disarms it, so nothing runs when the test cleaned up in the ordinary way.
///
/// The shell leads a process group that what it guards joins at birth. So there is no moment without a guard, and the
/// group's number (`$$` in the script) belongs to nobody else until the guard is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
    group: Pid,
}

impl Guard {
    /// Arms a guard that runs `script` with `arguments` as `$1`, `$2` … when this process is gone.
    pub(crate) fn arm(script: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", &format!("read -r never\n{script}"), "guard"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The signal that ends the tests' process group must not end its guard.
            .process_group(0)
            .spawn()
            .context("starting a guard")?;
        let group = Pid::from_raw(shell.id().cast_signed()).context("a process id is never 0")?;
        Ok(Self { shell, group })
    }

    /// The group for what is guarded.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The pipe is still open here, so the script has not begun. It may only be gone already, which is as good.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
