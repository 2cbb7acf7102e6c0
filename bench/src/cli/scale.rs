//! What `scale` can be told.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::Common;

/// Which questions to answer, and how closely.
#[derive(Args, Debug)]
pub struct ScaleArgs {
    /// Which tables [default: all]
    #[arg(value_name = "TABLE")]
    pub tables: Vec<ScaleTable>,
    /// How often each is measured; the tables show medians
    #[arg(long, default_value = "3")]
    pub rounds: NonZeroU32,
    /// How much of a core an instance gets where instances are counted, in per cent
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=25))]
    pub share: u32,
    /// How long to look at loads that are not paced, in seconds
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    #[command(flatten)]
    pub common: Common,
}

/// What is asked about growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleTable {
    /// CPU, memory and bytes of gateway, orchestrator, store and Postgres
    Costs,
    /// Throughput with one, two and three of each, every one with a share of a core
    Instances,
}

impl ScaleArgs {
    /// Whether this table was asked for.
    pub fn wants(&self, table: ScaleTable) -> bool {
        self.tables.is_empty() || self.tables.contains(&table)
    }
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    const SECONDS: std::ops::RangeInclusive<f64> = 0.1..=60.0;
    let seconds: f64 = text.parse().context("reading a number")?;
    ensure!(
        SECONDS.contains(&seconds),
        "it must be from {} to {}",
        SECONDS.start(),
        SECONDS.end()
    );
    Ok(Duration::from_secs_f64(seconds))
}
