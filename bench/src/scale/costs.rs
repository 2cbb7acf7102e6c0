//! What each part costs: CPU, memory and bytes of a token, a run, a GET and a replayed event.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::load::{Load, Seen};
use super::parts::PartFigures;
use super::usage::{Usage, memory_kib, usage};
use crate::database::{Session, counted};
use crate::load::{self, Connection, Plan, Request, Until};
use crate::report::quantile;
use crate::scenarios::{EVENTS_BESIDES, micros_each};
use crate::stage::{Instances, Part, Shape, Stage, Talaria};

const HELD: Paced = Paced {
    load: "2,000 streams, a token a second",
    streams: 2000,
    pace: Duration::from_secs(1),
    stagger: Duration::from_millis(2),
};
const PACED: [Paced; 2] = [
    Paced {
        load: "50 streams, a token each 20 ms",
        streams: 50,
        pace: Duration::from_millis(20),
        // Spreads their ticks over the 20 ms.
        stagger: Duration::from_micros(20_400),
    },
    Paced {
        load: "200 streams, a token each 20 ms",
        streams: 200,
        pace: Duration::from_millis(20),
        stagger: Duration::from_micros(5100),
    },
];
/// How long all paced streams are open before they are looked at, for how long, and how much longer they last.
const PACED_LEAD: Duration = Duration::from_secs(2);
const PACED_WINDOW: Duration = Duration::from_secs(10);
const PACED_TAIL: Duration = Duration::from_secs(1);
/// How long a new server is left alone before its idle memory counts.
const SETTLE: Duration = Duration::from_secs(2);

const FAST_WORKERS: u32 = 64;
const FAST_TOKENS: u32 = 200;
const WORKERS: u32 = 32;
const RUN_TOKENS: u32 = 20;
const STORED: u32 = 500;

/// Streams at a steady pace, begun evenly spread. Their beginnings and ends are not in the window.
struct Paced {
    load: &'static str,
    streams: u32,
    pace: Duration,
    stagger: Duration,
}

