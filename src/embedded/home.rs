//! Where the private Postgres lives on disk.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tracing::info;

use super::user::User;

/// Where clusters live whose user cannot reach the data directory.
const SHARED: &str = "/var/lib/talaria";

/// The directories of one private Postgres.
pub struct Home {
    data_dir: PathBuf,
    /// Where the directories are: the data directory, unless the user of Postgres cannot reach that.
    pub dir: PathBuf,
    /// The data of Postgres, perhaps not there yet.
    pub cluster: PathBuf,
}

impl Home {
    /// The home of `data_dir` (absolute), through the link that an earlier start may have left there.
    pub fn find(data_dir: &Path) -> anyhow::Result<Self> {
        let link = data_dir.join("postgres");
        let cluster = match fs::read_link(&link) {
            Ok(target) => target,
            Err(_) => link,
        };
        let dir = cluster
            .parent()
            .context("the cluster has no directory around it")?
            .to_owned();
        Ok(Self {
            data_dir: data_dir.to_owned(),
            dir,
            cluster,
        })
    }

    /// The same home, or one elsewhere with a link to it if `user` cannot reach this one.
    pub fn reachable_by(self, user: &User) -> anyhow::Result<Self> {
        if user.can_reach(&self.dir) {
            return Ok(self);
        }
        let dir = Path::new(SHARED).join(format!("{:016x}", hash(&self.data_dir)));
        let cluster = dir.join("postgres");
        if cluster != self.cluster {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&dir)
                .with_context(|| format!("creating {}", dir.display()))?;
            let link = self.data_dir.join("postgres");
            symlink(&cluster, &link)
                .with_context(|| format!("linking {} to {}", link.display(), cluster.display()))?;
        }
        info!(
            data_dir = %self.data_dir.display(),
            path = %cluster.display(),
            "the user that Postgres runs as cannot reach the data directory, so the database is kept elsewhere"
        );
        Ok(Self {
            data_dir: self.data_dir,
            dir,
            cluster,
        })
    }
}

/// FNV-1a over the bytes of `path`: names must stay the same in every version of this program.
pub fn hash(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_path_is_fnv_1a() {
        assert_eq!(hash(Path::new("")), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(Path::new("foobar")), 0x8594_4171_f739_67e8);
    }
}
