//! What all episodes together were, as a table and as JSON.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;
use serde_json::{Value, json};

use crate::check::Facts;
use crate::cluster::Cluster;
use crate::history::{Action, What};
use crate::nemesis::{Done, Fault, PostgresFault};
use crate::recovery::{Cause, Wait, summary};

/// How much there was of everything.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Processes that got SIGKILL.
    pub kills: usize,
    /// Processes that ended at a failpoint.
    pub crashes: usize,
    /// SIGSTOP, of processes and of Postgres' connections.
    pub pauses: usize,
    /// Of one process or one edge.
    pub partitions: usize,
    /// Processes that got SIGTERM and came back.
    pub restarts: usize,
    /// Postgres killed, or stopped without a checkpoint.
    pub postgres_crashes: usize,
    pub postgres_restarts: usize,
    pub terminated_connections: usize,
    pub runs: usize,
    pub takeovers: usize,
    pub events_stored: usize,
    pub events_seen: usize,
    pub reattachments: usize,
    pub model_calls: usize,
    pub tool_executions: usize,
    pub samples: usize,
}

impl Counts {
    pub fn of(done: &[Done], facts: &Facts, cluster: &Cluster) -> Self {
        let mut counts = Self::default();
        for done in done {
            match &done.fault {
                Fault::Kill(..) => counts.kills += 1,
                Fault::KillAll(kind, _) => counts.kills += cluster.all(*kind).len(),
                Fault::Freeze(..) | Fault::FreezeBackend(_) => counts.pauses += 1,
                Fault::Partition(..) | Fault::Edge(..) => counts.partitions += 1,
                Fault::Terminate(_) => counts.restarts += 1,
                Fault::Rolling => counts.restarts += cluster.parts.len(),
                Fault::Postgres(PostgresFault::Fast) => counts.postgres_restarts += 1,
                Fault::Postgres(PostgresFault::Immediate | PostgresFault::Kill9(_)) => {
                    counts.postgres_crashes += 1;
                }
                Fault::Terminations(count) => counts.terminated_connections += count,
            }
        }
        counts.runs = facts.rows.len();
        for row in &facts.rows {
            counts.takeovers += usize::try_from(row.epoch - 1).unwrap_or_default();
            counts.events_stored += usize::try_from(row.next_seq).unwrap_or_default();
        }
        for entry in &facts.entries {
            match entry.what {
                What::Frame { .. } => counts.events_seen += 1,
                What::Sent {
                    action: Action::Attach { .. },
                    ..
                } => counts.reattachments += 1,
                _ => {}
            }
        }
        counts.model_calls = facts.calls.len();
        counts.tool_executions = facts.executions.len();
        counts
    }

    fn rows(&self) -> [(&'static str, usize); 15] {
        [
            ("processes killed (SIGKILL)", self.kills),
            ("processes crashed at failpoints", self.crashes),
            ("pauses (SIGSTOP)", self.pauses),
            ("partitions and bad edges", self.partitions),
            ("restarts (SIGTERM)", self.restarts),
            ("Postgres crashes", self.postgres_crashes),
            ("Postgres restarts", self.postgres_restarts),
            ("database connections killed", self.terminated_connections),
            ("runs", self.runs),
            ("takeovers", self.takeovers),
            ("events stored", self.events_stored),
            ("events seen by clients", self.events_seen),
            ("re-attachments", self.reattachments),
            ("model calls", self.model_calls),
            ("tool executions", self.tool_executions),
        ]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.partitions += other.partitions;
        self.restarts += other.restarts;
        self.postgres_crashes += other.postgres_crashes;
        self.postgres_restarts += other.postgres_restarts;
        self.terminated_connections += other.terminated_connections;
        self.runs += other.runs;
        self.takeovers += other.takeovers;
        self.events_stored += other.events_stored;
        self.events_seen += other.events_seen;
        self.reattachments += other.reattachments;
        self.model_calls += other.model_calls;
        self.tool_executions += other.tool_executions;
        self.samples += other.samples;
    }
}

/// The sum of many episodes.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failed: usize,
    pub counts: Counts,
    pub waits: Vec<Wait>,
    /// How often each invariant was violated.
    pub violations: BTreeMap<String, usize>,
    pub failed_seeds: Vec<u64>,
}

impl Report {
    pub fn add(&mut self, outcome: &crate::episode::Outcome) {
        if outcome.violations.is_empty() {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failed_seeds.push(outcome.seed);
        }
        self.counts += outcome.counts;
        self.waits.extend_from_slice(&outcome.waits);
        for violation in &outcome.violations {
            *self
                .violations
                .entry(violation.invariant.to_owned())
                .or_default() += 1;
        }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<36}{:>10}",
            "episodes",
            self.passed + self.failed
        )];
        let rows = self.counts.rows();
        lines.extend(rows.map(|(name, count)| format!("{name:<36}{count:>10}")));
        let violations: usize = self.violations.values().sum();
        lines.push(format!("{:<36}{violations:>10}", "violations"));
        for (invariant, count) in &self.violations {
            lines.push(format!("  {invariant:<34}{count:>10}"));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:<36}{:>8}{:>9}{:>9}{:>9}",
            "seconds to a run's next event after", "runs", "p50", "p99", "max"
        ));
        for (name, cause, alone) in Self::kinds_of_waits() {
            if let Some(summed) = summary(self.seconds(cause, alone)) {
                lines.push(format!(
                    "{name:<36}{:>8}{:>9.2}{:>9.2}{:>9.2}",
                    summed.count, summed.p50, summed.p99, summed.max
                ));
            }
        }
        lines.join("\n")
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let waits: Vec<Value> = Self::kinds_of_waits()
            .into_iter()
            .filter_map(|(_, cause, alone)| {
                let summed = summary(self.seconds(cause, alone))?;
                Some(json!({ "after": cause, "nothing_else_broken": alone, "seconds": summed }))
            })
            .collect();
        json!({
            "passed": self.passed, "failed": self.failed, "failed_seeds": self.failed_seeds, "counts": self.counts,
            "violations": self.violations, "waits": waits,
        })
    }

    fn kinds_of_waits() -> Vec<(String, Cause, bool)> {
        let name = |cause: Cause, alone: bool| {
            let what = match cause {
                Cause::Kill => "SIGKILL of its orchestrator",
                Cause::Freeze => "a freeze of 12 s or more",
                Cause::Partition => "a partition",
                Cause::Drain => "SIGTERM of its orchestrator",
                Cause::Postgres => "the return of Postgres",
            };
            let alone = if alone { "" } else { " (any)" };
            format!("  {what}{alone}")
        };
        Cause::ALL
            .into_iter()
            .flat_map(|cause| {
                [
                    (name(cause, true), cause, true),
                    (name(cause, false), cause, false),
                ]
            })
            .collect()
    }

    /// Waits after this cause: all of them, or those with nothing else broken.
    fn seconds(&self, cause: Cause, alone: bool) -> Vec<f64> {
        let waits = self.waits.iter();
        let wanted = waits.filter(|wait| wait.cause == cause && (wait.alone || !alone));
        wanted.map(|wait| wait.seconds).collect()
    }
}
