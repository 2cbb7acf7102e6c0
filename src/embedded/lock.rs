//! One process per data directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The right to use a data directory; the operating system takes it back when this process ends.
pub struct Lock {
    _file: File,
}

/// Another process has the data directory.
#[derive(Debug, thiserror::Error)]
#[error("the data directory {} is in use by the talaria process {process}", data_dir.display())]
pub struct InUse {
    data_dir: PathBuf,
    process: String,
}

impl Lock {
    /// Takes the lock or says which process has it.
    pub fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: the holder may be writing it at this moment.
                let _ = file.read_to_string(&mut holder);
                return Err(InUse {
                    data_dir: data_dir.to_owned(),
                    process: holder.trim().to_owned(),
                }
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }

        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_used_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();

        let refused = Lock::take(dir.path()).err().unwrap().to_string();
        assert!(
            refused.ends_with(&format!("process {}", std::process::id())),
            "{refused}"
        );

        drop(first);
        Lock::take(dir.path()).unwrap();
    }
}
