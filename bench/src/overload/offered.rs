//! An open loop: runs are asked for at a steady rate, whether or not earlier ones were answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::load::{self, COMPLETED, CREATE, Connection};
use crate::mock::answer::Text;
use crate::mock::asked::Pace;

const TICK: Duration = Duration::from_millis(2);
/// No more are under way at a time; what is beyond is not sent.
const MOST_OPEN: usize = 4000;
/// Nothing that is asked for takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What became of everything that was sent. Times are those to the end of the answer.
#[derive(Default)]
pub struct Offered {
    pub completed: Vec<Duration>,
    pub too_many: Vec<Duration>,
    pub unavailable: Vec<Duration>,
    /// Of the refusals.
    pub with_retry_after: usize,
    /// Whatever else happened, and how often.
    pub others: BTreeMap<String, usize>,
}

/// What a request came to.
pub enum Answered {
    Completed,
    Refused { status: u16, retry_after: bool },
}

/// Offers short stored runs at this rate a second.
pub async fn offer(
    address: SocketAddr,
    tokens: u32,
    rate: f64,
    period: Duration,
) -> anyhow::Result<Offered> {
    let mut offered = Offered::default();
    let mut idle: Vec<Connection> = Vec::new();
    let mut open = JoinSet::new();
    let mut due = 0.0;
    let mut ticks = interval(TICK);
    let start = Instant::now();
    let mut looked = start;
    while start.elapsed() < period {
        tokio::select! {
            now = ticks.tick() => {
                due += rate * now.duration_since(looked).as_secs_f64();
                looked = now;
                while due >= 1.0 {
                    due -= 1.0;
                    if open.len() < MOST_OPEN {
                        open.spawn(ask(address, idle.pop(), tokens));
                    }
                }
            }
            Some(ended) = open.join_next() => {
                idle.extend(offered.note(ended.context("asking for a run")?));
            }
        }
    }
    while let Some(ended) = open.join_next().await {
        offered.note(ended.context("asking for a run")?);
    }
    Ok(offered)
}

/// The same: how long it took, and the connection if it can be used again.
pub type Ended = (Duration, anyhow::Result<(Answered, Connection)>);

/// Asks for one run, over this connection or a new one.
pub async fn ask(address: SocketAddr, idle: Option<Connection>, tokens: u32) -> Ended {
    let sent = Instant::now();
    let answered = timeout(PATIENCE, async {
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        let answered = answer(&mut connection, tokens).await?;
        anyhow::Ok((answered, connection))
    });
    let answered = match answered.await {
        Ok(answered) => answered,
        Err(_) => Err(anyhow::anyhow!("no answer for {PATIENCE:?}")),
    };
    (sent.elapsed(), answered)
}

async fn answer(connection: &mut Connection, tokens: u32) -> anyhow::Result<Answered> {
    let text = Text::plain(tokens);
    let body = load::body(&load::input(text, Pace::default()), false, true);
    let mut answer = connection.exchange(Method::POST, CREATE, body).await?;
    let (status, retry_after) = (answer.status.as_u16(), answer.retry_after);
    let body = answer.whole().await?;
    match status {
        200 => {
            let body = String::from_utf8_lossy(&body);
            if !body.contains(COMPLETED) || !body.contains(&text.whole()) {
                bail!("an accepted run did not complete: {body}");
            }
            Ok(Answered::Completed)
        }
        429 | 503 => Ok(Answered::Refused {
            status,
            retry_after,
        }),
        _ => bail!("{status}: {}", String::from_utf8_lossy(&body)),
    }
}

impl Offered {
    /// How many were sent.
    pub fn sent(&self) -> usize {
        let refused = self.too_many.len() + self.unavailable.len();
        self.completed.len() + refused + self.others.values().sum::<usize>()
    }

    fn note(&mut self, (time, answered): Ended) -> Option<Connection> {
        match answered {
            Ok((Answered::Completed, connection)) => {
                self.completed.push(time);
                Some(connection)
            }
            Ok((
                Answered::Refused {
                    status,
                    retry_after,
                },
                connection,
            )) => {
                let refused = match status {
                    429 => &mut self.too_many,
                    _ => &mut self.unavailable,
                };
                refused.push(time);
                self.with_retry_after += usize::from(retry_after);
                Some(connection)
            }
            Err(error) => {
                *self.others.entry(format!("{error:#}")).or_default() += 1;
                None
            }
        }
    }
}
