//! A server's process, with everything that it starts.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// What servers see of our environment, as in other MCP clients: ours holds keys that are none of their business.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How long a server may take to leave once its input is closed, and what it wrote to be read once it left.
const GRACE: Duration = Duration::from_millis(500);
const LONGEST_LINE: usize = 1000;

/// A running server. Dropping it ends the process and all others of its group.
#[derive(Debug)]
pub(super) struct Process {
    /// Ends when the process does.
    _owner: JoinSet<()>,
}

/// What is spoken through.
pub(super) struct Pipes {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
}

/// Starts a server. `gone` is cancelled when its process ended; the process is ended when `gone` is cancelled.
pub(super) fn start(
    name: &str,
    command: &str,
    args: &[String],
    env: &[(String, String)],
    gone: CancellationToken,
) -> std::io::Result<(Process, Pipes)> {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut child = Command::new(command)
        .args(args)
        .env_clear()
        .envs(inherited)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = Group::of(&child);
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(std::io::Error::other("the process has no pipes"));
    };
    let mut owner = JoinSet::new();
    owner.spawn(log_lines(name.to_owned(), stderr));
    owner.spawn(own(name.to_owned(), child, group, gone));
    Ok((Process { _owner: owner }, Pipes { stdin, stdout }))
}

async fn own(name: String, mut child: Child, group: Group, gone: CancellationToken) {
    tokio::select! {
        status = child.wait() => {
            match status {
                Ok(status) => debug!(server = name, %status, "an MCP server ended"),
                Err(error) => debug!(server = name, %error, "an MCP server is lost"),
            }
            drop(group);
            // Its last words may still be in the pipe, and are followed by the end of the connection.
            let _ = timeout(GRACE, gone.cancelled()).await;
            gone.cancel();
        }
        () = gone.cancelled() => {
            // Its input is closed with the connection, which is how servers are asked to leave.
            let _ = timeout(GRACE, child.wait()).await;
            drop(group);
        }
    }
    // Not there for the status: whoever is waited for is no zombie.
    let _ = child.wait().await;
}

/// Kills the process group when it is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // An error says that nobody is left, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn log_lines(server: String, stderr: ChildStderr) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let Ok(available) = reader.fill_buf().await else {
            return;
        };
        if available.is_empty() {
            return;
        }
        let newline = memchr::memchr(b'\n', available);
        let bytes = &available[..newline.unwrap_or(available.len())];
        let room = LONGEST_LINE.saturating_sub(line.len());
        line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let read = bytes.len() + usize::from(newline.is_some());
        reader.consume(read);
        if newline.is_some() {
            debug!(server, line = %String::from_utf8_lossy(&line), "an MCP server wrote to stderr");
            line.clear();
        }
    }
}
