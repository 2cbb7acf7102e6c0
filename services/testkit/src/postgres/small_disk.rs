//! A disk that can be filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::PrivatePostgres;
use crate::guard::Guard;

/// Takes the disk at `$1` away.
const CLEAN_UP: &str = r#"umount -l "$1""#;

/// A file system of a few megabytes, below the directory of a server that may write to it. Unmounted at drop.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _guard: Guard,
}

impl SmallDisk {
    /// Mounts one; none where this process may not mount anything.
    pub fn mount(postgres: &PrivatePostgres, megabytes: u32) -> anyhow::Result<Option<Self>> {
        let path = postgres.directory().join("small");
        fs::create_dir(&path).context("making a place to mount")?;
        let guard = Guard::arm(CLEAN_UP, &[&path.to_string_lossy()])?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let disk = Self {
            path,
            _guard: guard,
        };
        postgres.give(&disk.path)?;
        Ok(Some(disk))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the space that is left.
    pub fn fill(&self) -> anyhow::Result<()> {
        use std::io::{ErrorKind, Write};

        let mut ballast = fs::File::create(self.ballast())?;
        let bytes = [0_u8; 4096];
        loop {
            match ballast.write_all(&bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }

    /// Gives it back.
    pub fn empty(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).context("making room on the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
