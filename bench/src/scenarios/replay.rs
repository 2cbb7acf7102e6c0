//! S7: the streams of responses that have ended, read again from their beginning.

use std::time::Duration;

use anyhow::Context;

use super::{count, measured, micros_each};
use crate::cli::Subject;
use crate::load::{self, CREATE, Connection, Plan, Request, Until};
use crate::report::{Book, Measure};
use crate::stage::Stage;

const WORKERS: u32 = 32;
const TOKENS: u32 = 200;
/// How many events come with a message besides its tokens.
pub const EVENTS_BESIDES: u32 = 8;
const PERIOD: Duration = Duration::from_secs(4);

/// Once for every subject that stores; the mock and the proxy send as many bytes.
pub async fn round(stage: &Stage, subjects: &[Subject], book: &mut Book) -> anyhow::Result<()> {
    for &subject in subjects {
        if !subject.stores() {
            continue;
        }
        let mut paths = vec![format!("{CREATE}/any")];
        if subject.shape().is_some() {
            let mut connection = Connection::open(stage.target(subject)?.address).await?;
            paths.clear();
            for _ in 0..WORKERS {
                let stored = load::stored_stream(&mut connection, TOKENS).await;
                paths.push(stored.context("storing a stream")?);
            }
        }
        let (outcome, cpu) = measured(stage, subject, |address| Plan {
            address,
            request: Request::replay(TOKENS, paths),
            workers: WORKERS,
            stagger: Duration::ZERO,
            until: Until::Elapsed(PERIOD),
        })
        .await?;
        let events = count(outcome.samples.len()) * f64::from(TOKENS + EVENTS_BESIDES);
        let rate = events / outcome.elapsed.as_secs_f64();
        book.note(Measure::ReplayRate, subject, rate);
        if subject != Subject::Straight {
            let together = cpu.server + cpu.postgres;
            book.note(Measure::ReplayCpu, subject, micros_each(together, events));
            let postgres = micros_each(cpu.postgres, events);
            book.note(Measure::ReplayCpuPostgres, subject, postgres);
        }
    }
    Ok(())
}
