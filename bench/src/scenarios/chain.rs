//! S6: chains of turns, each of which continues from the one before.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{count, micros_each, millis};
use crate::cli::Subject;
use crate::database::counted;
use crate::load::{self, COMPLETED, CREATE, Connection};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;
use crate::processes;
use crate::report::{Book, Measure, quantile};
use crate::stage::{Stage, Talaria, Target};

const TURNS: u32 = 200;
/// How many chains, one after the other, the times are the medians of.
const TIMED_CHAINS: u32 = 4;
/// How many chains there are at once for the cost of a turn.
const CHAINS_AT_ONCE: u32 = 8;
/// What is asked and answered has so many tokens of varied text: 1 kB each.
const TOKENS: u32 = 128;

/// The turns whose times are shown, each the median of it and its neighbours.
const LOOKED_AT: [(RangeInclusive<u32>, Measure, Measure); 3] = [
    (8..=12, Measure::ChainTurn10, Measure::ChainAdded10),
    (98..=102, Measure::ChainTurn100, Measure::ChainAdded100),
    (196..=200, Measure::ChainTurn200, Measure::ChainAdded200),
];

/// Once for every subject. Those that store nothing are sent the whole history with each turn, as the mock is by
/// Talaria.
pub async fn round(stage: &Stage, subjects: &[Subject], book: &mut Book) -> anyhow::Result<()> {
    let mut straight = None;
    let mut others = Vec::new();
    for &subject in subjects {
        let target = stage.target(subject)?;
        let talaria = stage.talaria(subject).filter(|_| subject.stores());
        let times = async {
            match talaria {
                Some(_) => chained_times(&target).await,
                None => whole_times(&target, subject).await,
            }
        };
        let times = times
            .await
            .with_context(|| format!("measuring {subject:?}"))?;
        for ((_, measure, _), time) in LOOKED_AT.iter().zip(times) {
            book.note(*measure, subject, time);
        }
        match subject {
            Subject::Straight => straight = Some(times),
            _ => others.push((subject, times)),
        }
        if let Some(talaria) = talaria {
            note_cost(talaria, subject, book).await?;
        }
    }
    for (subject, times) in others {
        let Some(straight) = straight else { break };
        for (place, (_, _, added)) in LOOKED_AT.iter().enumerate() {
            book.note(*added, subject, times[place] - straight[place]);
        }
    }
    Ok(())
}

/// What is asked in a turn.
pub fn asked(turn: u32) -> String {
    let question = Text {
        tokens: TOKENS,
        seed: 1_000_000 + turn,
    };
    format!(
        "{} {}",
        question.whole(),
        load::input(answer(turn), Pace::default())
    )
}

/// What is answered in a turn.
pub fn answer(turn: u32) -> Text {
    Text {
        tokens: TOKENS,
        seed: turn,
    }
}

/// Everything that was said up to the question of `turn`.
pub fn said(turn: u32) -> Vec<String> {
    let mut said: Vec<String> = (1..turn)
        .flat_map(|turn| [asked(turn), answer(turn).whole()])
        .collect();
    said.push(asked(turn));
    said
}

/// Adds one turn to a chain; its time, and the response that it ended with.
pub async fn turn(
    connection: &mut Connection,
    turn: u32,
    previous: Option<&str>,
) -> anyhow::Result<(Duration, String)> {
    let body = load::chained_body(&asked(turn), previous);
    let text = answer(turn).whole();
    let sent = connection.send(Method::POST, CREATE, body);
    let (sample, body) = load::whole(sent, &[COMPLETED, &text]).await?;
    Ok((sample.whole, load::id(&body)?))
}

/// The time of a turn when its whole history is sent with it.
pub async fn whole_turn(
    connection: &mut Connection,
    subject: Subject,
    turn: u32,
) -> anyhow::Result<Duration> {
    // The mock is asked as Talaria asks it.
    let stream = subject.shape().is_none();
    let body = load::context_body(&said(turn), stream, false);
    let sent = connection.send(Method::POST, CREATE, body);
    let sample = if stream {
        load::stream(sent, TOKENS).await?.0
    } else {
        let text = answer(turn).whole();
        load::whole(sent, &[COMPLETED, &text]).await?.0
    };
    Ok(sample.whole)
}

async fn chained_times(target: &Target) -> anyhow::Result<[f64; 3]> {
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..TIMED_CHAINS {
        let mut connection = Connection::open(target.address).await?;
        let mut previous = None;
        for number in 1..=TURNS {
            let (time, id) = turn(&mut connection, number, previous.as_deref()).await?;
            previous = Some(id);
            for ((turns, _, _), times) in LOOKED_AT.iter().zip(&mut times) {
                if turns.contains(&number) {
                    times.push(time);
                }
            }
        }
    }
    Ok(times.map(median_ms))
}

async fn whole_times(target: &Target, subject: Subject) -> anyhow::Result<[f64; 3]> {
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut connection = Connection::open(target.address).await?;
    for _ in 0..TIMED_CHAINS {
        for ((turns, _, _), times) in LOOKED_AT.into_iter().zip(&mut times) {
            for number in turns {
                times.push(whole_turn(&mut connection, subject, number).await?);
            }
        }
    }
    Ok(times.map(median_ms))
}

fn median_ms(times: Vec<Duration>) -> f64 {
    millis(quantile(times.into_iter(), 0.5))
}

/// What a turn costs where several chains grow at once.
async fn note_cost(talaria: &Talaria, subject: Subject, book: &mut Book) -> anyhow::Result<()> {
    let target = talaria.target();
    let session = talaria.connect().await?;
    session.checkpoint().await?;
    let written = session.written().await?;
    let cpu = processes::cpu(&target.group)?;
    let start = Instant::now();

    let mut chains = JoinSet::new();
    for _ in 0..CHAINS_AT_ONCE {
        let address = target.address;
        chains.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut previous = None;
            for number in 1..=TURNS {
                let (_, id) = turn(&mut connection, number, previous.as_deref()).await?;
                previous = Some(id);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = chains.join_next().await {
        ended.context("a chain")??;
    }

    let seconds = start.elapsed().as_secs_f64();
    let cpu = processes::cpu(&target.group)? - cpu;
    let after = session.written().await?;
    let turns = count((CHAINS_AT_ONCE * TURNS) as usize);
    let each = |before, after| counted(after - before) / turns;
    let together = cpu.server + cpu.postgres;
    for (measure, figure) in [
        (Measure::ChainRate, turns / seconds),
        (Measure::ChainCpu, micros_each(together, turns)),
        (Measure::ChainCpuPostgres, micros_each(cpu.postgres, turns)),
        (Measure::ChainBytes, each(written.tables, after.tables)),
        (
            Measure::ChainBytesLog,
            each(written.event_log, after.event_log),
        ),
        (Measure::ChainWal, each(written.wal, after.wal)),
    ] {
        book.note(measure, subject, figure);
    }
    Ok(())
}
