//! One data directory with its socket: where the programs are, who runs them, how it is made.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::process::Pid;

/// Sockets and data live here rather than in the system's temporary directory, because the path of a Unix socket
/// must stay under 108 bytes.
pub(super) const ROOT: &str = "/tmp";

/// What is the same for every cluster: reachable through a socket in its own directory only.
const SETTINGS: &str = "
listen_addresses = ''
max_connections = 300
shared_buffers = 64MB
logging_collector = off
log_checkpoints = off
";

/// Forgets what a crash would forget, which nobody who uses the shared server can see.
const FAST_SETTINGS: &str = "
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
";

/// Whether a commit survives `kill -9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    Durable,
    Fast,
}

/// A directory that holds a cluster's `data`, its socket and its `log`, readable by its server's user only.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) directory: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    /// The process group that its programs join; each gets its own where there is none.
    group: Option<Pid>,
}

/// Whom the server runs as where the tests run as root, which Postgres refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

impl Cluster {
    pub(super) fn in_directory(directory: PathBuf, group: Option<Pid>) -> anyhow::Result<Self> {
        let user = if rustix::process::geteuid().is_root() {
            Some(unprivileged_user()?)
        } else {
            None
        };
        Ok(Self {
            directory,
            programs: find_programs()?,
            user,
            group,
        })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(super) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The URL of one of the cluster's databases.
    pub(super) fn url(&self, database: &str) -> String {
        let host = self.directory.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Whether a server listens on the socket; a socket file that a killed server left behind does not count.
    pub(super) fn is_listening(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
    }

    /// Hands a file or directory over to the server's user.
    pub(super) fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(user) = self.user {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("handing {} over", path.display()))?;
        }
        Ok(())
    }

    /// Makes the data a copy of that of a running server, which it follows from then on.
    pub(super) fn copy(&self, of: &Self) -> anyhow::Result<()> {
        self.give(&self.directory)?;
        let data = self.data();
        let copied = self
            .command("pg_basebackup")
            .arg("--pgdata")
            .arg(&data)
            .arg("--host")
            .arg(&of.directory)
            .args(["--username=postgres", "--write-recovery-conf", "--no-sync"])
            .args(["--wal-method=stream", "--checkpoint=fast"])
            .stderr(Stdio::piped())
            .output()
            .context("starting pg_basebackup")?;
        if !copied.status.success() {
            let said = String::from_utf8_lossy(&copied.stderr);
            bail!("pg_basebackup failed: {said}");
        }
        self.listen_here(&data)
    }

    /// Makes the data, in place of any that is there.
    pub(super) fn initialise(&self, durability: Durability) -> anyhow::Result<()> {
        self.give(&self.directory)?;
        let data = self.data();
        if data.exists() {
            fs::remove_dir_all(&data).context("removing the data of an earlier server")?;
        }
        let made = self
            .command("initdb")
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C"])
            .output()
            .context("starting initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let mut settings = fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .context("opening postgresql.conf")?;
        settings.write_all(SETTINGS.as_bytes())?;
        if durability == Durability::Fast {
            settings.write_all(FAST_SETTINGS.as_bytes())?;
        }
        self.listen_here(&data)
    }

    /// The last setting counts.
    fn listen_here(&self, data: &Path) -> anyhow::Result<()> {
        let mut settings = fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .context("opening postgresql.conf")?;
        writeln!(
            settings,
            "unix_socket_directories = '{}'",
            self.directory.display()
        )?;
        Ok(())
    }

    /// One of Postgres' programs, to be run as the server's user and away from the test's terminal.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.hand_over(&mut command);
        command
    }

    /// Lets `command` run as the server's user, apart from the test's process group and terminal.
    pub(super) fn hand_over(&self, command: &mut Command) {
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(self.group.map_or(0, |group| group.as_raw_nonzero().get()));
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
    }
}

/// The directory of `initdb` and `postgres`: the one in `PATH`, else the newest that Debian's packages installed.
fn find_programs() -> anyhow::Result<PathBuf> {
    let in_path = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .find_map(|directory| programs_beside(&directory.join("initdb")));
    if let Some(programs) = in_path {
        return Ok(programs);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, programs_beside(&entry.path().join("bin/initdb"))?))
        })
        .max()
        .map(|(_, programs)| programs)
        .context("no initdb in PATH or in /usr/lib/postgresql/*/bin: install a Postgres server")
}

/// The directory of `initdb` itself, behind any link, if the server is there as well.
fn programs_beside(initdb: &Path) -> Option<PathBuf> {
    let directory = initdb.canonicalize().ok()?.parent()?.to_owned();
    directory.join("postgres").exists().then_some(directory)
}

fn unprivileged_user() -> anyhow::Result<User> {
    let users = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| find_user(&users, name))
        .context("running as root, and there is no user postgres or nobody to run Postgres as")
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name)?;
    Some(User {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:a,b:/:/bin/sh\nbroken\n";

        let found = ["postgres", "broken", "nobody"].map(|name| find_user(passwd, name));

        let postgres = User { uid: 101, gid: 104 };
        assert_eq!(found, [Some(postgres), None, None]);
    }
}
