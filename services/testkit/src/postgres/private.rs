//! A server of one's own, to be killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Session;
use super::cluster::{Cluster, Durability, ROOT};
use crate::deadline::within;
use crate::guard::Guard;

/// Ends the programs of the cluster in `$1`, its server or the one that makes its data, and removes it. Their last
/// processes may still write for a moment.
const CLEAN_UP: &str = r#"
trap '' QUIT
kill -s QUIT -- "-$$"
for attempt in 1 2 3 4 5; do
    sleep 0.2
    rm -rf "$1"
done
"#;

/// A Postgres server with default durability that belongs to one test: what is committed outlives
/// [`kill9`](Self::kill9). Ended and removed at drop.
#[derive(Debug)]
pub struct PrivatePostgres {
    cluster: Cluster,
    server: Option<Child>,
    _guard: Guard,
    _directory: TempDir,
}

impl PrivatePostgres {
    /// Makes and starts a server; takes about a second.
    pub async fn start() -> anyhow::Result<Self> {
        let mut postgres = Self::prepare()?;
        let to_initialise = postgres.cluster.clone();
        tokio::task::spawn_blocking(move || to_initialise.initialise(Durability::Durable))
            .await??;
        postgres.restart().await?;
        Ok(postgres)
    }

    /// Makes and starts a standby that follows this server; takes about two seconds.
    pub async fn standby(&self) -> anyhow::Result<Self> {
        let mut standby = Self::prepare()?;
        let (of, to) = (self.cluster.clone(), standby.cluster.clone());
        tokio::task::spawn_blocking(move || to.copy(&of)).await??;
        standby.restart().await?;
        Ok(standby)
    }

