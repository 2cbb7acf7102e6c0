//! Many paced streams for a long time, whose clients leave and come back: does anything grow?

mod client;
mod trend;
mod usage;

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};

use self::client::{Client, Tally};
use self::trend::{Trend, trend};
use self::usage::usage;
use crate::cli::{SoakArgs, Subject};
use crate::database::Session;
use crate::machine::MeasuredOn;
use crate::points::Points;
use crate::report::write_json;
use crate::stage::{Instances, Shape, Stage, Target};

/// What must not grow (in MiB, or a number), and how little of a rise is none.
const STEADY: [(&str, f64); 5] = [
    ("memory of the server", 2.0),
    ("memory of Postgres", 4.0),
    ("threads", 2.0),
    ("open descriptors", 50.0),
    ("connections to Postgres", 4.0),
];

/// What is written as JSON.
#[derive(Serialize)]
struct File {
    measured_on: MeasuredOn,
    samples: Points,
    trends: Vec<Trend>,
}

/// Runs it and prints the samples and what became of each figure over the second half.
pub async fn run(args: &SoakArgs) -> anyhow::Result<()> {
    let stage = Stage::set(args.common.server.as_deref(), &[Subject::Straight]).await?;
    let shape = if args.apart {
        Shape::Apart(Instances::ONE)
    } else {
        Shape::OneProcess
    };
    let talaria = stage.start_talaria(shape).await?;
    let target = talaria.target();
    let session = talaria.connect().await?;
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let until = Instant::now() + length;

    let tally = Tally::default();
    let mut clients = JoinSet::new();
    for number in 0..args.streams {
        let client = Client::new(target.address, number, tally.clone());
        clients.spawn(client.run(until));
    }
    let every = Duration::from_secs(args.sample_seconds.into());
    let mut points = Points::new("soak", "seconds", u64::MAX);
    let start = Instant::now();
    let mut ticks = interval_at(start + every, every);
    while start.elapsed() + every / 2 < length {
        ticks.tick().await;
        points.begin(start.elapsed().as_secs());
        sample(&target, &session, &tally, &mut points).await?;
        if let Some(complaint) = tally.complaints().last() {
            eprintln!("a stream went wrong: {complaint}");
        }
    }
    eprintln!("waiting for the last streams to end");
    while let Some(ended) = clients.join_next().await {
        ended.context("a client")?;
    }

    let trends: Vec<Trend> = STEADY
        .iter()
        .filter_map(|(measure, none)| trend(measure, &points.figures(measure), *none))
        .collect();
    let commit = args.common.commit.as_deref();
    let measured_on = MeasuredOn::this_machine(commit, stage.server(), Some(&talaria)).await;
    drop(session);
    talaria.stop().await?;
    stage.clear().await?;

    println!("{}", points.table());
    for trend in &trends {
        println!("{trend}");
    }
    let (completed, returns) = (tally.completed(), tally.returns());
    println!("{completed} streams were complete, over {returns} returns of clients that had left.");
    println!("\nMeasured on: {}", measured_on.line());
    if let Some(path) = &args.common.json {
        let file = File {
            measured_on,
            samples: points,
            trends,
        };
        write_json(path, &file)?;
    }
    let complaints = tally.complaints();
    for complaint in complaints.iter().take(5) {
        eprintln!("talaria-bench: {complaint}");
    }
    ensure!(
        complaints.is_empty(),
        "{} streams went wrong",
        complaints.len()
    );
    Ok(())
}

async fn sample(
    target: &Target,
    session: &Session,
    tally: &Tally,
    points: &mut Points,
) -> anyhow::Result<()> {
    let usage = usage(&target.group)?;
    let database = session.size().await?;
    points.note("memory of the server", "MiB", usage.server_mib);
    points.note("memory of Postgres", "MiB", usage.postgres_mib);
    points.note("threads", "", usage.threads);
    points.note("open descriptors", "", usage.descriptors);
    points.note("connections to Postgres", "", database.connections);
    points.note("database", "MiB", database.mib);
    points.note("streams completed", "", tally.completed());
    points.note("returns", "", tally.returns());
    Ok(())
}
