//! How many tokens in one run.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::cli::Subject;
use crate::load::{self, COMPLETED, Connection, Plan, Request, Until};
use crate::mock::answer::Text;
use crate::points::Points;
use crate::report::quantile;
use crate::scenarios::{EVENTS_BESIDES, count, measured, micros_each, millis};
use crate::stage::Stage;

const USUAL: [u32; 5] = [10, 100, 1000, 10_000, 100_000];
const WORKERS: u32 = 8;
/// How many tokens are streamed at a point, in as many runs as that takes.
const TOKENS: u32 = 800_000;
const READS: u32 = 9;

/// Streams as fast as they are taken; then one such response read whole, and its stream again.
pub async fn measure(stage: &Stage, points: &mut Points) -> anyhow::Result<()> {
    for tokens in points.wanted(USUAL) {
        points.begin(tokens);
        for subject in [Subject::Proxy, Subject::Durable, Subject::Ephemeral] {
            streams(stage, subject, tokens, points).await?;
        }
        reads(stage, tokens, points).await?;
    }
    points.remark(format!(
        "{WORKERS} streams at a time; GET and replay by one client."
    ));
    Ok(())
}

async fn streams(
    stage: &Stage,
    subject: Subject,
    tokens: u32,
    points: &mut Points,
) -> anyhow::Result<()> {
    // The mock renders each length once, which is not what is measured.
    let mut connection = Connection::open(stage.target(subject)?.address).await?;
    load::stored_stream(&mut connection, tokens).await?;

    let request = Request::stream(tokens, Duration::ZERO, subject.stores());
    let (outcome, cpu) = measured(stage, subject, |address| Plan {
        address,
        request,
        workers: WORKERS,
        stagger: Duration::ZERO,
        until: Until::Asked((TOKENS / tokens / WORKERS).clamp(1, 1000)),
    })
    .await?;
    let all = count(outcome.samples.len()) * f64::from(tokens);
    let name = subject.name();
    let rate = all / outcome.elapsed.as_secs_f64();
    points.note(format!("tokens a second, {name}"), "1/s", rate);
    let cpu = micros_each(cpu.server + cpu.postgres, all);
    points.note(format!("CPU a token, {name}"), "µs", cpu);
    Ok(())
}

async fn reads(stage: &Stage, tokens: u32, points: &mut Points) -> anyhow::Result<()> {
    let mut connection = Connection::open(stage.target(Subject::Durable)?.address).await?;
    let path = load::stored_stream(&mut connection, tokens).await?;
    let stream = format!("{path}?stream=true");
    let text = Text::plain(tokens).whole();
    let mut gets = Vec::new();
    let mut replays = Vec::new();
    for _ in 0..READS {
        let sent = connection.send(Method::GET, &path, Bytes::new());
        gets.push(load::whole(sent, &[COMPLETED, &text]).await?.0.whole);
        let sent = connection.send(Method::GET, &stream, Bytes::new());
        replays.push(load::stream(sent, tokens).await?.0.whole);
    }
    let get = quantile(gets.into_iter(), 0.5);
    let replay = quantile(replays.into_iter(), 0.5);
    points.note("GET", "ms", millis(get));
    let events = f64::from(tokens + EVENTS_BESIDES);
    points.note(
        "events replayed a second",
        "1/s",
        events / replay.as_secs_f64(),
    );
    Ok(())
}
