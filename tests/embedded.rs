//! The private Postgres of `talaria serve`: it outlives nothing but its data.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_mins(1);

/// A data directory that the user Postgres runs as can reach.
fn data_dir() -> tempfile::TempDir {
    directory(0o755)
}

fn directory(mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    dir
}

fn serve(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_talaria"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .current_dir(data_dir)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .stderr(Stdio::piped());
    command
}

struct Talaria {
    child: Child,
    // Kept open, so that later log lines have somewhere to go.
    stderr: BufReader<ChildStderr>,
}

impl Talaria {
    /// Starts `serve` and waits until it says that it listens.
    fn start(data_dir: &Path) -> Self {
        let mut child = serve(data_dir).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("Talaria listens on") {
            let bytes = stderr.read_line(&mut said).unwrap();
            assert!(bytes > 0, "it ended: {said}");
        }
        Self { child, stderr }
    }

    fn end_with(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Talaria {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(data_dir: &Path) -> String {
    let Output { status, stderr, .. } = serve(data_dir).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr.lines().last().unwrap().to_owned()
}

fn query(data_dir: &Path, sql: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(data_dir.join("socket"))
            .user("talaria")
            .dbname("postgres")
            .connect(tokio_postgres::NoTls)
            .await
            .unwrap();
        let work = async move {
            let rows = client.simple_query(sql).await.unwrap();
            rows.iter()
                .filter_map(|row| match row {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect()
        };
        let (values, connection) = tokio::join!(work, connection);
        connection.unwrap();
        values
    })
}

fn postmaster(data_dir: &Path) -> Option<String> {
    let record = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    record.lines().next().map(str::to_owned)
}

/// How many processes have the cluster as their working directory.
fn processes_in(cluster: &Path) -> usize {
    let is_in = |process: &fs::DirEntry| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == cluster)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(is_in)
        .count()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn data_outlives_a_killed_process_and_its_postgres_does_not() {
    let dir = data_dir();
    let cluster = dir.path().join("postgres");
    let mut first = Talaria::start(dir.path());
    query(
        dir.path(),
        "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('still here')",
    );

    let in_use = refused(dir.path());
    assert_eq!(
        in_use,
        format!(
            "talaria: the data directory {} is in use by the talaria process {}",
            dir.path().display(),
            first.child.id()
        )
    );
    assert_eq!(
        query(dir.path(), "SELECT word FROM kept"),
        ["still here"],
        "the refused one harmed nothing"
    );

    let old_postmaster = postmaster(dir.path()).unwrap();
    first.end_with(Signal::KILL);
    // At once, while the old server is still about to end.
    let mut second = Talaria::start(dir.path());
    assert_ne!(postmaster(dir.path()).unwrap(), old_postmaster);
    let still_there = fs::read_link(format!("/proc/{old_postmaster}/cwd"));
    assert!(still_there.is_err(), "the old server runs on");
    assert_eq!(query(dir.path(), "SELECT word FROM kept"), ["still here"]);

    second.end_with(Signal::KILL);
    wait_until("the end of the abandoned server", || {
        processes_in(&cluster) == 0
    });
    assert_eq!(postmaster(dir.path()), None, "it shut down in order");

    let mut third = Talaria::start(dir.path());
    assert_eq!(query(dir.path(), "SELECT word FROM kept"), ["still here"]);
    assert_eq!(third.end_with(Signal::TERM).code(), Some(0));
    assert_eq!(processes_in(&cluster), 0);

    fs::write(cluster.join("PG_VERSION"), "13\n").unwrap();
    let other_version = refused(dir.path());
    assert!(
        other_version.contains("was made by PostgreSQL 13, and this machine has only"),
        "{other_version}"
    );
}

#[test]
fn a_killed_server_is_noticed_and_recovers_at_the_next_start() {
    let dir = data_dir();
    let mut talaria = Talaria::start(dir.path());
    query(
        dir.path(),
        "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('committed')",
    );

    let pid = postmaster(dir.path()).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let mut said = String::new();
    talaria.stderr.read_to_string(&mut said).unwrap();
    assert_eq!(talaria.child.wait().unwrap().code(), Some(1));
    assert!(
        said.contains("Postgres ended (signal: 9 (SIGKILL))"),
        "{said}"
    );

    let mut again = Talaria::start(dir.path());
    assert_eq!(query(dir.path(), "SELECT word FROM kept"), ["committed"]);
    again.end_with(Signal::TERM);
}

#[test]
fn what_keeps_postgres_from_starting_is_shown() {
    let dir = data_dir();
    Talaria::start(dir.path()).end_with(Signal::TERM);
    fs::write(dir.path().join("postgres/global/pg_control"), "").unwrap();

    let said = refused(dir.path());

    assert!(
        said.contains("could not read file \"global/pg_control\""),
        "{said}"
    );
}

#[test]
fn a_stale_process_id_of_someone_else_does_not_stop_a_start() {
    let dir = data_dir();
    Talaria::start(dir.path()).end_with(Signal::TERM);
    let own_pid = std::process::id();
    fs::write(
        dir.path().join("postgres/postmaster.pid"),
        format!("{own_pid}\n"),
    )
    .unwrap();

    assert_eq!(
        Talaria::start(dir.path()).end_with(Signal::TERM).code(),
        Some(0)
    );
}

/// The database of a data directory that only root can enter, gone with the test.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_data_directory_that_only_root_enters_has_its_database_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = directory(0o700);
    let mut first = Talaria::start(dir.path());
    let cluster = fs::read_link(dir.path().join("postgres")).unwrap();
    let home = Elsewhere(cluster.parent().unwrap().to_owned());
    assert!(
        home.0.starts_with("/var/lib/talaria"),
        "{}",
        home.0.display()
    );
    query(&home.0, "CREATE TABLE kept (word text)");
    first.end_with(Signal::KILL);

    let mut second = Talaria::start(dir.path());
    assert!(query(&home.0, "SELECT word FROM kept").is_empty());
    assert_eq!(second.end_with(Signal::INT).code(), Some(0));
}
