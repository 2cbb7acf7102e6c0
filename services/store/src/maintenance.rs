//! What the store does by itself, when. Safe to run in every replica: each step says how.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::abandoned::runs_end_abandoned;
use crate::approval::approvals_forget;
use crate::context::KnownTurns;
use crate::database::{Database, Error, error_chain};
use crate::lease::leases_forget;
use crate::retention::{
    Sweep, event_partitions_create, event_partitions_drop, responses_evict, responses_expire,
    turns_sweep,
};
use crate::touch::Touches;
use crate::{Config, Store};

/// Between two evictions at least; and ten times as long as one takes.
const EVICTION_PACE: Duration = Duration::from_secs(1);
const EVICTION_SHARE: u32 = 10;
const EVERY_MINUTE: Duration = Duration::from_mins(1);
const EVERY_HOUR: Duration = Duration::from_hours(1);
const RETRY: Duration = Duration::from_secs(10);
/// How long a run that was left waits to be taken over, and how long after its start a store ends those that wait longer.
const ABANDONED: Duration = EVERY_HOUR;
const ABANDONED_NOT_BEFORE: Duration = Duration::from_mins(5);
/// Batches of one round: what is left is for the next.
const BATCHES: usize = 20;
/// Pages of turns that one round looks at.
const SWEEP_PAGES: usize = 5;

/// What the store keeps, and what its upkeep learns from those who serve.
#[derive(Debug)]
pub struct Upkeep {
    /// 0 for no cap.
    max_responses: u64,
    retention: Option<Duration>,
    event_retention: Option<Duration>,
    touches: Touches,
    /// A run ended since the last eviction.
    has_more: AtomicBool,
    used: Notify,
}

impl Upkeep {
    pub fn new(config: &Config) -> Self {
        let hours = |hours: u64| (hours > 0).then(|| Duration::from_secs(hours * 3600));
        Self {
            max_responses: config.max_responses,
            retention: hours(u64::from(config.retention_days) * 24),
            event_retention: hours(u64::from(config.event_retention_hours)),
            touches: Touches::default(),
            has_more: AtomicBool::new(true),
            used: Notify::new(),
        }
    }

    /// Somebody read the response.
    pub fn touch(&self, response: uuid::Uuid) {
        if self.max_responses > 0 {
            self.touches.touch(response);
            self.used.notify_one();
        }
    }

    /// A run ended: there may be one response too many.
    pub fn run_ended(&self) {
        if self.max_responses > 0 {
            self.has_more.store(true, Ordering::Relaxed);
            self.used.notify_one();
        }
    }
}

/// The steps one by one, for whoever does not want to wait for their time.
impl Store {
    /// Removes of each tenant the responses beyond the `max` that ended or were read last; answers how many went.
    pub async fn evict_responses(&self, max: u64) -> Result<usize, Error> {
        responses_evict(self.database(), max).await
    }

    /// Removes responses that ended more than `age` ago; answers how many went.
    pub async fn expire_responses(&self, age: Duration) -> Result<usize, Error> {
        responses_expire(self.database(), age).await
    }

    /// Removes turns that nothing needs, among the next in the walk; answers how many went.
    pub async fn sweep_turns(&self, sweep: &mut Sweep) -> Result<usize, Error> {
        turns_sweep(self.database(), sweep).await
    }

    /// Ends runs whose process has been gone for `age` or longer without anybody taking them over; answers how many.
    pub async fn end_abandoned_runs(&self, age: Duration) -> Result<usize, Error> {
        runs_end_abandoned(self.database(), age).await
    }

    /// Drops the days of the event log that hold nothing younger than `age`; answers which went.
    pub async fn drop_event_partitions(&self, age: Duration) -> Result<Vec<String>, Error> {
        event_partitions_drop(self.database(), age).await
    }
}

