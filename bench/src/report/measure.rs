//! What is measured, and what is aimed at.

use serde::{Deserialize, Serialize};

use crate::cli::Scenario;

/// One line of the table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    FirstEventMedian,
    FirstTokenMedian,
    FirstTokenTail,
    AddedMedian,
    AddedTail,
    PacedCpu,
    PacedCpuPostgres,
    FastRate,
    FastCpu,
    FastCpuPostgres,
    RunRate,
    RunMedian,
    RunTail,
    RunCpu,
    RunCpuPostgres,
    GetRate,
    GetTail,
    GetCpu,
    GetCpuPostgres,
    HeldMemory,
    HeldMemoryPostgres,
    ChainTurn10,
    ChainTurn100,
    ChainTurn200,
    ChainAdded10,
    ChainAdded100,
    ChainAdded200,
    ChainRate,
    ChainCpu,
    ChainCpuPostgres,
    ChainBytes,
    ChainBytesLog,
    ChainWal,
    ReplayRate,
    ReplayCpu,
    ReplayCpuPostgres,
    LongRate,
    LongMemory,
    LongMemoryPostgres,
    LongGetMedian,
    LongGetWorst,
    LongReplayRate,
}

/// What is known about a measure beforehand.
pub struct Row {
    pub scenario: Scenario,
    pub what: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// What is aimed at with `store: true`.
    pub durable: Option<f64>,
    /// What is aimed at with `store: false`.
    pub ephemeral: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// What the machine can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    Fdatasync,
    InsertsByOne,
    InsertsByMany,
    RowsInHundreds,
    RowsInThousands,
    WalOfRow,
    Reads,
}

