//! Which Postgres to run: one that the machine has, else one that is downloaded.

mod download;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use tokio::process::Command;
use tracing::info;

use super::home::Home;
use super::user::User;

const OLDEST_VERSION: u32 = 14;

/// Directories with one subdirectory per version, and where the programs are in each.
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The programs of one Postgres.
pub struct Binaries {
    pub initdb: PathBuf,
    pub postgres: PathBuf,
}

/// Finds programs that `user` can run and that suit the cluster, whose major version is `made_by` if it exists.
pub async fn find(home: &Home, user: &User, made_by: Option<u32>) -> anyhow::Result<Binaries> {
    let downloads = home.dir.join("binaries");
    let mut unsuitable = Vec::new();
    for dir in directories(&downloads).await {
        let Some(binaries) = Binaries::in_directory(&dir, *user) else {
            continue;
        };
        match version(&binaries.postgres).await {
            Some(version) if made_by.map_or(version >= OLDEST_VERSION, |by| by == version) => {
                info!(version, path = %dir.display(), "using this PostgreSQL");
                return Ok(binaries);
            }
            Some(version) => unsuitable.push(version),
            None => {}
        }
    }
    if let Some(made_by) = made_by
        && !unsuitable.is_empty()
    {
        bail!(
            "the database in {} was made by PostgreSQL {made_by}, and this machine has only {}: install PostgreSQL {made_by}, or move the data with pg_upgrade",
            home.cluster.display(),
            list(&unsuitable),
        );
    }

    let dir = download::download(&downloads, made_by).await?;
    match Binaries::in_directory(&dir, *user) {
        Some(binaries) => Ok(binaries),
        None => bail!(
            "the downloaded Postgres in {} is not complete",
            dir.display()
        ),
    }
}

impl Binaries {
    fn in_directory(dir: &Path, user: User) -> Option<Self> {
        let program = |name| {
            fs::canonicalize(dir.join(name))
                .ok()
                .filter(|at| user.can_reach(at))
        };
        Some(Self {
            initdb: program("initdb")?,
            postgres: program("postgres")?,
        })
    }
}

/// Every directory that may hold a Postgres, best first.
async fn directories(downloads: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    for (parent, prefix, bin) in VERSIONED {
        directories.extend(
            versions(Path::new(parent), prefix)
                .into_iter()
                .map(|v| v.join(bin)),
        );
    }
    directories.extend(bindir_of_pg_config().await);
    directories.extend(
        versions(downloads, "")
            .into_iter()
            .map(|version| version.join("bin")),
    );
    directories
}

/// The subdirectories of `parent` named `prefix` and a version, highest first.
fn versions(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            Some((major(name.to_str()?.strip_prefix(prefix)?)?, entry.path()))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

async fn bindir_of_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .await
        .ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
        .filter(|dir| dir.is_absolute())
}

/// The major version that `postgres --version` tells.
async fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres)
        .arg("--version")
        .output()
        .await
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(major)
}

/// The number that `version` begins with: 15 of `15.18`, 19 of `19devel`.
fn major(version: &str) -> Option<u32> {
    let end = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..end].parse().ok()
}

fn list(versions: &[u32]) -> String {
    let mut versions = versions.to_vec();
    versions.sort_unstable();
    versions.dedup();
    versions
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_what_a_version_begins_with() {
        for (text, expected) in [
            ("15.18", Some(15)),
            ("19devel", Some(19)),
            ("18", Some(18)),
            ("(PostgreSQL)", None),
        ] {
            assert_eq!(major(text), expected, "{text}");
        }
    }

    #[test]
    fn the_highest_version_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "14", "common"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }

        let expected = ["15", "14", "9.6"].map(|name| dir.path().join(name));
        assert_eq!(versions(dir.path(), ""), expected);
    }
}
