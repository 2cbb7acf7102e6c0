//! The files of a database cluster: whether they are there, and making them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};

use super::binaries::Binaries;
use super::home::Home;
use super::user::User;

/// The only role; it may do everything.
pub const SUPERUSER: &str = "talaria";

/// The major version of Postgres that made the cluster, or nothing if there is none.
pub fn version(cluster: &Path) -> anyhow::Result<Option<u32>> {
    let path = cluster.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let version = text.trim().parse().with_context(|| {
                format!(
                    "{} holds {:?}, which is no version",
                    path.display(),
                    text.trim()
                )
            })?;
            Ok(Some(version))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Makes a new cluster.
///
/// It is made beside its place and moved there when complete, so a start that is cut off leaves nothing half done.
pub async fn create(home: &Home, user: &User, binaries: &Binaries) -> anyhow::Result<()> {
    let unfinished = home.dir.join("postgres.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("removing {}", unfinished.display()))?;
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&unfinished)
        .with_context(|| format!("creating {}", unfinished.display()))?;
    user.own(&unfinished)?;

    let output = user
        .command(&binaries.initdb)
        .args(["--encoding=UTF8", "--locale=C", "--data-checksums"])
        // Whoever reaches the socket may do everything; its directory lets in only its owner (and root).
        .args(["--auth-local=trust", "--auth-host=reject"])
        .arg(format!("--username={SUPERUSER}"))
        .arg("--pgdata")
        .arg(&unfinished)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {}", binaries.initdb.display()))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("initdb could not create the database: {}", complaint.trim());
    }
    fs::rename(&unfinished, &home.cluster)
        .with_context(|| format!("moving the new database to {}", home.cluster.display()))
}
