//! Cleaning up after a test process that was killed before it could clean up itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A shell that waits for the death of this process and then runs a clean-up script.
///
/// It holds the reading end of a pipe whose only writing end is here: however this process ends, the pipe closes.
/// Dropping the guard disarms it, so nothing runs when the test cleaned up in the ordinary way.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// Arms a guard that runs `script` with `arguments` as `$1`, `$2` … when this process is gone.
    pub(crate) fn arm(script: &str, arguments: &[&str]) -> io::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", &format!("read -r never\n{script}"), "guard"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The signal that ends the tests' process group must not end its guard.
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The pipe is still open here, so the script has not begun. It may only be gone already, which is as good.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
