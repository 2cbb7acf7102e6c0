//! Programs of other languages, with the packages that the tests pin.
//!
//! Packages are installed once per lock file and interpreter, into a folder that outlives the tests. Where there is no
//! interpreter and nobody insists, the tests that want one have nothing to do.

mod node;
mod python;

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

pub use node::Node;
pub use python::Python;

/// What `program --version` says, or `None` where it cannot be started and nobody insists.
fn version(program: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match Command::new(program).arg("--version").output() {
        Ok(output) => Ok(Some(output.stdout)),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: {program} cannot be started: {error}");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("starting {program}, which CI must have")),
    }
}

/// `folder/name-…`, a path for each content of `parts`.
fn path_for(folder: &Path, name: &str, parts: &[Vec<u8>]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    folder.join(format!("{name}-{:016x}", hasher.finish()))
}

/// Lets `make` fill `home`, unless that was done before.
fn once(home: &Path, make: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // Tests may be run at the same time. The lock ends with the file.
    let lock = File::create(home.with_extension("lock"))?;
    lock.lock()?;
    let complete = home.join("complete");
    if !complete.exists() {
        make()?;
        File::create(complete)?;
    }
    Ok(())
}

/// A command without the surroundings' settings whose names begin with `foreign`, or which are for OpenAI's SDKs.
fn clean(program: &Path, foreign: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_foreign = |prefix: &&str| text.starts_with(prefix);
        if text.starts_with("OPENAI_") || foreign.iter().any(is_foreign) {
            command.env_remove(&name);
        }
    }
    command
}
