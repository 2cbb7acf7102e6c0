//! What happens when more is asked for than can be done, and whether streams that run beside it keep their pace.

mod offered;
mod own;
mod paced;
mod sustainable;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::offered::{Offered, offer};
use self::own::lateness;
use self::paced::{Arrival, streams};
use self::sustainable::sustainable;
use crate::cli::{OverloadArgs, Subject};
use crate::machine::MeasuredOn;
use crate::report::{Listing, quantile, write_json};
use crate::scenarios::{count, millis};
use crate::stage::{Setup, Shape, Stage};

/// The length of the runs that are offered.
const TOKENS: u32 = 20;
/// How long the server has to rest in between.
const REST: Duration = Duration::from_secs(3);
/// How long the streams are alone before it begins, and after it ended.
const ALONE: Duration = Duration::from_secs(5);

/// What is written as JSON.
#[derive(Serialize)]
struct File {
    measured_on: MeasuredOn,
    figures: Listing,
}

/// Measures it once, on a Talaria with its own default of concurrent runs, and prints a table.
pub async fn run(args: &OverloadArgs) -> anyhow::Result<()> {
    let stage = Stage::set(args.common.server.as_deref(), &[Subject::Straight]).await?;
    let setup = Setup {
        shape: Shape::OneProcess,
        max_concurrent: None,
        max_starting: args.max_starting,
    };
    let talaria = stage.start_talaria_with(&setup).await?;
    let target = talaria.target();
    let mut figures = Listing::default();

    eprintln!("looking for the sustainable load");
    let (rate, clients) = sustainable(target.address, TOKENS).await?;
    let measure = format!("sustainable load, {clients} clients");
    figures.note(measure, "1/s", rate);
    let rate = rate * args.times;
    sleep(REST).await;
    eprintln!("offering {rate:.0} runs a second");
    let period = Duration::from_secs(args.seconds.into());
    let during = async {
        sleep(ALONE).await;
        let begin = Instant::now();
        let offered = offer(target.address, TOKENS, rate, period);
        let (offered, own) = tokio::join!(offered, lateness(begin + period));
        anyhow::Ok((begin, begin + period, offered?, own))
    };
    let beside = streams(target.address, ALONE + period + ALONE);
    let ((begin, end, offered, own), arrivals) = tokio::try_join!(during, beside)?;
    note_offered(&offered, rate, period, &mut figures);
    note_gaps("alone", &arrivals, |at| at < begin, &mut figures);
    let is_during = |at| at >= begin && at < end;
    note_gaps("under overload", &arrivals, is_during, &mut figures);
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        let late = millis(quantile(own.iter().copied(), share));
        figures.note(
            format!("the load generator's own delay, {what}"),
            "ms",
            late,
        );
    }

    let commit = args.common.commit.as_deref();
    let measured_on = MeasuredOn::this_machine(commit, stage.server(), Some(&talaria)).await;
    talaria.stop().await?;
    stage.clear().await?;
    print!("{}", figures.table());
    for (what, times) in &offered.others {
        println!("{times} times: {what}");
    }
    println!("\nMeasured on: {}", measured_on.line());
    if let Some(path) = &args.common.json {
        let file = File {
            measured_on,
            figures,
        };
        write_json(path, &file)?;
    }
    Ok(())
}

fn note_offered(offered: &Offered, rate: f64, period: Duration, figures: &mut Listing) {
    let sent = offered.sent();
    let share = |part: usize| count(part) / count(sent).max(1.0) * 100.0;
    figures.note("runs offered", "1/s", rate);
    let really = count(sent) / period.as_secs_f64();
    figures.note("… of them sent", "1/s", really);
    let completed = count(offered.completed.len()) / period.as_secs_f64();
    figures.note("accepted and completed", "1/s", completed);
    for (what, times) in [
        ("accepted and completed", &offered.completed),
        ("refused with 429", &offered.too_many),
        ("refused with 503", &offered.unavailable),
    ] {
        figures.note(what, "%", share(times.len()));
        if !times.is_empty() {
            let at = |share| millis(quantile(times.iter().copied(), share));
            figures.note(format!("{what}, p50"), "ms", at(0.5));
            figures.note(format!("{what}, p99"), "ms", at(0.99));
        }
    }
    let refused = offered.too_many.len() + offered.unavailable.len();
    if refused > 0 {
        let told = count(offered.with_retry_after) / count(refused) * 100.0;
        figures.note("refusals with Retry-After", "%", told);
    }
    figures.note("anything else", "%", share(offered.others.values().sum()));
}

fn note_gaps(
    when: &str,
    arrivals: &[Arrival],
    counts: impl Fn(Instant) -> bool,
    figures: &mut Listing,
) {
    let gaps = || arrivals.iter().filter(|it| counts(it.at)).map(|it| it.gap);
    for (what, share) in [("p50", 0.5), ("p99", 0.99), ("worst", 1.0)] {
        let gap = millis(quantile(gaps(), share));
        figures.note(format!("gap between tokens {when}, {what}"), "ms", gap);
    }
}
