//! The one server that all test processes of a workspace share.
//!
//! Whoever needs it first starts it, under a file lock; the next run finds it warm. A guard, a shell script that
//! outlives the tests, stops it and removes its data once no test has asked for it for ten minutes.
//!
//! The guard and the tests agree without a common lock: a test writes `used` and then looks for `stopping`; the
//! guard makes `stopping` and then looks at `used`. Whatever the order, at least one of them sees the other, and then
//! the guard gives way or the test waits.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::cluster::{Cluster, Durability, ROOT};
use crate::deadline::{DEADLINE, within};

const IDLE_MINUTES: u32 = 10;

/// `$1` is the cluster's directory, `$2` where the programs are, `$3` the minutes.
const GUARD: &str = r#"
in_use() { [ -n "$(find "$1/used" -mmin "-$2")" ]; }
while sleep 5; do
    kill -0 "$(head -n 1 "$1/data/postmaster.pid")" || exit
    in_use "$1" "$3" && continue
    mkdir "$1/stopping" || continue
    if in_use "$1" "$3"; then rmdir "$1/stopping"; continue; fi
    "$2/pg_ctl" stop -D "$1/data" -m fast
    rm -rf "$1/data"
    rmdir "$1/stopping"
    exit
done
"#;

/// The shared server, started if it does not run.
pub(super) async fn shared_cluster() -> anyhow::Result<Cluster> {
    let name = format!("talaria-testkit-{:016x}", workspace_key()?);
    let cluster = Cluster::in_directory(Path::new(ROOT).join(&name), None)?;
    if announce_use(&cluster).is_ok() && !is_stopping(&cluster) && cluster.is_listening() {
        return Ok(cluster);
    }
    let lock_path = Path::new(ROOT).join(format!("{name}.lock"));
    tokio::task::spawn_blocking(move || start(cluster, &lock_path)).await?
}

/// Starts the server unless somebody else did so while this process waited for the lock. Blocks.
fn start(cluster: Cluster, lock_path: &Path) -> anyhow::Result<Cluster> {
    let lock =
        File::create(lock_path).with_context(|| format!("opening {}", lock_path.display()))?;
    lock.lock()
        .context("waiting for the lock of the shared Postgres")?;
    make_directory(&cluster.directory)?;
    announce_use(&cluster)?;
    await_stopped(&cluster)?;
    if cluster.is_listening() {
        return Ok(cluster);
    }
    cluster.initialise(Durability::Fast)?;
    let started = cluster
        .command("pg_ctl")
        .args(["start", "--wait", "--silent", "--pgdata"])
        .arg(cluster.data())
        .arg("--log")
        .arg(cluster.log())
        .status()
        .context("starting pg_ctl")?;
    if !started.success() {
        bail!(
            "the shared Postgres did not start, see {}",
            cluster.log().display()
        );
    }
    let mut guard = Command::new("sh");
    cluster.hand_over(&mut guard);
    guard
        .args(["-c", GUARD, "guard"])
        .arg(&cluster.directory)
        .arg(cluster.programs())
        .arg(IDLE_MINUTES.to_string());
    // Nobody waits for it: it outlives this process on purpose and ends with the server.
    let _: std::process::Child = guard
        .spawn()
        .context("starting the guard of the shared Postgres")?;
    Ok(cluster)
}

/// Makes the directory, or checks that nobody else's directory sits in its place.
fn make_directory(directory: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;

    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(directory)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("making {}", directory.display()));
    }
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.mode() & 0o077 != 0 {
        bail!("{} is open to others: remove it", directory.display());
    }
    Ok(())
}

/// Tells the guard that the server is wanted.
fn announce_use(cluster: &Cluster) -> std::io::Result<()> {
    fs::write(cluster.directory.join("used"), "\n")
}

fn is_stopping(cluster: &Cluster) -> bool {
    cluster.directory.join("stopping").exists()
}

/// Waits until the guard has stopped the server or has given way; takes over from a guard that died meanwhile.
fn await_stopped(cluster: &Cluster) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while is_stopping(cluster) {
        if waited >= DEADLINE {
            return fs::remove_dir(cluster.directory.join("stopping"))
                .context("clearing up after a dead guard of the shared Postgres");
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
    Ok(())
}

/// A number for this workspace and user, so that two checkouts do not share a server.
fn workspace_key() -> anyhow::Result<u64> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::current_dir().context("finding the current directory")?,
    };
    let workspace = start
        .ancestors()
        .filter(|directory| directory.join("Cargo.lock").exists())
        .last()
        .unwrap_or(&start);
    let mut hasher = DefaultHasher::new();
    (workspace, rustix::process::geteuid().as_raw()).hash(&mut hasher);
    Ok(hasher.finish())
}

/// Runs `sql` on the server's maintenance database.
pub(super) async fn administer(cluster: &Cluster, sql: &str) -> anyhow::Result<()> {
    let session = super::Session::open(&cluster.url("postgres")).await?;
    within(sql, session.batch_execute(sql))
        .await?
        .with_context(|| format!("running {sql}"))
}
