//! The server process: starting it, waiting until it is ready, stopping it.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::binaries::Binaries;
use super::guard::{GUARD_COMMAND, own_program};
use super::home::Home;
use super::socket;
use super::user::User;

/// Long, since after a crash it covers the replay of up to `max_wal_size`.
const START_PATIENCE: Duration = Duration::from_mins(3);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const KILL_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// At this size the log is put aside at the next start.
const MAX_LOG_BYTES: u64 = 10 << 20;
/// How much of the log's end is shown when a start fails.
const TAIL_LINES: usize = 8;

/// What differs from Postgres' defaults. Durability is as the event log needs it: a commit is on disk.
const PARAMETERS: [&str; 15] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=64",
    "shared_buffers=128MB",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "wal_compression=on",
    "max_wal_size=2GB",
    "checkpoint_timeout=15min",
    "log_checkpoints=off",
    "logging_collector=off",
    "log_destination=stderr",
    "jit=off",
    "cluster_name=talaria",
];

/// A running server; it ends when this process does.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts the server and waits until it takes connections.
    pub async fn start(
        home: &Home,
        user: &User,
        binaries: &Binaries,
        socket_dir: &Path,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let log_file = open_log(&log)?;
        let log_start = log_file.metadata().map_or(0, |metadata| metadata.len());
        let child = command(home, *user, binaries, socket_dir)?
            .stdin(Stdio::null())
            .stdout(
                log_file
                    .try_clone()
                    .context("sharing the log of Postgres")?,
            )
            .stderr(log_file)
            .spawn()
            .context("starting Postgres")?;

        let mut server = Self { child, log };
        if let Err(error) = server.ready(&home.cluster, socket_dir).await {
            // The first failure is what the operator needs to see.
            if let Err(error) = server.stop().await {
                warn!(%error, "could not stop the Postgres that did not start");
            }
            let tail = server.log_tail(log_start);
            return Err(anyhow!("{error:#}; it said last:\n{tail}"));
        }
        Ok(server)
    }

    /// Waits for the end that nobody asked for.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => ended_with(status, &self.log),
            Err(error) => anyhow::Error::new(error).context("waiting for Postgres"),
        }
    }

    /// Stops the server by Postgres' fast shutdown, then by harder means if it does not obey.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for (signal, patience) in [(Signal::INT, STOP_PATIENCE), (Signal::QUIT, KILL_PATIENCE)] {
            // None: it has ended and was waited for.
            let Some(pid) = self.pid() else { return Ok(()) };
            kill_process(pid, signal).context("signalling Postgres")?;
            if let Ok(ended) = timeout(patience, self.child.wait()).await {
                let status = ended.context("waiting for Postgres")?;
                debug!(%status, "Postgres stopped");
                return Ok(());
            }
            warn!(?signal, ?patience, "Postgres did not stop in time");
        }
        self.child.kill().await.context("killing Postgres")
    }

    fn pid(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
    }

    async fn ready(&mut self, cluster: &Path, socket_dir: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while !self.says_ready(cluster) {
            if let Some(status) = self.child.try_wait().context("waiting for Postgres")? {
                return Err(ended_with(status, &self.log));
            }
            if Instant::now() > deadline {
                bail!(
                    "Postgres was not ready after {} seconds",
                    START_PATIENCE.as_secs()
                );
            }
            sleep(POLL).await;
        }
        let socket = socket::path(socket_dir);
        UnixStream::connect(&socket)
            .await
            .with_context(|| format!("connecting to Postgres at {}", socket.display()))?;
        Ok(())
    }

    /// Whether the server's own record names our child and its last line says `ready`.
    fn says_ready(&self, cluster: &Path) -> bool {
        let Ok(record) = fs::read_to_string(cluster.join("postmaster.pid")) else {
            return false;
        };
        let pid = record
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok());
        let status = record.lines().nth(7).map(str::trim);
        pid.is_some() && pid == self.child.id() && status == Some("ready")
    }

    /// The last lines that the log has after its first `from` bytes.
    fn log_tail(&self, from: u64) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(0).min(text.len());
        let text = String::from_utf8_lossy(&text[from..]);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        tail.join("\n")
    }
}

fn command(
    home: &Home,
    user: User,
    binaries: &Binaries,
    socket_dir: &Path,
) -> anyhow::Result<Command> {
    let mut command = user.command(own_program()?);
    command
        .arg(GUARD_COMMAND)
        .arg(std::process::id().to_string())
        .arg(&binaries.postgres)
        .arg("-D")
        .arg(&home.cluster)
        .args(["-p", &socket::PORT.to_string()])
        .arg("-k")
        .arg(socket_dir)
        // Ctrl-C in the terminal is for us; we then stop Postgres after everything that uses it.
        .process_group(0);
    for parameter in PARAMETERS {
        command.args(["-c", parameter]);
    }
    Ok(command)
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.old"))
            .with_context(|| format!("putting {} aside", path.display()))?;
    }
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

fn ended_with(status: ExitStatus, log: &Path) -> anyhow::Error {
    anyhow!("Postgres ended ({status}); see {}", log.display())
}
