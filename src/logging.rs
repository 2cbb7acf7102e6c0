//! Where log lines go: stderr, as text or JSON.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing_subscriber::EnvFilter;

use crate::settings::{Log, LogFormat};

/// Starts logging for the life of the process.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // The MCP library writes down whole messages: what tools are asked, and what they answer.
    let filter = EnvFilter::try_new(&log.filter)?.add_directive("rmcp=off".parse()?);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow!("starting the log: {error}"))
}
