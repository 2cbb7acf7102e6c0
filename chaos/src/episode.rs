//! One episode: load, faults, healing, settling, and the verdict.

mod gather;
mod keep;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::check::{self, Facts, Touch, Violation};
use crate::client::Client;
use crate::cluster::{Cluster, Kind, PartId, UNENDED, front};
use crate::history::History;
use crate::nemesis::{self, Done, Fault, FaultKind, World};
use crate::plan::Plan;
use crate::proxy::Mode;
use crate::random::Random;
use crate::recovery::{self, Wait};
use crate::report::Counts;
use crate::sampler::{Samples, sample};

/// Load without faults.
const WARM: Duration = Duration::from_secs(3);
/// How long after the last fault every run may take to end.
const SETTLE: Duration = Duration::from_mins(1);
/// How often it is looked whether all have.
const LOOK: Duration = Duration::from_millis(200);
/// What all prompts and all of the model's words begin with.
const SAID: [char; 2] = ['⟦', '⟨'];
/// Load after the last fault.
const AFTER: Duration = Duration::from_secs(1);

/// What an episode is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub clients: usize,
    pub kinds: Vec<FaultKind>,
    /// Faults of one episode.
    pub most_faults: u64,
    /// How long faults are begun for.
    pub faults: Duration,
    /// Answers of the model in 100 that something goes wrong with.
    pub trouble_percent: u64,
    /// Runs one episode again, with its seed after it.
    pub replay: String,
    /// Where failed episodes are kept.
    pub keep: PathBuf,
    /// Keep those that passed, too.
    pub keep_all: bool,
}

/// What came of an episode.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<Violation>,
    pub counts: Counts,
    pub waits: Vec<Wait>,
    pub faults: Vec<String>,
    pub length: Duration,
    /// Where everything about it is, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Runs an episode on a cluster; times in its history are counted from `epoch`.
pub async fn run(
    cluster: &Arc<Cluster>,
    settings: &Settings,
    seed: u64,
    epoch: Instant,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let name = format!("{seed:x}");
    cluster.model.begin(seed, settings.trouble_percent);
    cluster.tools.begin();
    let crashes_before = cluster.crashes.load(Ordering::Relaxed);
    let history = Arc::new(History::new(epoch));
    let floor = floor(cluster).await?;

    let samples = Arc::new(Mutex::new(Samples::default()));
    let (stop_sampling, stop_making) = (CancellationToken::new(), CancellationToken::new());
    let mut looking = JoinSet::new();
    looking.spawn(sample(
        Arc::clone(cluster),
        floor,
        Arc::clone(&samples),
        stop_sampling.clone(),
    ));
    let mut clients = JoinSet::new();
    for index in 0..settings.clients {
        let client = Client {
            index,
            cluster: Arc::clone(cluster),
            history: Arc::clone(&history),
            random: Random::of(seed, &format!("client {index}")),
            episode: name.clone(),
            stop: stop_making.clone(),
        };
        clients.spawn(client.run());
    }

    tokio::time::sleep(WARM).await;
    let done = break_things(cluster, settings, seed).await;
    heal(cluster).await?;
    let healed = Instant::now();
    tokio::time::sleep(AFTER).await;
    stop_making.cancel();
    let mut violations = settle(cluster, floor, &mut clients, healed).await;
    violations.extend(last_operations(cluster, &name).await);
    stop_sampling.cancel();
    while looking.join_next().await.is_some() {}
    clients.shutdown().await;

    let samples = std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
    let facts = Facts {
        entries: history.entries(),
        calls: cluster.model.calls(),
        executions: cluster.tools.executions(),
        touches: touches(cluster, &done, epoch),
        ..gather::facts(cluster, floor, &history).await?
    };
    violations.extend(check::check(&facts));
    violations.extend(samples.violations.iter().cloned());
    violations.extend(complaints(cluster).await);
    violations.extend(done.iter().filter_map(unended));
    let waits = recovery::waits(&done, &samples, |id| front(&cluster.proxies, id));
    let mut counts = Counts::of(&done, &facts, cluster);
    counts.crashes = cluster.crashes.load(Ordering::Relaxed) - crashes_before;
    counts.samples = samples.count;
    let mut outcome = Outcome {
        seed,
        violations,
        counts,
        waits,
        faults: done.iter().map(|done| described(done, started)).collect(),
        length: started.elapsed(),
        kept: None,
    };
    if settings.keep_all || !outcome.violations.is_empty() {
        outcome.kept = Some(keep::keep(cluster, settings, &facts, &outcome).await?);
    }
    for part in &cluster.parts {
        part.lock().await.forget_lines();
    }
    Ok(outcome)
}

fn described(done: &Done, started: Instant) -> String {
    let from = (done.from - started).as_secs_f64();
    let to = (done.to - started).as_secs_f64();
    let odd = done.odd.as_deref().map(|odd| format!(" ({odd})"));
    format!(
        "{from:.1}–{to:.1} s {:?}{}",
        done.fault,
        odd.unwrap_or_default()
    )
}

/// The smallest id of a response that is made from now on.
async fn floor(cluster: &Cluster) -> anyhow::Result<Uuid> {
    let session = cluster.connect().await?;
    let row = session
        .query_one("SELECT uuid_v7_floor(clock_timestamp())", &[])
        .await?;
    Ok(row.get(0))
}

