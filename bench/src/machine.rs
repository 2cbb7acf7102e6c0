//! What a measurement was made on, so that figures of different machines are not taken for each other.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::stage::Talaria;

/// What figures depend on besides the program. What could not be found out is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct MeasuredOn {
    pub cpu: Option<String>,
    pub cores: Option<usize>,
    pub kernel: Option<String>,
    pub postgres: Option<String>,
    /// Of the source that the measured program was built from.
    pub commit: Option<String>,
    /// When, in UTC.
    pub date: Option<String>,
}

impl MeasuredOn {
    /// Finds it out. `commit` is what the user says about `server`, the program; otherwise it is that of the directory
    /// in which the program was built.
    pub async fn this_machine(
        commit: Option<&str>,
        server: &Path,
        talaria: Option<&Talaria>,
    ) -> Self {
        let postgres = async { talaria?.connect().await.ok()?.version().await.ok() };
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let commit = match commit {
            Some(commit) => Some(commit.to_owned()),
            None => commit_around(server).await,
        };
        Self {
            cpu: cpu_model(&cpus),
            cores: std::thread::available_parallelism().ok().map(Into::into),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|release| release.trim().to_owned()),
            postgres: postgres.await,
            commit,
            date: said_by(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).await,
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let cores = self.cores.map(|cores| format!("{cores} cores"));
        let kernel = self.kernel.as_ref().map(|kernel| format!("Linux {kernel}"));
        let postgres = self.postgres.as_ref().map(|it| format!("Postgres {it}"));
        let commit = self
            .commit
            .as_ref()
            .map(|commit| format!("commit {commit}"));
        let parts = [
            self.cpu.clone(),
            cores,
            kernel,
            postgres,
            commit,
            self.date.clone(),
        ];
        let known: Vec<String> = parts.into_iter().flatten().collect();
        known.join(", ")
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let (_, name) = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?
        .split_once(':')?;
    Some(name.trim().to_owned())
}

/// The commit of the work tree that a program lies in, if it is in one.
async fn commit_around(program: &Path) -> Option<String> {
    let directory = program.parent()?;
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(directory)
        .args(["describe", "--always", "--dirty", "--abbrev=12"]);
    said_by(&mut git).await
}

async fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_in_one_line() {
        let machine = MeasuredOn {
            cpu: cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"),
            cores: Some(2),
            date: Some("2026-11-28".to_owned()),
            ..MeasuredOn::default()
        };

        assert_eq!(machine.line(), "Some CPU @ 2 GHz, 2 cores, 2026-11-28");
        assert_eq!(MeasuredOn::default().line(), "");
    }
}
