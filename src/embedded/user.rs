//! As whom Postgres runs: as ourselves, or as an unprivileged user when we are root, which it refuses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use tokio::process::Command;

/// The names of users that may own a cluster when we are root, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The user that Postgres runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The one that we are.
    Ourselves,
    /// Another one; we are root.
    Dropped { uid: u32, gid: u32 },
}

impl User {
    /// The owner of the cluster, or who shall own it if it is not there yet.
    pub fn for_cluster(cluster: &Path) -> anyhow::Result<Self> {
        let we = rustix::process::geteuid().as_raw();
        let owner = match fs::metadata(cluster) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("looking at {}", cluster.display()));
            }
        };
        match owner {
            Some((uid, gid)) if we == 0 && uid != 0 => Ok(Self::Dropped { uid, gid }),
            Some((0, _)) if we == 0 => bail!(
                "the database in {} belongs to root, as whom Postgres refuses to run: chown it to an unprivileged user",
                cluster.display()
            ),
            Some((uid, _)) if uid != we => bail!(
                "the database in {} belongs to the user with the id {uid}: start talaria as that user",
                cluster.display()
            ),
            None if we == 0 => unprivileged(),
            Some(_) | None => Ok(Self::Ourselves),
        }
    }

    /// The user's id.
    pub fn uid(self) -> u32 {
        match self {
            Self::Ourselves => rustix::process::geteuid().as_raw(),
            Self::Dropped { uid, .. } => uid,
        }
    }

    /// A command that runs `program` as this user, with none of our secrets in its environment.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Self::Dropped { uid, gid } = self {
            // The standard library drops root's supplementary groups along with the uid.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives `path` itself to this user.
    pub fn own(self, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Dropped { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .with_context(|| format!("giving {} to the user {uid}", path.display())),
        }
    }

    /// Whether every directory from the root to `path` lets this user through.
    pub fn can_reach(self, path: &Path) -> bool {
        match self {
            Self::Ourselves => true,
            Self::Dropped { uid, gid } => path.ancestors().all(|dir| {
                fs::metadata(dir).is_ok_and(|dir| {
                    let bit = if dir.uid() == uid {
                        0o100
                    } else if dir.gid() == gid {
                        0o010
                    } else {
                        0o001
                    };
                    dir.mode() & bit != 0
                })
            }),
        }
    }
}

fn unprivileged() -> anyhow::Result<User> {
    let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    UNPRIVILEGED.iter().find_map(|name| find(&passwd, name)).context(
        "Postgres does not run as root, and there is no user named postgres or nobody to run it as",
    )
}

/// The entry of `name` in the text of `/etc/passwd`.
fn find(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let mut numbers = fields.skip(1).map(str::parse);
        Some(User::Dropped {
            uid: numbers.next()?.ok()?,
            gid: numbers.next()?.ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\nbroken\n\
                      postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

        assert_eq!(
            find(passwd, "postgres"),
            Some(User::Dropped { uid: 101, gid: 104 })
        );
        assert_eq!(find(passwd, "nobody"), None);
        assert_eq!(find(passwd, "broken"), None);
    }
}
