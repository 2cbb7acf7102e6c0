//! The sustainable load: the most runs a second that any number of clients gets, each of which asks again when it was
//! answered.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::offered::{Answered, ask};
use crate::scenarios::count;

const TRIAL: Duration = Duration::from_secs(3);
/// How many clients are tried. More than Talaria takes at a time by default would be refused.
const CLIENTS: [u32; 5] = [8, 16, 32, 64, 128];
/// What a client that was refused waits. Less than it is told to: it stands for others who come meanwhile.
const PAUSE: Duration = Duration::from_millis(10);

/// The rate, and how many clients got it.
pub async fn sustainable(address: SocketAddr, tokens: u32) -> anyhow::Result<(f64, u32)> {
    let mut best = (0.0, 0);
    for clients in CLIENTS {
        // To warm up.
        trial(address, tokens, clients, TRIAL / 6).await?;
        let rate = trial(address, tokens, clients, TRIAL).await?;
        if rate > best.0 {
            best = (rate, clients);
        }
    }
    Ok(best)
}

/// Runs a second that so many clients get.
async fn trial(
    address: SocketAddr,
    tokens: u32,
    clients: u32,
    period: Duration,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..clients {
        workers.spawn(client(address, tokens, start + period));
    }
    let mut completed = 0;
    while let Some(ended) = workers.join_next().await {
        completed += ended
            .context("a client")?
            .with_context(|| format!("{clients} clients"))?;
    }
    Ok(count(completed) / start.elapsed().as_secs_f64())
}

/// How many of its runs were completed.
async fn client(address: SocketAddr, tokens: u32, until: Instant) -> anyhow::Result<usize> {
    let mut completed = 0;
    let mut idle = None;
    while Instant::now() < until {
        let (_, answered) = ask(address, idle.take(), tokens).await;
        let (answered, connection) = answered?;
        idle = Some(connection);
        match answered {
            Answered::Completed => completed += 1,
            Answered::Refused { status: 429, .. } => sleep(PAUSE).await,
            Answered::Refused { status, .. } => bail!("refused with {status}"),
        }
    }
    Ok(completed)
}
