//! S8: one very long run.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::replay::EVENTS_BESIDES;
use super::{Fresh, millis};
use crate::cli::Subject;
use crate::load::{self, CREATE, Connection, Frames, Plan, Request, Until};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;
use crate::processes::{self, Group};
use crate::report::{Book, Measure, quantile};
use crate::stage::{Stage, Target};

const TOKENS: u32 = 100_000;
const MIDDLE: u32 = TOKENS / 2;
/// How long the model says nothing in the middle: enough for all GETs.
const PAUSE: Duration = Duration::from_secs(4);
const GETS: u32 = 9;
const REPLAYS: u32 = 3;
/// How long a new server is left alone before its idle memory counts.
const SETTLE: Duration = Duration::from_secs(2);
/// From one look at the memory to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Once for every subject, each on a process of its own: a heap that has grown under another load would hide what this
/// takes.
pub async fn round(stage: &Stage, subjects: &[Subject], book: &mut Book) -> anyhow::Result<()> {
    render(stage).await?;
    for &subject in subjects {
        let fresh = Fresh::start(stage, subject).await?;
        let target = fresh.as_ref().map_or_else(
            || stage.target(Subject::Straight),
            |fresh| Ok(fresh.target()),
        )?;
        subject_round(&target, subject, book)
            .await
            .with_context(|| format!("measuring {subject:?}"))?;
        if let Some(fresh) = fresh {
            fresh.stop().await?;
        }
    }
    Ok(())
}

/// The mock renders an answer when it is first asked for it.
async fn render(stage: &Stage) -> anyhow::Result<()> {
    let mut mock = Connection::open(stage.target(Subject::Straight)?.address).await?;
    let path = format!("{CREATE}/any?stream=true&tokens={TOKENS}");
    load::stream(mock.send(Method::GET, &path, Bytes::new()), TOKENS).await?;
    Ok(())
}

async fn subject_round(target: &Target, subject: Subject, book: &mut Book) -> anyhow::Result<()> {
    warm_up(target, subject).await?;
    let idle = processes::memory_kib(&target.group)?;
    let (run, peak) = with_peak(&target.group, async {
        let body = body(Pace::default(), subject.stores());
        let mut connection = Connection::open(target.address).await?;
        let start = Instant::now();
        let sent = connection.send(Method::POST, CREATE, body);
        let (_, frames) = load::stream(sent, TOKENS).await?;
        anyhow::Ok((start.elapsed(), frames))
    })
    .await?;
    let (elapsed, frames) = run?;
    let rate = f64::from(TOKENS) / elapsed.as_secs_f64();
    book.note(Measure::LongRate, subject, rate);
    if subject != Subject::Straight {
        let after = processes::memory_kib(&target.group)?;
        let mib = |kib: i32| f64::from(kib) / 1024.0;
        book.note(Measure::LongMemory, subject, mib(peak - idle.server));
        let postgres = mib(after.postgres - idle.postgres);
        book.note(Measure::LongMemoryPostgres, subject, postgres);
    }
    if subject.shape().is_some() && subject.stores() {
        let id = frames.response_id.context("the stream names no response")?;
        note_replay(target, subject, &id, book).await?;
        note_gets(target, subject, book).await?;
    }
    Ok(())
}

fn body(pace: Pace, store: bool) -> Bytes {
    load::body(&load::input(Text::plain(TOKENS), pace), true, store)
}

/// What comes with the first few streams comes once.
async fn warm_up(target: &Target, subject: Subject) -> anyhow::Result<()> {
    load::run(Plan {
        address: target.address,
        request: Request::stream(200, Duration::ZERO, subject.stores()),
        workers: 16,
        stagger: Duration::ZERO,
        until: Until::Asked(4),
    })
    .await?;
    sleep(SETTLE).await;
    Ok(())
}

/// Does some work and looks at the services' memory meanwhile: in KiB, the most that was seen.
async fn with_peak<T>(group: &Group, work: impl Future<Output = T>) -> anyhow::Result<(T, i32)> {
    let mut peak = 0;
    let looks = async {
        loop {
            match processes::services_memory_kib(group) {
                Ok(kib) => peak = peak.max(kib),
                Err(error) => return error,
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let result = tokio::select! {
        result = work => result,
        error = looks => return Err(error),
    };
    let peak = peak.max(processes::services_memory_kib(group)?);
    Ok((result, peak))
}

async fn note_replay(
    target: &Target,
    subject: Subject,
    id: &str,
    book: &mut Book,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(target.address).await?;
    let path = format!("{CREATE}/{id}?stream=true");
    let mut times = Vec::new();
    for _ in 0..REPLAYS {
        let start = Instant::now();
        load::stream(connection.send(Method::GET, &path, Bytes::new()), TOKENS).await?;
        times.push(start.elapsed());
    }
    let time = quantile(times.into_iter(), 0.5);
    let rate = f64::from(TOKENS + EVENTS_BESIDES) / time.as_secs_f64();
    book.note(Measure::LongReplayRate, subject, rate);
    Ok(())
}

/// GETs of another such run, while its model pauses in the middle.
async fn note_gets(target: &Target, subject: Subject, book: &mut Book) -> anyhow::Result<()> {
    let (show, mut middle) = watch::channel(None);
    let run = async {
        let pace = Pace {
            pause_at: Some(MIDDLE),
            pause: PAUSE,
            ..Pace::default()
        };
        let mut connection = Connection::open(target.address).await?;
        let body = body(pace, true);
        let mut answer = connection.send(Method::POST, CREATE, body).await?;
        let mut frames = Frames::default();
        while let Some(bytes) = answer.next().await? {
            frames.feed(&bytes)?;
            if frames.deltas == MIDDLE {
                show.send_replace(frames.response_id.clone());
            }
        }
        // The GETs must be over by now.
        show.send_replace(None);
        frames.finish(TOKENS)
    };
    let gets = async {
        let id = middle.wait_for(Option::is_some).await?.clone();
        let path = format!("{CREATE}/{}", id.unwrap_or_default());
        let text = Text::plain(MIDDLE).whole();
        let mut connection = Connection::open(target.address).await?;
        let mut times = Vec::new();
        for _ in 0..GETS {
            let sent = connection.send(Method::GET, &path, Bytes::new());
            let (sample, _) = load::whole(sent, &[r#""status":"in_progress""#, &text]).await?;
            times.push(sample.whole);
        }
        if middle.borrow().is_none() {
            bail!("{GETS} GETs took longer than the pause of {PAUSE:?}");
        }
        anyhow::Ok(times)
    };
    let ((), times) = tokio::try_join!(run, gets)?;
    let at = |share| millis(quantile(times.iter().copied(), share));
    book.note(Measure::LongGetMedian, subject, at(0.5));
    book.note(Measure::LongGetWorst, subject, at(1.0));
    Ok(())
}
