//! S3 and S4: short runs that are not streamed, and reading stored responses.

use std::time::Duration;

use anyhow::Context;

use super::{count, measured, micros_each, millis};
use crate::cli::Subject;
use crate::load::{self, Connection, Plan, Request, Until};
use crate::report::{Book, Measure, quantile};
use crate::stage::Stage;

const WORKERS: u32 = 32;
const TOKENS: u32 = 20;
const PERIOD: Duration = Duration::from_secs(4);
/// How many different responses are read.
const STORED: u32 = 500;

/// S3, once for every subject.
pub async fn runs_round(
    stage: &Stage,
    subjects: &[Subject],
    book: &mut Book,
) -> anyhow::Result<()> {
    for &subject in subjects {
        let request = Request::run(TOKENS, subject.stores());
        let (outcome, cpu) = measured(stage, subject, |address| plan(address, request)).await?;
        let runs = count(outcome.samples.len());
        let at = |share| millis(quantile(outcome.samples.iter().map(|s| s.whole), share));
        book.note(
            Measure::RunRate,
            subject,
            runs / outcome.elapsed.as_secs_f64(),
        );
        book.note(Measure::RunMedian, subject, at(0.5));
        book.note(Measure::RunTail, subject, at(0.99));
        if subject != Subject::Straight {
            let together = cpu.server + cpu.postgres;
            book.note(Measure::RunCpu, subject, micros_each(together, runs));
            book.note(
                Measure::RunCpuPostgres,
                subject,
                micros_each(cpu.postgres, runs),
            );
        }
    }
    Ok(())
}

/// S4, once for every subject that stores.
pub async fn gets_round(
    stage: &Stage,
    subjects: &[Subject],
    book: &mut Book,
) -> anyhow::Result<()> {
    for &subject in subjects {
        if !subject.stores() {
            continue;
        }
        let mut connection = Connection::open(stage.target(subject)?.address).await?;
        let mut paths = Vec::new();
        for _ in 0..STORED {
            let stored = load::stored(&mut connection, TOKENS).await;
            paths.push(stored.context("storing a response")?);
        }
        let request = Request::get(TOKENS, paths);
        let (outcome, cpu) = measured(stage, subject, |address| plan(address, request)).await?;
        let gets = count(outcome.samples.len());
        let tail = quantile(outcome.samples.iter().map(|s| s.whole), 0.99);
        book.note(
            Measure::GetRate,
            subject,
            gets / outcome.elapsed.as_secs_f64(),
        );
        book.note(Measure::GetTail, subject, millis(tail));
        if subject != Subject::Straight {
            let together = cpu.server + cpu.postgres;
            book.note(Measure::GetCpu, subject, micros_each(together, gets));
            book.note(
                Measure::GetCpuPostgres,
                subject,
                micros_each(cpu.postgres, gets),
            );
        }
    }
    Ok(())
}

fn plan(address: std::net::SocketAddr, request: Request) -> Plan {
    Plan {
        address,
        request,
        workers: WORKERS,
        stagger: Duration::ZERO,
        until: Until::Elapsed(PERIOD),
    }
}
