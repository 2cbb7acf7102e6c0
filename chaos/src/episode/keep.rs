//! Everything about an episode, for whoever has to find out what went wrong.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;

use super::{Outcome, Settings};
use crate::check::Facts;
use crate::cluster::Cluster;
use crate::history::write_lines;

/// Writes a directory that is named after the seed.
pub async fn keep(
    cluster: &Cluster,
    settings: &Settings,
    facts: &Facts,
    outcome: &Outcome,
) -> anyhow::Result<PathBuf> {
    let directory = settings.keep.join(format!("{:x}", outcome.seed));
    std::fs::create_dir_all(&directory).context("making a directory for a failed episode")?;
    write_lines(&directory.join("history.jsonl"), &facts.entries)?;
    write_lines(&directory.join("model.jsonl"), &facts.calls)?;
    write_lines(&directory.join("tools.jsonl"), &facts.executions)?;
    let rows: Vec<String> = facts.rows.iter().map(|row| format!("{row:?}")).collect();
    std::fs::write(directory.join("rows.txt"), rows.join("\n"))?;
    let mut summary = format!(
        "seed {0}\nreplay with {1} {0}\n\nfaults\n",
        outcome.seed, settings.replay
    );
    for fault in &outcome.faults {
        writeln!(summary, "  {fault}")?;
    }
    summary.push_str("\nviolations\n");
    for violation in &outcome.violations {
        writeln!(summary, "  {violation}")?;
    }
    std::fs::write(directory.join("summary.txt"), summary)?;
    for part in &cluster.parts {
        let part = part.lock().await;
        let file = directory.join(format!("{}.log", part.id));
        std::fs::write(file, part.lines().join("\n"))?;
    }
    let postgres = cluster.postgres.lock().await;
    if let Err(error) = postgres.dump(&directory.join("database.dump")).await {
        std::fs::write(directory.join("database.error"), format!("{error:#}"))?;
    }
    Ok(directory)
}