/// All loads once, on new Talarias of one process for each part. When short runs or reads fail, the rest is still worth
/// having: that goes to `failures`.
pub async fn round(
    stage: &Stage,
    window: Duration,
    figures: &mut PartFigures,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<()> {
    on_a_new_one(stage, async |talaria, session| {
        streams(talaria, session, window, figures).await
    })
    .await?;
    let runs = on_a_new_one(stage, async |talaria, session| {
        runs(talaria, session, window, figures).await
    });
    failures.extend(runs.await.err());
    let reads = on_a_new_one(stage, async |talaria, session| {
        reads(talaria, session, window, figures).await
    });
    failures.extend(reads.await.err());
    Ok(())
}

async fn on_a_new_one(
    stage: &Stage,
    work: impl AsyncFnOnce(&Talaria, &Session) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let talaria = stage.start_talaria(Shape::Apart(Instances::ONE)).await?;
    let session = talaria.connect().await?;
    let worked = work(&talaria, &session).await;
    drop(session);
    talaria.stop().await?;
    worked
}

async fn streams(
    talaria: &Talaria,
    session: &Session,
    window: Duration,
    figures: &mut PartFigures,
) -> anyhow::Result<()> {
    // First, since a heap that has grown under another load would hide the growth.
    held(talaria, session, figures).await?;
    for paced in &PACED {
        let load = paced.load;
        let (seen, tokens) = paced.measure(talaria, session).await?;
        note_cpu(figures, load, "token", tokens, &seen);
        note_written(figures, load, "token", tokens, &seen);
    }

    let load = "64 streams, as fast as taken";
    let request = Request::stream(FAST_TOKENS, Duration::ZERO, true);
    let seen = again_and_again(talaria, session, load, request, FAST_WORKERS, window).await?;
    let tokens = seen.answers() * f64::from(FAST_TOKENS);
    note_cpu(figures, load, "token", tokens, &seen);
    note_written(figures, load, "token", tokens, &seen);
    Ok(())
}

async fn reads(
    talaria: &Talaria,
    session: &Session,
    window: Duration,
    figures: &mut PartFigures,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(talaria.target().address).await?;
    let mut paths = Vec::new();
    for _ in 0..STORED {
        paths.push(load::stored(&mut connection, RUN_TOKENS).await?);
    }
    let load = "GETs, 32 at a time";
    let request = Request::get(RUN_TOKENS, paths);
    let seen = again_and_again(talaria, session, load, request, WORKERS, window).await?;
    note_cpu(figures, load, "GET", seen.answers(), &seen);

    let mut paths = Vec::new();
    for _ in 0..WORKERS {
        paths.push(load::stored_stream(&mut connection, FAST_TOKENS).await?);
    }
    let load = "replays, 32 at a time";
    let request = Request::replay(FAST_TOKENS, paths);
    let seen = again_and_again(talaria, session, load, request, WORKERS, window).await?;
    let events = seen.answers() * f64::from(FAST_TOKENS + EVENTS_BESIDES);
    note_cpu(figures, load, "event", events, &seen);
    Ok(())
}

async fn runs(
    talaria: &Talaria,
    session: &Session,
    window: Duration,
    figures: &mut PartFigures,
) -> anyhow::Result<()> {
    let load = "short runs, 32 at a time";
    let request = Request::run(RUN_TOKENS, true);
    let seen = again_and_again(talaria, session, load, request, WORKERS, window).await?;
    note_cpu(figures, load, "run", seen.answers(), &seen);
    note_written(figures, load, "run", seen.answers(), &seen);
    Ok(())
}

/// The streams that memory is measured with.
async fn held(
    talaria: &Talaria,
    session: &Session,
    figures: &mut PartFigures,
) -> anyhow::Result<()> {
    // What comes with the first few streams comes once.
    load::run(Plan {
        address: talaria.target().address,
        request: Request::stream(20, Duration::from_millis(1), true),
        workers: 16,
        stagger: HELD.stagger,
        until: Until::Asked(1),
    })
    .await
    .context("warming up")?;
    sleep(SETTLE).await;
    let idle = memory_kib(talaria)?;
    let mib = idle.iter().map(|(part, kib)| (*part, kib / 1024.0));
    figures.note_parts("nothing", "memory", "MiB", &mib.collect());

    let (seen, tokens) = HELD.measure(talaria, session).await?;
    note_cpu(figures, HELD.load, "token", tokens, &seen);
    note_written(figures, HELD.load, "token", tokens, &seen);
    let [_, (_, full)] = &seen.looks;
    let streams = f64::from(HELD.streams);
    let grown = |(part, kib): (&Part, &f64)| (*part, (kib - idle[part]) / streams);
    let grown = full.iter().map(grown).collect();
    figures.note_parts(HELD.load, "memory a stream", "KiB", &grown);
    Ok(())
}

type Look = (Usage, BTreeMap<Part, f64>);

async fn look(talaria: &Talaria, session: &Session) -> anyhow::Result<Look> {
    let usage = usage(talaria, session).await?;
    Ok((usage, memory_kib(talaria)?))
}

async fn again_and_again(
    talaria: &Talaria,
    session: &Session,
    load: &'static str,
    request: Request,
    workers: u32,
    window: Duration,
) -> anyhow::Result<Seen<Look>> {
    eprintln!("{load}");
    Load::again_and_again(request, workers, window)
        .put_on(talaria, async || look(talaria, session).await)
        .await
        .context(load)
}

impl Paced {
    /// Puts the load on, and says how many tokens came in the window.
    async fn measure(
        &self,
        talaria: &Talaria,
        session: &Session,
    ) -> anyhow::Result<(Seen<Look>, f64)> {
        eprintln!("{}", self.load);
        let lead = self.stagger * self.streams + PACED_LEAD;
        let length = lead + PACED_WINDOW + PACED_TAIL;
        let tokens = u32::try_from(length.as_millis() / self.pace.as_millis())?;
        let streams = Load {
            request: Request::stream(tokens, self.pace, true),
            workers: self.streams,
            stagger: self.stagger,
            until: Until::Asked(1),
            lead,
            window: PACED_WINDOW,
        };
        let seen = streams
            .put_on(talaria, async || look(talaria, session).await)
            .await
            .context(self.load)?;
        let took = quantile(seen.samples.iter().map(|sample| sample.whole), 0.5);
        ensure!(
            took < length.mul_f64(1.05),
            "{}: they took {took:?} instead of {length:?}, so the machine is too slow for them",
            self.load
        );
        let came = seen.answers() * f64::from(tokens);
        Ok((seen, came))
    }
}

/// Notes how many came in a second, and the CPU of each part for one of them.
fn note_cpu(
    figures: &mut PartFigures,
    load: &'static str,
    one: &str,
    count: f64,
    seen: &Seen<Look>,
) {
    let rate = count / seen.seconds();
    figures.note(load, &format!("{one}s a second"), "1/s", rate);
    let [(before, _), (after, _)] = &seen.looks;
    let each = |(part, used): (&Part, &Duration)| {
        let used = used.saturating_sub(before.cpu[part]);
        (*part, micros_each(used, count))
    };
    let cpu = after.cpu.iter().map(each).collect();
    figures.note_parts(load, &format!("CPU a {one}"), "µs", &cpu);
}

/// Notes what was written to the database for one of them.
fn note_written(
    figures: &mut PartFigures,
    load: &'static str,
    one: &str,
    count: f64,
    seen: &Seen<Look>,
) {
    let [(before, _), (after, _)] = &seen.looks;
    let mut note = |what: &str, unit, total: i64| {
        let measure = format!("{what} a {one}");
        figures.note_part(load, &measure, unit, Part::Postgres, counted(total) / count);
    };
    let (from, to) = (before.written, after.written);
    note("database", "bytes", to.tables - from.tables);
    note(
        "… of it the event log",
        "bytes",
        to.event_log - from.event_log,
    );
    note("write-ahead log", "bytes", to.wal - from.wal);
    let (from, to) = (before.committed, after.committed);
    note("transactions", "", to.transactions - from.transactions);
    if let (Some(from), Some(to)) = (from.wal_flushes, to.wal_flushes) {
        note("flushes of the log", "", to - from);
    }
}