impl Measure {
    pub fn row(self) -> Row {
        use Better::{Higher, Lower};
        use Scenario::{S1, S2, S3, S4, S5, S6, S7, S8};

        let none = (None, None);
        let (scenario, what, unit, better, (durable, ephemeral)) = match self {
            Self::FirstEventMedian => (S1, "first event after, p50", "ms", Lower, none),
            Self::FirstTokenMedian => (S1, "first token after, p50", "ms", Lower, none),
            Self::FirstTokenTail => (S1, "first token after, p99", "ms", Lower, none),
            Self::AddedMedian => {
                let target = (Some(1.2), Some(0.8));
                (S1, "added to first token, p50", "ms", Lower, target)
            }
            Self::AddedTail => {
                let target = (Some(2.6), Some(2.0));
                (S1, "added to first token, p99", "ms", Lower, target)
            }
            Self::PacedCpu => (S1, "CPU a token", "µs", Lower, (Some(60.0), Some(40.0))),
            Self::PacedCpuPostgres => (S1, "… of it Postgres", "µs", Lower, none),
            Self::FastRate => {
                let target = (Some(150_000.0), Some(180_000.0));
                (S2, "tokens a second", "1/s", Higher, target)
            }
            Self::FastCpu => (S2, "CPU a token", "µs", Lower, (Some(9.0), Some(6.0))),
            Self::FastCpuPostgres => (S2, "… of it Postgres", "µs", Lower, none),
            Self::RunRate => {
                let target = (Some(5_000.0), Some(9_000.0));
                (S3, "runs a second", "1/s", Higher, target)
            }
            Self::RunMedian => (S3, "run, p50", "ms", Lower, (Some(6.0), None)),
            Self::RunTail => (S3, "run, p99", "ms", Lower, (Some(12.0), None)),
            Self::RunCpu => (S3, "CPU a run", "µs", Lower, (Some(300.0), Some(160.0))),
            Self::RunCpuPostgres => (S3, "… of it Postgres", "µs", Lower, none),
            Self::GetRate => {
                let target = (Some(15_000.0), None);
                (S4, "GETs a second", "1/s", Higher, target)
            }
            Self::GetTail => (S4, "GET, p99", "ms", Lower, none),
            Self::GetCpu => (S4, "CPU a GET", "µs", Lower, (Some(110.0), None)),
            Self::GetCpuPostgres => (S4, "… of it Postgres", "µs", Lower, none),
            Self::HeldMemory => {
                let target = (Some(45.0), Some(40.0));
                (S5, "memory a stream", "KiB", Lower, target)
            }
            Self::HeldMemoryPostgres => (S5, "… of it Postgres", "KiB", Lower, none),
            Self::ChainTurn10 => (S6, "turn 10, p50", "ms", Lower, none),
            Self::ChainTurn100 => (S6, "turn 100, p50", "ms", Lower, none),
            Self::ChainTurn200 => (S6, "turn 200, p50", "ms", Lower, none),
            Self::ChainAdded10 => (S6, "added to turn 10", "ms", Lower, (Some(1.5), None)),
            Self::ChainAdded100 => (S6, "added to turn 100", "ms", Lower, (Some(2.5), None)),
            Self::ChainAdded200 => (S6, "added to turn 200", "ms", Lower, (Some(3.5), None)),
            Self::ChainRate => (S6, "turns a second, 8 chains", "1/s", Higher, none),
            Self::ChainCpu => (S6, "CPU a turn", "µs", Lower, none),
            Self::ChainCpuPostgres => (S6, "… of it Postgres", "µs", Lower, none),
            Self::ChainBytes => (S6, "database a turn", "bytes", Lower, (Some(2500.0), None)),
            Self::ChainBytesLog => (S6, "… of it the event log", "bytes", Lower, none),
            Self::ChainWal => (S6, "write-ahead log a turn", "bytes", Lower, none),
            Self::ReplayRate => {
                let target = (Some(500_000.0), None);
                (S7, "events replayed a second", "1/s", Higher, target)
            }
            Self::ReplayCpu => (S7, "CPU an event", "µs", Lower, none),
            Self::ReplayCpuPostgres => (S7, "… of it Postgres", "µs", Lower, none),
            Self::LongRate => (S8, "tokens a second", "1/s", Higher, none),
            Self::LongMemory => (
                S8,
                "memory of the run, at most",
                "MiB",
                Lower,
                (Some(8.0), None),
            ),
            Self::LongMemoryPostgres => (S8, "memory of Postgres, after it", "MiB", Lower, none),
            Self::LongGetMedian => (
                S8,
                "GET in the middle, p50",
                "ms",
                Lower,
                (Some(30.0), None),
            ),
            Self::LongGetWorst => (
                S8,
                "GET in the middle, worst",
                "ms",
                Lower,
                (Some(30.0), None),
            ),
            Self::LongReplayRate => (S8, "events replayed a second", "1/s", Higher, none),
        };
        Row {
            scenario,
            what,
            unit,
            better,
            durable,
            ephemeral,
        }
    }
}

impl Measure {
    /// Whether it is all the CPU time that something takes.
    pub fn is_cost(self) -> bool {
        matches!(
            self,
            Self::PacedCpu
                | Self::FastCpu
                | Self::RunCpu
                | Self::GetCpu
                | Self::ChainCpu
                | Self::ReplayCpu
        )
    }
}

impl Limit {
    /// What it is, and its unit.
    pub fn what(self) -> (&'static str, &'static str) {
        match self {
            Self::Fdatasync => ("write and fdatasync of a page", "µs"),
            Self::InsertsByOne => ("Postgres: rows committed one by one, 1 connection", "1/s"),
            Self::InsertsByMany => ("Postgres: rows committed one by one, 32 connections", "1/s"),
            Self::RowsInHundreds => ("Postgres: rows, 100 a commit, 1 connection", "1/s"),
            Self::RowsInThousands => ("Postgres: rows, 1,000 a commit, 1 connection", "1/s"),
            Self::WalOfRow => ("Postgres: write-ahead log a row, 100 a commit", "bytes"),
            Self::Reads => ("Postgres: documents of 4 kB by key, 32 connections", "1/s"),
        }
    }
}
