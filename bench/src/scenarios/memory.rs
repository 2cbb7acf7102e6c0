//! S5: what it takes to hold many slow streams.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::{Fresh, count};
use crate::cli::Subject;
use crate::load::{self, Plan, Request, Until};
use crate::processes::{self, Split};
use crate::report::{Book, Measure};
use crate::stage::{Stage, Target};

const STREAMS: u32 = 2000;
const TOKENS: u32 = 15;
const PACE: Duration = Duration::from_secs(1);
const STAGGER: Duration = Duration::from_millis(2);
/// When all streams have been open for a while: the last starts at 4 s, the first ends at 14 s.
const LOOK_AT: Duration = Duration::from_secs(12);
/// How long a new server is left alone before its idle memory counts.
const SETTLE: Duration = Duration::from_secs(2);

/// Once for every subject that stands in between, each on a process of its own: a heap that has grown under
/// another load would hide the growth.
pub async fn round(stage: &Stage, subjects: &[Subject], book: &mut Book) -> anyhow::Result<()> {
    for &subject in subjects {
        let Some(fresh) = Fresh::start(stage, subject).await? else {
            continue;
        };
        let grown = grown_by(&fresh.target(), subject.stores())
            .await
            .with_context(|| format!("measuring {subject:?}"))?;
        let kib_each = |kib: i32| f64::from(kib) / f64::from(STREAMS);
        let together = grown.server + grown.postgres;
        book.note(Measure::HeldMemory, subject, kib_each(together));
        book.note(
            Measure::HeldMemoryPostgres,
            subject,
            kib_each(grown.postgres),
        );
        fresh.stop().await?;
    }
    Ok(())
}

/// The memory in KiB that holding the streams takes, over that of the idle server.
async fn grown_by(target: &Target, store: bool) -> anyhow::Result<Split<i32>> {
    let plan = |workers, tokens, pace| Plan {
        address: target.address,
        request: Request::stream(tokens, pace, store),
        workers,
        stagger: STAGGER,
        until: Until::Asked(1),
    };
    // What comes with the first few streams comes once.
    load::run(plan(16, TOKENS, Duration::from_millis(1))).await?;
    sleep(SETTLE).await;
    let idle = processes::memory_kib(&target.group)?;

    let looked = async {
        sleep(LOOK_AT).await;
        processes::memory_kib(&target.group)
    };
    let (outcome, held) = tokio::join!(load::run(plan(STREAMS, TOKENS, PACE)), looked);
    let streams = count(outcome?.samples.len());
    anyhow::ensure!(streams >= f64::from(STREAMS), "only {streams} streams");
    Ok(held? - idle)
}
