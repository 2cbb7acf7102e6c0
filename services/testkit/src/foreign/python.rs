//! Python and its packages.

use std::path::{Path, PathBuf};

use super::{clean, once, path_for, version};
use crate::process::succeeded;

/// A virtual environment.
#[derive(Debug)]
pub struct Python {
    home: PathBuf,
}

impl Python {
    /// One that has what the file `requirements` asks for, in `folder`; `None` where there is no Python.
    pub async fn with(requirements: PathBuf, folder: &'static str) -> anyhow::Result<Option<Self>> {
        let install = move || install(&requirements, Path::new(folder));
        tokio::task::spawn_blocking(install).await?
    }

    /// The interpreter, without the surroundings' settings for it.
    pub fn command(&self) -> tokio::process::Command {
        let python = self.program("python");
        tokio::process::Command::from(clean(&python, &SETTINGS))
    }

    /// A program that came with a package.
    pub fn program(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }
}

const SETTINGS: [&str; 2] = ["PYTEST_", "PYTHON"];

fn install(requirements: &Path, folder: &Path) -> anyhow::Result<Option<Python>> {
    let Some(version) = version("python3")? else {
        return Ok(None);
    };
    let home = path_for(folder, "python", &[std::fs::read(requirements)?, version]);
    let python = Python { home };
    once(&python.home, || {
        let mut venv = clean(Path::new("python3"), &SETTINGS);
        venv.args(["-m", "venv", "--clear"]).arg(&python.home);
        succeeded("making a virtual environment", &venv.output()?)?;
        let mut pip = clean(&python.program("python"), &SETTINGS);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "-r"]);
        succeeded(
            "installing Python packages",
            &pip.arg(requirements).output()?,
        )
    })?;
    Ok(Some(python))
}
