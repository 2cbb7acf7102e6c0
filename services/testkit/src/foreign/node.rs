//! Node and its packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use super::{clean, once, path_for, version};
use crate::process::succeeded;

/// A folder with `node_modules`.
#[derive(Debug)]
pub struct Node {
    home: PathBuf,
}

impl Node {
    /// One that has what `package-lock.json` in `sources` asks for, in `folder`; `None` where there is no Node.
    pub async fn with(sources: PathBuf, folder: &'static str) -> anyhow::Result<Option<Self>> {
        let install = move || install(&sources, Path::new(folder));
        tokio::task::spawn_blocking(install).await?
    }

    /// Runs the tests among the modules in `sources`, without the surroundings' settings for Node.
    pub fn tests(&self, sources: &Path) -> anyhow::Result<tokio::process::Command> {
        let names = modules(sources)?;
        let is_test = |name: &&String| name.ends_with(".test.mjs");
        ensure!(names.iter().any(|name| is_test(&name)), "no tests");
        let mut command = node_command("node");
        command
            .arg("--test")
            .args(names.iter().filter(is_test))
            .current_dir(self.beside_the_packages(sources, &names)?);
        Ok(tokio::process::Command::from(command))
    }

    /// Runs the one module in `sources`.
    pub fn program(&self, sources: &Path) -> anyhow::Result<tokio::process::Command> {
        let names = modules(sources)?;
        let mut command = node_command("node");
        command
            .args(&names)
            .current_dir(self.beside_the_packages(sources, &names)?);
        Ok(tokio::process::Command::from(command))
    }

    /// A file of a package.
    pub fn file(&self, path: &str) -> PathBuf {
        self.home.join("node_modules").join(path)
    }

    /// Copies the modules to where their imports are found; each content has a folder of its own.
    fn beside_the_packages(&self, sources: &Path, names: &[String]) -> anyhow::Result<PathBuf> {
        let mut contents = Vec::new();
        for name in names {
            contents.push(name.clone().into_bytes());
            contents.push(std::fs::read(sources.join(name))?);
        }
        let copies = path_for(&self.home, "sources", &contents);
        once(&copies, || {
            std::fs::create_dir_all(&copies)?;
            for name in names {
                std::fs::copy(sources.join(name), copies.join(name))?;
            }
            Ok(())
        })?;
        Ok(copies)
    }
}

/// The names of the files with JavaScript in a folder.
fn modules(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn install(sources: &Path, folder: &Path) -> anyhow::Result<Option<Node>> {
    let (Some(node), Some(npm)) = (version("node")?, version("npm")?) else {
        return Ok(None);
    };
    let files = ["package.json", "package-lock.json"];
    let [package, locked] = files.map(|name| std::fs::read(sources.join(name)));
    let home = path_for(folder, "node", &[package?, locked?, node, npm]);
    once(&home, || {
        std::fs::create_dir_all(&home)?;
        for name in files {
            std::fs::copy(sources.join(name), home.join(name))?;
        }
        let mut npm = node_command("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        succeeded(
            "installing Node packages",
            &npm.current_dir(&home).output()?,
        )
    })?;
    Ok(Some(Node { home }))
}

fn node_command(program: &str) -> Command {
    clean(Path::new(program), &["NODE_OPTIONS", "NODE_TEST_"])
}
