//! The scenarios, and the rounds in which they alternate.

pub mod chain;
mod fresh;
mod long;
mod memory;
mod replay;
mod short;
mod streams;

use std::time::Duration;

use anyhow::Context;

pub use self::replay::EVENTS_BESIDES;

use self::fresh::Fresh;
use crate::cli::{Measurement, Scenario, Subject};
use crate::limits;
use crate::load::{self, Plan, Request, Until};
use crate::machine::MeasuredOn;
use crate::processes::Split;
use crate::report::{Book, write_json};
use crate::stage::Stage;

/// Measures what was asked for and prints the table.
pub async fn run(measurement: &Measurement) -> anyhow::Result<()> {
    let subjects = measurement.subjects();
    let stage = Stage::set(measurement.common.server.as_deref(), &subjects).await?;
    let mut book = Book::default();
    warm_up(&stage, &subjects).await?;
    for round in 0..measurement.rounds.get() {
        for scenario in measurement.scenarios() {
            eprintln!(
                "round {} of {}: {scenario:?}",
                round + 1,
                measurement.rounds
            );
            scenario_round(scenario, &stage, &in_turn(&subjects, round), &mut book)
                .await
                .with_context(|| format!("scenario {scenario:?}"))?;
        }
    }
    let commit = measurement.common.commit.as_deref();
    let measured_on = MeasuredOn::this_machine(commit, stage.server(), stage.any_talaria()).await;
    stage.clear().await?;

    print!("{}", book.table());
    println!("\nMeasured on: {}", measured_on.line());
    if let Some(path) = &measurement.common.json {
        write_json(path, &book.figures(measured_on))?;
    }
    Ok(())
}

async fn scenario_round(
    scenario: Scenario,
    stage: &Stage,
    subjects: &[Subject],
    book: &mut Book,
) -> anyhow::Result<()> {
    match scenario {
        Scenario::S1 => streams::paced_round(stage, subjects, book).await,
        Scenario::S2 => streams::fast_round(stage, subjects, book).await,
        Scenario::S3 => short::runs_round(stage, subjects, book).await,
        Scenario::S4 => short::gets_round(stage, subjects, book).await,
        Scenario::S5 => memory::round(stage, subjects, book).await,
        Scenario::S6 => chain::round(stage, subjects, book).await,
        Scenario::S7 => replay::round(stage, subjects, book).await,
        Scenario::S8 => long::round(stage, subjects, book).await,
        Scenario::Limits => match stage.any_talaria() {
            Some(talaria) => limits::round(talaria, book).await,
            None => Ok(()),
        },
    }
}

/// Each round begins with another subject, so that none always has the same predecessor.
fn in_turn(subjects: &[Subject], round: u32) -> Vec<Subject> {
    let mut subjects = subjects.to_vec();
    let by = round as usize % subjects.len().max(1);
    subjects.rotate_left(by);
    subjects
}

/// What is cold at first (caches, prepared statements, empty tables) is not what is measured.
pub async fn warm_up(stage: &Stage, subjects: &[Subject]) -> anyhow::Result<()> {
    for subject in subjects {
        let stores = subject.stores();
        for request in [
            Request::run(20, stores),
            Request::stream(200, Duration::ZERO, stores),
        ] {
            load::run(Plan {
                address: stage.target(*subject)?.address,
                request,
                workers: 32,
                stagger: Duration::ZERO,
                until: Until::Elapsed(Duration::from_millis(500)),
            })
            .await
            .with_context(|| format!("warming up {subject:?}"))?;
        }
    }
    Ok(())
}

/// A load on a subject, with the CPU time it took there.
pub async fn measured(
    stage: &Stage,
    subject: Subject,
    plan: impl FnOnce(std::net::SocketAddr) -> Plan,
) -> anyhow::Result<(load::Outcome, Split<Duration>)> {
    let target = stage.target(subject)?;
    let before = crate::processes::cpu(&target.group)?;
    let outcome = load::run(plan(target.address))
        .await
        .with_context(|| format!("measuring {subject:?}"))?;
    let cpu = crate::processes::cpu(&target.group)? - before;
    Ok((outcome, cpu))
}

/// Milliseconds of `duration`.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Microseconds of `time` for each of `count`.
pub fn micros_each(time: Duration, count: f64) -> f64 {
    time.as_secs_f64() * 1e6 / count
}

/// The number of things, for arithmetic.
pub fn count(things: usize) -> f64 {
    u32::try_from(things).map_or(f64::INFINITY, f64::from)
}