    /// Makes this standby the primary; returns when it takes writes.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let session = self.connect().await?;
        let promoting = session.query_one("SELECT pg_promote()", &[]);
        let promoted = within("the standby to be promoted", promoting).await??;
        anyhow::ensure!(promoted.get::<_, bool>(0), "it was not promoted in time");
        Ok(())
    }

    /// Sets a setting of the whole server, for open sessions too.
    pub async fn configure(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let session = self.connect().await?;
        let set = format!("ALTER SYSTEM SET {setting} = '{value}'");
        session.batch_execute(&set).await.context(set)?;
        session.batch_execute("SELECT pg_reload_conf()").await?;
        let is_set = "SELECT current_setting($1) = $2";
        within("the setting to be known to sessions", async {
            while !session
                .query_one(is_set, &[&setting, &value])
                .await?
                .get::<_, bool>(0)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        })
        .await?
    }

    /// Stops those of its processes whose ids `pids` selects (SIGSTOP), until they are thawed; answers how many.
    pub async fn freeze(&self, pids: &str) -> anyhow::Result<usize> {
        self.signal(pids, Signal::STOP).await
    }

    /// Lets them go on.
    pub async fn thaw(&self, pids: &str) -> anyhow::Result<usize> {
        self.signal(pids, Signal::CONT).await
    }

    async fn signal(&self, pids: &str, signal: Signal) -> anyhow::Result<usize> {
        let session = self.connect().await?;
        let rows = session.query(pids, &[]).await?;
        for row in &rows {
            let pid = Pid::from_raw(row.get(0)).context("a process id is never 0")?;
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
        Ok(rows.len())
    }

    fn prepare() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("talaria-pg-")
            .tempdir_in(ROOT)
            .context("making a directory for Postgres")?;
        let guard = Guard::arm(CLEAN_UP, &[&directory.path().to_string_lossy()])?;
        let cluster = Cluster::in_directory(directory.path().to_owned(), Some(guard.group()))?;
        Ok(Self {
            cluster,
            server: None,
            _guard: guard,
            _directory: directory,
        })
    }

    /// The URL of the server's database `postgres`; stays the same over restarts.
    pub fn url(&self) -> String {
        self.cluster.url("postgres")
    }

    /// The URL of another of its databases.
    pub fn url_of(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// The server's directory, which its own user may write to.
    pub fn directory(&self) -> &std::path::Path {
        &self.cluster.directory
    }

    /// Lets the server write to `path`.
    pub(super) fn give(&self, path: &std::path::Path) -> anyhow::Result<()> {
        self.cluster.give(path)
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.cluster.socket()
    }

    /// Connects to the server's database `postgres`.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Session::open(&self.url()).await
    }

    /// Kills the server and all its processes at once, as a machine that loses its power.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let Some(server) = &mut self.server else {
            bail!("the server does not run");
        };
        let backends = child_processes(server.id());
        server.kill().context("killing Postgres")?;
        for backend in backends {
            // It may have ended by itself.
            let _ = kill_process(backend, Signal::KILL);
        }
        self.await_exit().await.map(drop)
    }

    /// Stops the server in an orderly way; open connections are closed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(server) = &self.server else {
            bail!("the server does not run");
        };
        kill_process(process_id(server)?, Signal::INT).context("stopping Postgres")?;
        let status = self.await_exit().await?;
        if !status.success() {
            bail!("Postgres ended with {status}: {}", self.read_log());
        }
        Ok(())
    }

    /// Stops the server at once; it recovers at its next start. Open connections are closed.
    pub async fn stop_at_once(&mut self) -> anyhow::Result<()> {
        let Some(server) = &self.server else {
            bail!("the server does not run");
        };
        kill_process(process_id(server)?, Signal::QUIT).context("stopping Postgres")?;
        self.await_exit().await.map(drop)
    }

    /// Writes what the server's database `postgres` holds into a file that `pg_restore` reads.
    pub async fn dump(&self, to: &Path) -> anyhow::Result<()> {
        let mut command = self.cluster.command("pg_dump");
        command
            .args(["--format=custom", "--dbname"])
            .arg(self.url())
            .stdout(File::create(to).context("making the file of a dump")?);
        let dumped = tokio::task::spawn_blocking(move || command.status());
        let status = within("pg_dump", dumped)
            .await??
            .context("starting pg_dump")?;
        if !status.success() {
            bail!("pg_dump ended with {status}");
        }
        Ok(())
    }

    /// Starts the server on its data again, after stopping it if it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            self.stop().await?;
        }
        within("Postgres to accept connections", async {
            loop {
                if self.server_is_running()? {
                    if Session::open(&self.url()).await.is_ok() {
                        return Ok(());
                    }
                } else {
                    // Also after a start that failed: the last processes of a killed server keep the next one out
                    // for a moment.
                    self.server = Some(self.spawn()?);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .with_context(|| self.read_log())?
    }

    fn server_is_running(&mut self) -> io::Result<bool> {
        match &mut self.server {
            Some(server) => Ok(server.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.cluster.log())
            .context("opening Postgres' log")?;
        self.cluster
            .command("postgres")
            .arg("-D")
            .arg(self.cluster.data())
            .stderr(log)
            .spawn()
            .context("starting Postgres")
    }

    async fn await_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let Some(mut server) = self.server.take() else {
            bail!("the server does not run");
        };
        let waiting = tokio::task::spawn_blocking(move || server.wait());
        Ok(within("Postgres to end", waiting).await???)
    }

    fn read_log(&self) -> String {
        fs::read_to_string(self.cluster.log()).unwrap_or_default()
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let backends = child_processes(server.id());
            let _ = server.kill();
            let _ = server.wait();
            for backend in backends {
                let _ = kill_process(backend, Signal::KILL);
            }
        }
    }
}

fn process_id(child: &Child) -> anyhow::Result<Pid> {
    Pid::from_raw(child.id().cast_signed()).context("a process id is never 0")
}

/// The children of `parent` where the system tells (Linux); Postgres' own end by themselves soon after it.
fn child_processes(parent: u32) -> Vec<Pid> {
    fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}