/// Does what the seed says, and returns when all of it is over.
async fn break_things(cluster: &Arc<Cluster>, settings: &Settings, seed: u64) -> Vec<Done> {
    let world = World {
        parts: &cluster.ids,
        edges: cluster.proxies.len(),
    };
    let mut random = Random::of(seed, "nemesis");
    let begun = Instant::now();
    let mut acts = JoinSet::new();
    if !settings.kinds.is_empty() {
        for planned in nemesis::schedule(
            &mut random,
            world,
            &settings.kinds,
            settings.faults,
            settings.most_faults,
        ) {
            let cluster = Arc::clone(cluster);
            let seed = random.next();
            acts.spawn(async move {
                tokio::time::sleep(planned.after).await;
                nemesis::act(&cluster, planned.fault, seed).await
            });
        }
    }
    let mut done: Vec<Done> = acts.join_all().await.into_iter().flatten().collect();
    done.sort_by_key(|done| done.from);
    tokio::time::sleep(settings.faults.saturating_sub(begun.elapsed())).await;
    done
}

/// Makes everything whole again.
async fn heal(cluster: &Cluster) -> anyhow::Result<()> {
    for edge in &cluster.proxies {
        edge.proxy.set(Mode::Pass);
    }
    cluster.ready().await.context("the product did not recover")
}

/// Waits until all runs have ended and all clients have seen it: I-25.
async fn settle(
    cluster: &Cluster,
    floor: Uuid,
    clients: &mut JoinSet<()>,
    healed: Instant,
) -> Vec<Violation> {
    const ACTIVE: &str = "SELECT count(*) FROM response WHERE id >= $1 AND status <= 2";
    let mut violations = Vec::new();
    loop {
        while clients.try_join_next().is_some() {}
        let active: Option<i64> = match cluster.connect().await {
            Ok(session) => session
                .query_one(ACTIVE, &[&floor])
                .await
                .ok()
                .map(|row| row.get(0)),
            Err(_) => None,
        };
        if clients.is_empty() && active == Some(0) {
            return violations;
        }
        if healed.elapsed() > SETTLE {
            let what = format!(
                "after {} s {active:?} runs have not ended, and {} clients wait",
                SETTLE.as_secs(),
                clients.len()
            );
            violations.push(Violation::new("I-25", what));
            return violations;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The end of I-25: whatever is asked of any gateway now succeeds at once.
async fn last_operations(cluster: &Cluster, name: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (number, gateway) in cluster.gateways.iter().enumerate() {
        for turn in 0..3 {
            let plan = Plan {
                run: format!("e{name}g{number}t{turn}"),
                steps: Vec::new(),
                tokens: 3,
                pace_ms: 5,
                tool_ms: 0,
            };
            let body = serde_json::json!({ "model": "plain", "input": plan.prompt() });
            let call = cluster
                .http
                .post(format!("{gateway}/v1/responses"))
                .json(&body)
                .timeout(Duration::from_secs(20));
            let answer: anyhow::Result<(u16, Value)> = async {
                let answer = call.send().await?;
                Ok((answer.status().as_u16(), answer.json().await?))
            }
            .await;
            // The model may still have its troubles.
            if !matches!(&answer, Ok((200, body)) if body["status"] == "completed" || body["status"] == "failed")
            {
                let what = format!("when all was well again, gateway {number} answered {answer:?}");
                violations.push(Violation::new("I-25", what));
            }
        }
    }
    violations
}

/// I-29: no process logs what clients, models and tools say. I-30: none panics.
async fn complaints(cluster: &Cluster) -> Vec<Violation> {
    let mut violations = Vec::new();
    for part in &cluster.parts {
        let part = part.lock().await;
        for line in part.lines() {
            if line.contains("panicked at") {
                violations.push(Violation::new("I-30", format!("{}: {line}", part.id)));
            }
            if line.contains(SAID) {
                violations.push(Violation::new("I-29", format!("{}: {line}", part.id)));
            }
        }
    }
    violations
}

/// I-25: a process that is asked to end does.
fn unended(done: &Done) -> Option<Violation> {
    let odd = done.odd.as_deref().filter(|odd| odd.contains(UNENDED))?;
    Some(Violation::new("I-25", odd))
}

/// What faults did to gateways; times are counted from `epoch`.
fn touches(cluster: &Cluster, done: &[Done], epoch: Instant) -> Vec<Touch> {
    let nanoseconds = |at: Instant| {
        let since = at.saturating_duration_since(epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    let mut touches = Vec::new();
    for done in done {
        for id in cluster.all(Kind::Gateway) {
            if touches_gateway(cluster, &done.fault, id) {
                touches.push(Touch {
                    gateway: id.index,
                    from_ns: nanoseconds(done.from),
                    to_ns: nanoseconds(done.to),
                    drains: matches!(done.fault, Fault::Terminate(_) | Fault::Rolling),
                });
            }
        }
    }
    touches
}

/// Whether a fault may break connections of a gateway's clients.
fn touches_gateway(cluster: &Cluster, fault: &Fault, gateway: PartId) -> bool {
    match fault {
        Fault::Kill(id, _)
        | Fault::Freeze(id, _)
        | Fault::Terminate(id)
        | Fault::Partition(id, ..) => *id == gateway,
        Fault::Edge(place, ..) => {
            let edge = cluster.proxies.get(*place);
            edge.is_some_and(|edge| edge.to == Some(gateway))
        }
        Fault::KillAll(kind, _) => *kind == Kind::Gateway,
        Fault::Rolling => true,
        Fault::Postgres(_) | Fault::Terminations(_) | Fault::FreezeBackend(_) => false,
    }
}
