//! Streams at a human pace, of which it is noted when each piece came.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::load::{self, CREATE, Connection, Frames};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;

const STREAMS: u32 = 50;
const TICK: Duration = Duration::from_millis(20);

/// When a token came, and how long after the one before.
pub struct Arrival {
    pub at: Instant,
    pub gap: Duration,
}

/// Holds stored streams for about so long, and checks that each is complete.
pub async fn streams(address: SocketAddr, period: Duration) -> anyhow::Result<Vec<Arrival>> {
    let tokens = u32::try_from(period.as_millis() / TICK.as_millis()).context("too long")?;
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        streams.spawn(async move {
            sleep(TICK * number / 5).await;
            stream(address, tokens).await
        });
    }
    let mut arrivals = Vec::new();
    while let Some(ended) = streams.join_next().await {
        arrivals.extend(ended.context("a stream")??);
    }
    Ok(arrivals)
}

async fn stream(address: SocketAddr, tokens: u32) -> anyhow::Result<Vec<Arrival>> {
    let input = load::input(Text::plain(tokens), Pace::every(TICK));
    let mut connection = Connection::open(address).await?;
    let mut answer = connection
        .send(Method::POST, CREATE, load::body(&input, true, true))
        .await?;
    let mut frames = Frames::default();
    let mut arrivals = Vec::new();
    let mut latest: Option<Instant> = None;
    while let Some(bytes) = answer.next().await? {
        let before = frames.deltas;
        frames.feed(&bytes)?;
        if frames.deltas > before {
            let at = Instant::now();
            if let Some(latest) = latest {
                let gap = at - latest;
                arrivals.push(Arrival { at, gap });
            }
            latest = Some(at);
        }
    }
    frames.finish(tokens)?;
    Ok(arrivals)
}
