//! One process of a cluster, over all its starts.

use std::fmt;
use std::sync::Arc;

use talaria_testkit::process::Process;

use super::Options;
use crate::proxy::Proxy;

/// What is said of a process that had to be killed.
pub const UNENDED: &str = "did not end within 20 s of SIGTERM";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Store,
    Orchestrator,
    Gateway,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Store, Self::Orchestrator, Self::Gateway];

    /// The command that runs one.
    pub fn command(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Orchestrator => "orchestrator",
            Self::Gateway => "gateway",
        }
    }
}

/// Which process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartId {
    pub kind: Kind,
    pub index: usize,
}

impl fmt::Display for PartId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.kind.command(), self.index)
    }
}

/// A process that comes back at the same address. Whoever does something to it holds its lock meanwhile.
#[derive(Debug)]
pub struct Part {
    pub id: PartId,
    arguments: Vec<String>,
    /// The proxies in front of it.
    fronts: Vec<Arc<Proxy>>,
    seed: u64,
    process: Option<Process>,
    frozen: bool,
    starts: u64,
    /// What earlier processes printed.
    lines: Vec<String>,
}

impl Part {
    pub fn new(id: PartId, arguments: Vec<String>, fronts: Vec<Arc<Proxy>>, seed: u64) -> Self {
        Self {
            id,
            arguments,
            fronts,
            seed,
            process: None,
            frozen: false,
            starts: 0,
            lines: Vec::new(),
        }
    }

    /// Starts it; does not wait for it.
    pub fn start(&mut self, options: &Options) -> anyhow::Result<()> {
        self.bury();
        self.starts += 1;
        let failpoints = format!(
            "seed={};{}",
            self.seed ^ (self.starts << 8) ^ self.id.index as u64,
            options.failpoints
        );
        let mut environment: Vec<(&str, &str)> = options
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if !options.failpoints.is_empty() {
            environment.push(("TALARIA_FAILPOINTS", &failpoints));
        }
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.process = Some(Process::start(&options.binary, &arguments, &environment)?);
        for front in &self.fronts {
            front.set_up(true);
        }
        Ok(())
    }

    /// Kills it without a chance to react.
    pub async fn kill(&mut self) {
        self.refuse();
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ = process.kill9().await;
        }
        self.bury();
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process
            && process.terminate().is_ok()
        {
            let ended = process.wait().await;
            self.refuse();
            if ended.is_err() {
                self.kill().await;
                anyhow::bail!("{} {UNENDED}", self.id);
            }
        }
        self.bury();
        Ok(())
    }

    pub fn freeze(&mut self) {
        if let Some(process) = &mut self.process {
            self.frozen = process.freeze().is_ok();
        }
    }

    pub fn thaw(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.thaw();
        }
        self.frozen = false;
    }

    /// Whether it ended without having been told to.
    pub fn has_crashed(&mut self) -> bool {
        let crashed = match &mut self.process {
            Some(process) => !process.is_running().unwrap_or(true),
            None => false,
        };
        if crashed {
            self.refuse();
        }
        crashed
    }

    /// All that it printed, over all starts.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.lines.clone();
        if let Some(process) = &self.process {
            lines.extend(process.lines());
        }
        lines
    }

    /// Forgets what earlier processes printed.
    pub fn forget_lines(&mut self) {
        self.lines.clear();
    }

    fn refuse(&self) {
        for front in &self.fronts {
            front.set_up(false);
        }
    }

    /// Keeps what the last process printed.
    fn bury(&mut self) {
        if let Some(process) = self.process.take() {
            self.lines.push(format!("--- start {} ---", self.starts));
            self.lines.extend(process.lines());
        }
    }
}