/// Starts the loops, each of which ends on `stop`.
pub fn start(
    database: &Database,
    upkeep: &Arc<Upkeep>,
    known: &KnownTurns,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (database, upkeep) = (database.clone(), upkeep.clone());
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(keep_partitions(database.clone(), upkeep.clone())),
    );
    if upkeep.max_responses > 0 {
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(keep_cap(database.clone(), upkeep.clone())),
        );
    }
    tasks.spawn(stop.clone().run_until_cancelled_owned(keep_clean(
        database,
        upkeep,
        known.clone(),
    )));
}

/// Writes down what was read and holds the cap, soon after something was read or ended.
async fn keep_cap(database: Database, upkeep: Arc<Upkeep>) {
    loop {
        // What ended elsewhere is seen within a minute.
        let woken = tokio::time::timeout(EVERY_MINUTE, upkeep.used.notified()).await;
        let begin = Instant::now();
        let flushed = upkeep.touches.flush(&database).await;
        said("write down what was read", flushed);
        if upkeep.has_more.swap(false, Ordering::Relaxed) || woken.is_err() {
            let evict = || responses_evict(&database, upkeep.max_responses);
            if batches("evict responses", evict).await == Batches::MoreToDo {
                upkeep.run_ended();
            }
        }
        let pause = EVICTION_PACE.max(begin.elapsed() * EVICTION_SHARE);
        tokio::time::sleep(pause).await;
    }
}

/// Removes what is too old, and turns that nothing needs; ends what nobody goes on with.
async fn keep_clean(database: Database, upkeep: Arc<Upkeep>, known: KnownTurns) {
    let began = Instant::now();
    let mut sweep = Sweep::default();
    loop {
        let mut pause = EVERY_MINUTE;
        known.forget_idle();
        // Where everything was stopped for long, those who would go on come together with the store.
        if began.elapsed() >= ABANDONED_NOT_BEFORE {
            let end = || runs_end_abandoned(&database, ABANDONED);
            batches("end abandoned runs", end).await;
        }
        if let Some(age) = upkeep.retention {
            let expire = || responses_expire(&database, age);
            if batches("remove old responses", expire).await == Batches::MoreToDo {
                pause = EVICTION_PACE;
            }
        }
        let forget = || approvals_forget(&database);
        if batches("forget decisions", forget).await == Batches::MoreToDo {
            pause = EVICTION_PACE;
        }
        said("forget processes", leases_forget(&database).await);
        for _ in 0..SWEEP_PAGES {
            let swept = turns_sweep(&database, &mut sweep).await;
            if said("sweep turns", swept).is_none() || sweep.is_at_start() {
                break;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Keeps the event log's days a week ahead, and drops those that are over.
async fn keep_partitions(database: Database, upkeep: Arc<Upkeep>) {
    loop {
        let created = event_partitions_create(&database).await;
        let mut is_done = said("make partitions ahead", created).is_some();
        if let Some(age) = upkeep.event_retention {
            let dropped = event_partitions_drop(&database, age).await;
            is_done &= said("drop old partitions", dropped).is_some();
        }
        tokio::time::sleep(if is_done { EVERY_HOUR } else { RETRY }).await;
    }
}

/// What a round left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batches {
    /// Nothing, or something that has to wait.
    Done,
    MoreToDo,
}

/// Takes batches until one is empty or fails, or it was enough for a round.
async fn batches<B: Future<Output = Result<usize, Error>>>(
    step: &'static str,
    batch: impl Fn() -> B,
) -> Batches {
    for _ in 0..BATCHES {
        if said(step, batch().await).is_none_or(|removed| removed == 0) {
            return Batches::Done;
        }
    }
    Batches::MoreToDo
}

/// What a step answered; says it where it failed, for the step comes again.
fn said<T>(step: &'static str, outcome: Result<T, Error>) -> Option<T> {
    outcome
        .inspect_err(|error| tracing::warn!(error = error_chain(error), "could not {step}"))
        .ok()
}
