//! The Unix socket: a directory that only the cluster's user enters, with a path short enough for a socket address.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::cluster::SUPERUSER;
use super::home::{Home, hash};
use super::user::User;

/// Postgres names its socket after a port even when it listens on none.
pub const PORT: u16 = 5432;

/// The shortest `sun_path` among the systems we know (macOS), without its final zero.
const MAX_PATH_BYTES: usize = 103;

/// Makes sure that the directory of the socket is there and nobody else's.
pub fn prepare(home: &Home, user: &User) -> anyhow::Result<PathBuf> {
    let dir = directory(&home.dir);
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => user.own(&dir)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            own_or_refuse(&dir, *user)?;
        }
        Err(error) => return Err(error).with_context(|| format!("creating {}", dir.display())),
    }
    Ok(dir)
}

/// Takes over a directory left by an earlier start; in `/tmp`, anybody could have made one of this name.
fn own_or_refuse(dir: &Path, user: User) -> anyhow::Result<()> {
    let found =
        fs::symlink_metadata(dir).with_context(|| format!("looking at {}", dir.display()))?;
    let ours = [user.uid(), rustix::process::geteuid().as_raw()];
    if !found.is_dir() || !ours.contains(&found.uid()) {
        bail!(
            "{} belongs to someone else, so no socket can be made there",
            dir.display()
        );
    }
    user.own(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("closing {} to others", dir.display()))
}

/// The path of the socket in `dir`.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(format!(".s.PGSQL.{PORT}"))
}

/// The URL of the database behind the socket in `dir`.
pub fn database_url(dir: &Path) -> String {
    // `directory` lets no other character through that would need escaping.
    let host = dir.display().to_string().replace('/', "%2F");
    format!("postgresql://{SUPERUSER}@{host}:{PORT}/postgres")
}

/// `home/socket`, or one in `/tmp` if that is too long for a socket address or would need quoting on its way.
fn directory(home: &Path) -> PathBuf {
    let beside = home.join("socket");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let socket = path(&beside);
    let bytes = socket.as_os_str().as_encoded_bytes();
    if bytes.len() <= MAX_PATH_BYTES && bytes.iter().copied().all(is_plain) {
        beside
    } else {
        PathBuf::from(format!("/tmp/talaria-{:016x}", hash(home)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_odd_paths_have_their_socket_in_tmp() {
        let directory = |home: &str| directory(Path::new(home)).display().to_string();
        let just_short_enough = format!(
            "/{}",
            "a".repeat(MAX_PATH_BYTES - "//socket/.s.PGSQL.5432".len())
        );

        assert_eq!(directory("/home/ada/.talaria"), "/home/ada/.talaria/socket");
        assert_eq!(
            directory(&just_short_enough),
            format!("{just_short_enough}/socket")
        );
        for elsewhere in [
            &format!("{just_short_enough}a"),
            "/home/my data",
            "/home/a,b",
            "/é",
        ] {
            assert!(
                directory(elsewhere).starts_with("/tmp/talaria-"),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn the_database_url_names_the_socket() {
        assert_eq!(
            database_url(Path::new("/home/ada/socket")),
            "postgresql://talaria@%2Fhome%2Fada%2Fsocket:5432/postgres"
        );
    }
}
