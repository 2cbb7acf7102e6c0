//! Doing one fault, and undoing it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;

use super::{Fault, PostgresFault};
use crate::cluster::{Cluster, Edge, Kind, Part, PartId};
use crate::proxy::{Mode, Proxy};
use crate::random::Random;

/// Ends some of the product's connections.
const TERMINATE: &str = "
    SELECT pg_terminate_backend(pid)
    FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'talaria' ORDER BY random() LIMIT $1) victim";

/// What was done.
#[derive(Clone, Debug)]
pub struct Done {
    pub fault: Fault,
    /// When it hit, and when it was over.
    pub from: Instant,
    pub to: Instant,
    /// What did not go as it should, from the nemesis' point of view.
    pub odd: Option<String>,
}

/// Does a fault and undoes it; nothing if what it is about is busy with another.
pub async fn act(cluster: &Arc<Cluster>, fault: Fault, seed: u64) -> Option<Done> {
    let from = Instant::now();
    let mut odd = None;
    match &fault {
        Fault::Kill(id, down) => {
            let part = cluster.part(*id);
            let mut part = part.try_lock().ok()?;
            part.kill().await;
            tokio::time::sleep(*down).await;
            odd = error_of(part.start(&cluster.options));
        }
        Fault::Freeze(id, length) => {
            let part = cluster.part(*id);
            let mut part = part.try_lock().ok()?;
            part.freeze();
            tokio::time::sleep(*length).await;
            part.thaw();
        }
        Fault::Terminate(id) => {
            let part = cluster.part(*id);
            let mut part = part.try_lock().ok()?;
            odd = restart(cluster, &mut part).await;
        }
        Fault::Partition(id, mode, length) => {
            let edges = cluster.proxies.iter().filter(|edge| touches(edge, *id));
            with_mode(edges.map(|edge| &edge.proxy), *mode, *length).await;
        }
        Fault::Edge(place, mode, length) => {
            let edge = cluster.proxies.get(*place)?;
            with_mode(std::iter::once(&edge.proxy), *mode, *length).await;
        }
        Fault::Postgres(how) => {
            let mut postgres = cluster.postgres.try_lock().ok()?;
            let stopped = match how {
                PostgresFault::Fast => postgres.stop().await,
                PostgresFault::Immediate => postgres.stop_at_once().await,
                PostgresFault::Kill9(down) => {
                    let killed = postgres.kill9().await;
                    tokio::time::sleep(*down).await;
                    killed
                }
            };
            let started = postgres.restart().await;
            odd = error_of(stopped).or(error_of(started));
        }
        Fault::Terminations(count) => {
            let count = i64::try_from(*count).unwrap_or_default();
            let session = cluster.connect().await.ok()?;
            session.query(TERMINATE, &[&count]).await.ok()?;
        }
        Fault::FreezeBackend(length) => {
            let pid = backend(cluster, seed).await?;
            kill_process(pid, Signal::STOP).ok()?;
            tokio::time::sleep(*length).await;
            // Postgres may have been restarted meanwhile.
            let _ = kill_process(pid, Signal::CONT);
        }
        Fault::KillAll(kind, down) => {
            let parts: Vec<Arc<Mutex<Part>>> = cluster
                .all(*kind)
                .into_iter()
                .map(|id| cluster.part(id))
                .collect();
            let mut held = Vec::new();
            for part in &parts {
                held.extend(part.try_lock().ok());
            }
            futures::future::join_all(held.iter_mut().map(|part| part.kill())).await;
            tokio::time::sleep(*down).await;
            for part in &mut held {
                odd = error_of(part.start(&cluster.options)).or(odd);
            }
        }
        Fault::Rolling => {
            for kind in [Kind::Gateway, Kind::Orchestrator, Kind::Store] {
                for id in cluster.all(kind) {
                    let part = cluster.part(id);
                    let Ok(mut part) = part.try_lock() else {
                        continue;
                    };
                    odd = restart(cluster, &mut part).await.or(odd);
                }
            }
        }
    }
    let to = Instant::now();
    Some(Done {
        fault,
        from,
        to,
        odd,
    })
}

async fn restart(cluster: &Cluster, part: &mut Part) -> Option<String> {
    let ended = part.terminate().await;
    let started = part.start(&cluster.options);
    error_of(ended).or(error_of(started))
}

fn error_of(result: anyhow::Result<()>) -> Option<String> {
    result.err().map(|error| format!("{error:#}"))
}

/// Whether the process speaks through this proxy. The nemesis does not stand between clients and a gateway here.
fn touches(edge: &Edge, id: PartId) -> bool {
    edge.from == Some(id) || edge.to == Some(id)
}

async fn with_mode<'a>(
    proxies: impl Iterator<Item = &'a Arc<Proxy>>,
    mode: Mode,
    length: Duration,
) {
    let proxies: Vec<_> = proxies.collect();
    for proxy in &proxies {
        proxy.set(mode);
    }
    tokio::time::sleep(length).await;
    for proxy in proxies {
        proxy.set(Mode::Pass);
    }
}

/// One of the processes that serve the product's connections.
async fn backend(cluster: &Cluster, seed: u64) -> Option<Pid> {
    let session = cluster.connect().await.ok()?;
    let rows = session
        .query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'talaria'",
            &[],
        )
        .await
        .ok()?;
    if rows.is_empty() {
        return None;
    }
    Pid::from_raw(rows[Random::new(seed).index(rows.len())].get(0))
}
