//! Running the real binary as a process that can be killed.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::deadline::within;
use crate::guard::Guard;

/// Variables of the surroundings that would configure the process behind the test's back.
const FOREIGN_SETTINGS: [&str; 7] = [
    "TALARIA_",
    "API_SERVER_",
    "OPENAI_",
    "OTEL_",
    "DATABASE_URL",
    "RUST_LOG",
    "PG",
];

/// A process in a group of its own (shared with its guard). It and what it started are killed at drop, and also when the test's own process
/// is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    id: Pid,
    guard: Guard,
    output: watch::Receiver<Output>,
    _readers: JoinSet<()>,
}

/// What a process has said so far.
#[derive(Debug, Default)]
struct Output {
    lines: Vec<String>,
    closed_pipes: usize,
}

impl Process {
    /// Starts `binary`, usually `env!("CARGO_BIN_EXE_talaria")`.
    ///
    /// The environment is the test's own without what would configure the product, and with `environment`.
    pub fn start(
        binary: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if FOREIGN_SETTINGS
                .iter()
                .any(|foreign| text.starts_with(foreign))
            {
                command.env_remove(&name);
            }
        }
        let guard = Guard::arm("kill -s KILL -- \"-$$\"", &[])?;
        let mut child = command
            .args(arguments)
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(guard.group().as_raw_nonzero().get())
            .spawn()
            .with_context(|| format!("starting {binary}"))?;
        let id = child.id().context("the process has not been waited for")?;
        let id = Pid::from_raw(id.cast_signed()).context("a process id is never 0")?;
        let (teller, output) = watch::channel(Output::default());
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(read_lines(stdout, teller.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(read_lines(stderr, teller));
        }
        Ok(Self {
            child,
            id,
            guard,
            output,
            _readers: readers,
        })
    }

    /// The first line of stdout or stderr that `wanted` accepts, also if it was printed earlier.
    ///
    /// Fails as soon as the process has closed both without such a line.
    pub async fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let mut output = self.output.clone();
        let find = |output: &Output| output.lines.iter().find(|line| wanted(line)).cloned();
        let has_it = output.wait_for(|output| output.closed_pipes == 2 || find(output).is_some());
        let found = match within("a line of the process", has_it).await {
            Ok(Ok(output)) => find(&output),
            Ok(Err(_)) => None,
            Err(error) => return Err(error.context(self.describe_output())),
        };
        found.with_context(|| {
            format!(
                "the process ended without the line; {}",
                self.describe_output()
            )
        })
    }

    /// The address in the first line that holds one and contains `what`; see [`address_from_lines`].
    pub async fn wait_for_address(&self, what: &str) -> anyhow::Result<SocketAddr> {
        let line = self
            .wait_for_line(|line| address_from_lines(&[line], what).is_some())
            .await?;
        address_from_lines(&[&line], what).context("the line was chosen for its address")
    }

    /// What was printed so far, stdout and stderr as they came.
    pub fn lines(&self) -> Vec<String> {
        self.output.borrow().lines.clone()
    }

    /// The process id.
    pub fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills the process and what it started, without a chance to react, and waits until it is gone.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.is_running()?,
            "the process had ended before it was killed"
        );
        kill_process_group(self.guard.group(), Signal::KILL).context("killing the process")?;
        self.wait().await.map(drop)
    }

    /// Asks the process to end (SIGTERM); does not wait for it.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops the process in its tracks (SIGSTOP), as a machine that hangs, until [`thaw`](Self::thaw).
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until the process has ended.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        match within("the end of the process", self.child.wait()).await {
            Ok(status) => status.context("waiting for the process"),
            Err(error) => Err(error.context(self.describe_output())),
        }
    }

    /// Waits until the process has ended well.
    pub async fn wait_for_success(&mut self) -> anyhow::Result<()> {
        let status = self.wait().await?;
        if !status.success() {
            bail!(
                "the process ended with {status}; {}",
                self.describe_output()
            );
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        ensure!(self.is_running()?, "the process has ended");
        kill_process(self.id, signal).context("signalling the process")
    }

    fn describe_output(&self) -> String {
        format!("it printed:\n{}", self.output.borrow().lines.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also when the process has ended: its children may live on.
        let _ = kill_process_group(self.guard.group(), Signal::KILL);
    }
}

/// The first socket address in the first of `lines` that contains `what` (such as `listening`) and has one.
///
/// Ports asked for as 0 are skipped: they are what was wanted, not what was given.
pub fn address_from_lines(lines: &[&str], what: &str) -> Option<SocketAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
    lines
        .iter()
        .filter(|line| line.contains(what))
        .flat_map(|line| line.split(|c| !is_part(c)))
        .filter_map(|word| word.trim_matches(['.', ':']).parse::<SocketAddr>().ok())
        .find(|address| address.port() != 0)
}

async fn read_lines(pipe: impl AsyncRead + Unpin, output: watch::Sender<Output>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line)
            .trim_end_matches('\r')
            .to_owned();
        output.send_modify(|output| output.lines.push(line));
    }
    output.send_modify(|output| output.closed_pipes += 1);
}

/// Whether a program that ran to its end succeeded; if not, the error holds what it printed.
pub fn succeeded(what: &str, output: &std::process::Output) -> anyhow::Result<()> {
    ensure!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_however_the_line_is_written() {
        let found = |line| {
            address_from_lines(&["hello 1.2.3.4:5", line], "listening").map(|a| a.to_string())
        };

        let lines = [
            "listening on 127.0.0.1:8642",
            "INFO gateway: listening address=127.0.0.1:8642 wanted=127.0.0.1:0",
            r#"{"message":"listening","wanted":"127.0.0.1:0","address":"127.0.0.1:8642"}"#,
            "listening: http://127.0.0.1:8642/v1.",
            "2026-11-20T10:11:12.5Z listening at 127.0.0.1:8642.",
        ];

        for line in lines {
            assert_eq!(found(line).as_deref(), Some("127.0.0.1:8642"), "{line}");
        }
        assert_eq!(
            found("listening on http://[::1]:80").as_deref(),
            Some("[::1]:80")
        );
        assert_eq!(found("listening on 127.0.0.1:0"), None);
        assert_eq!(found("bound 127.0.0.1:8642"), None);
    }
}
