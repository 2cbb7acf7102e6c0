//! What is measured on tables that were filled: runs, GETs, lists, turns.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::generate::Copies;
use crate::database::Session;
use crate::load::{self, CREATE, Connection, Plan, Request, Until};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;
use crate::points::Points;
use crate::processes;
use crate::report::quantile;
use crate::scenarios::{count, micros_each, millis};
use crate::stage::Target;

/// The length of the answers of what was copied.
pub const TOKENS: u32 = 20;
const WORKERS: u32 = 32;
const PERIOD: Duration = Duration::from_secs(4);
/// How many different responses are read.
const CHOSEN: i64 = 2000;
const TURNS: usize = 100;

/// Measures everything once.
pub async fn measure(
    target: &Target,
    copies: &Copies,
    session: &Session,
    points: &mut Points,
) -> anyhow::Result<()> {
    let paths = copies.paths(session, CHOSEN).await?;
    let turns = paths.clone();
    let list = vec!["/v1/runs?limit=20".to_owned()];
    for (what, request) in [
        ("run", Request::run(TOKENS, true)),
        ("GET", Request::get(TOKENS, paths)),
        // Each of them has completed, whatever its text.
        ("list of 20", Request::get(0, list)),
    ] {
        load_of(target, what, request, points).await?;
    }

    let mut connection = Connection::open(target.address).await?;
    let mut times = Vec::new();
    for path in turns.iter().cycle().take(TURNS) {
        let id = path.rsplit('/').next();
        let input = load::input(Text::plain(TOKENS), Pace::default());
        let body = load::chained_body(&input, id);
        let sent = connection.send(Method::POST, CREATE, body);
        let text = Text::plain(TOKENS).whole();
        times.push(load::whole(sent, &[load::COMPLETED, &text]).await?.0.whole);
    }
    let at = |share| millis(quantile(times.iter().copied(), share));
    points.note("turn after any, p50", "ms", at(0.5));
    points.note("turn after any, p99", "ms", at(0.99));
    Ok(())
}

async fn load_of(
    target: &Target,
    what: &str,
    request: Request,
    points: &mut Points,
) -> anyhow::Result<()> {
    let plan = |period| Plan {
        address: target.address,
        request: request.clone(),
        workers: WORKERS,
        stagger: Duration::ZERO,
        until: Until::Elapsed(period),
    };
    load::run(plan(PERIOD / 8)).await?;
    let before = processes::cpu(&target.group)?;
    let outcome = load::run(plan(PERIOD)).await?;
    let cpu = processes::cpu(&target.group)? - before;

    let answers = count(outcome.samples.len());
    let tail = quantile(outcome.samples.iter().map(|s| s.whole), 0.99);
    let rate = answers / outcome.elapsed.as_secs_f64();
    points.note(format!("{what}, rate"), "1/s", rate);
    points.note(format!("{what}, p99"), "ms", millis(tail));
    let cpu = micros_each(cpu.server + cpu.postgres, answers);
    points.note(format!("{what}, CPU"), "µs", cpu);
    Ok(())
}

/// Runs one response on an idle server and returns its path, to be copied.
pub async fn template(target: &Target) -> anyhow::Result<String> {
    let mut connection = Connection::open(target.address).await?;
    load::stored(&mut connection, TOKENS).await
}

/// That the server answers at all; the first answers of a new one are slow.
pub async fn warm_up(target: &Target) -> anyhow::Result<()> {
    let plan = Plan {
        address: target.address,
        request: Request::run(TOKENS, true),
        workers: WORKERS,
        stagger: Duration::ZERO,
        until: Until::Elapsed(Duration::from_millis(500)),
    };
    load::run(plan).await?;
    let mut connection = Connection::open(target.address).await?;
    let mut ready = connection
        .send(Method::GET, "/health", Bytes::new())
        .await?;
    ready.whole().await?;
    Ok(())
}
