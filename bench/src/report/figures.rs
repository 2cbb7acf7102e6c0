//! The file of figures: everything that was measured, and what it was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::measure::Better;
use crate::machine::MeasuredOn;

/// Everything of one measurement.
#[derive(Debug, Deserialize, Serialize)]
pub struct Figures {
    /// Not in files of earlier versions.
    #[serde(default)]
    pub measured_on: MeasuredOn,
    pub measures: Vec<Measured>,
    /// What the machine can do by itself.
    pub machine: Vec<MeasuredLimit>,
}

/// One line of the table.
#[derive(Debug, Deserialize, Serialize)]
pub struct Measured {
    pub scenario: String,
    pub measure: String,
    pub unit: String,
    pub better: Better,
    pub target: Targets,
    /// By the names of the subjects.
    pub figures: BTreeMap<String, Rounds>,
}

/// What is aimed at.
#[derive(Debug, Deserialize, Serialize)]
pub struct Targets {
    pub durable: Option<f64>,
    pub ephemeral: Option<f64>,
}

/// One line of the table of limits.
#[derive(Debug, Deserialize, Serialize)]
pub struct MeasuredLimit {
    pub measure: String,
    pub unit: String,
    pub figures: Rounds,
}

/// The figures of all rounds.
#[derive(Debug, Deserialize, Serialize)]
pub struct Rounds {
    pub median: f64,
    pub rounds: Vec<f64>,
}

impl Figures {
    /// Reads a file that was written by `--json`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }
}

impl Rounds {
    pub fn of(rounds: &[f64]) -> Self {
        Self {
            median: super::median(rounds),
            rounds: rounds.to_vec(),
        }
    }

    /// From the smallest to the largest; none if one round says nothing about that.
    pub fn spread(&self) -> Option<f64> {
        let smallest = self.rounds.iter().copied().reduce(f64::min)?;
        let largest = self.rounds.iter().copied().reduce(f64::max)?;
        (self.rounds.len() > 1).then_some(largest - smallest)
    }
}
