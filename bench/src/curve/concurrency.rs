//! How many at a time.

use std::time::Duration;

use crate::cli::Subject;
use crate::load::{Plan, Request, Until};
use crate::points::Points;
use crate::report::quantile;
use crate::scenarios::{count, measured, micros_each, millis};
use crate::stage::Stage;

const USUAL: [u32; 8] = [1, 4, 16, 64, 256, 1024, 2048, 4096];
const SUBJECTS: [Subject; 3] = [Subject::Proxy, Subject::Durable, Subject::Ephemeral];
/// Streams of 5 s, evenly spread over them.
const STREAM_TOKENS: u32 = 25;
const TICK: Duration = Duration::from_millis(200);
const STREAM: Duration = Duration::from_secs(5);
const STREAMS_FOR: Duration = Duration::from_secs(10);
const RUN_TOKENS: u32 = 20;
const RUNS_FOR: Duration = Duration::from_secs(4);

/// Paced streams, and short runs as fast as they are answered, by so many clients.
pub async fn measure(stage: &Stage, points: &mut Points) -> anyhow::Result<()> {
    for clients in points.wanted(USUAL) {
        points.begin(clients);
        for subject in SUBJECTS {
            streams(stage, subject, clients, points).await?;
        }
        for subject in SUBJECTS {
            runs(stage, subject, clients, points).await?;
        }
    }
    points.remark(format!(
        "Streams of {STREAM_TOKENS} tokens, one each {TICK:?}; runs of {RUN_TOKENS} tokens, not streamed. CPU time is counted in \
         hundredths of a second, so that of few streams is rough."
    ));
    Ok(())
}

async fn streams(
    stage: &Stage,
    subject: Subject,
    clients: u32,
    points: &mut Points,
) -> anyhow::Result<()> {
    let request = Request::stream(STREAM_TOKENS, TICK, subject.stores());
    let (outcome, cpu) = measured(stage, subject, |address| Plan {
        address,
        request,
        workers: clients,
        stagger: STREAM / clients,
        until: Until::Elapsed(STREAMS_FOR),
    })
    .await?;
    let first = |share| {
        millis(quantile(
            outcome.samples.iter().map(|s| s.first_token),
            share,
        ))
    };
    let tokens = count(outcome.samples.len()) * f64::from(STREAM_TOKENS);
    let name = subject.name();
    points.note(format!("first token p50, {name}"), "ms", first(0.5));
    points.note(format!("first token p99, {name}"), "ms", first(0.99));
    let cpu = micros_each(cpu.server + cpu.postgres, tokens);
    points.note(format!("CPU a token, {name}"), "µs", cpu);
    Ok(())
}

async fn runs(
    stage: &Stage,
    subject: Subject,
    clients: u32,
    points: &mut Points,
) -> anyhow::Result<()> {
    let request = Request::run(RUN_TOKENS, subject.stores());
    let (outcome, cpu) = measured(stage, subject, |address| Plan {
        address,
        request,
        workers: clients,
        stagger: Duration::ZERO,
        until: Until::Elapsed(RUNS_FOR),
    })
    .await?;
    let runs = count(outcome.samples.len());
    let tail = quantile(outcome.samples.iter().map(|s| s.whole), 0.99);
    let name = subject.name();
    let rate = runs / outcome.elapsed.as_secs_f64();
    points.note(format!("runs a second, {name}"), "1/s", rate);
    points.note(format!("run p99, {name}"), "ms", millis(tail));
    let cpu = micros_each(cpu.server + cpu.postgres, runs);
    points.note(format!("CPU a run, {name}"), "µs", cpu);
    Ok(())
}
