//! A client that streams one response after the other, leaves at any time, and comes back to where it was.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use fastrand::Rng;
use http::Method;
use tokio::time::{Instant, sleep, timeout};

use crate::load::{self, CREATE, Connection, Frames};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;

const TICK: Duration = Duration::from_millis(250);
/// From 10 s to 90 s.
const TOKENS: std::ops::Range<u32> = 40..360;
/// All clients have begun after so long.
const BEGIN_WITHIN_MS: u64 = 10_000;
/// For how long a client stays, and for how long it is away.
const STAYS_MS: std::ops::Range<u64> = 500..40_000;
const AWAY_MS: std::ops::Range<u64> = 0..8000;
/// A client that stays to the end waits no longer than this for it.
const PATIENCE: Duration = Duration::from_mins(5);

/// What all clients together came to.
#[derive(Clone, Default)]
pub struct Tally {
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    completed: AtomicU32,
    returns: AtomicU32,
    complaints: Mutex<Vec<String>>,
}

impl Tally {
    /// How many streams were complete.
    pub fn completed(&self) -> f64 {
        self.counts.completed.load(Ordering::Relaxed).into()
    }

    /// How many times a client came back.
    pub fn returns(&self) -> f64 {
        self.counts.returns.load(Ordering::Relaxed).into()
    }

    /// What was wrong with streams.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.counts.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn complain(&self, error: &anyhow::Error) {
        let complaints = self.counts.complaints.lock();
        let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
        complaints.push(format!("{error:#}"));
    }
}

/// One client.
pub struct Client {
    address: SocketAddr,
    random: Rng,
    tally: Tally,
}

impl Client {
    /// What it does is determined by its number, but for the time that things take.
    pub fn new(address: SocketAddr, number: u32, tally: Tally) -> Self {
        Self {
            address,
            random: Rng::with_seed(number.into()),
            tally,
        }
    }

    /// Streams responses until then, and the last one to its end.
    pub async fn run(mut self, until: Instant) {
        sleep(Duration::from_millis(self.random.u64(0..BEGIN_WITHIN_MS))).await;
        while Instant::now() < until {
            match self.stream(until).await {
                Ok(()) => {
                    self.tally.counts.completed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.tally.complain(&error);
                    // Whatever it is, asking again at once would not help it.
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn stream(&mut self, until: Instant) -> anyhow::Result<()> {
        let tokens = self.random.u32(TOKENS);
        let input = load::input(Text::plain(tokens), Pace::every(TICK));
        let mut frames = Frames::default();
        let mut request = Some(load::body(&input, true, true));
        loop {
            let mut stay = Duration::from_millis(self.random.u64(STAYS_MS));
            if Instant::now() >= until {
                stay = PATIENCE;
            }
            let attended = attend(self.address, request.take(), &mut frames);
            match timeout(stay, attended).await {
                Ok(ended) => {
                    ended?;
                    return frames.finish(tokens);
                }
                Err(_) if stay == PATIENCE => anyhow::bail!("a stream does not end"),
                Err(_) => frames.cut(),
            }
            frames.response_id.as_ref().context("no event in time")?;
            sleep(Duration::from_millis(self.random.u64(AWAY_MS))).await;
            self.tally.counts.returns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Follows a stream over a new connection to its end: that of a new response if there is a request for one, else that of
/// the response whose events it has, from the next one on.
async fn attend(
    address: SocketAddr,
    request: Option<Bytes>,
    frames: &mut Frames,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut answer = if let Some(body) = request {
        connection.send(Method::POST, CREATE, body).await?
    } else {
        let id = frames.response_id.as_deref().unwrap_or_default();
        let last = frames.events.saturating_sub(1);
        let path = format!("{CREATE}/{id}?stream=true&starting_after={last}");
        connection.send(Method::GET, &path, Bytes::new()).await?
    };
    while let Some(bytes) = answer.next().await? {
        frames.feed(&bytes)?;
    }
    Ok(())
}
