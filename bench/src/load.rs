//! The load: workers that ask again and again over connections of their own, and check every answer.

mod connection;
mod frames;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use memchr::memmem;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::connection::Connection;

use self::frames::Frames;
use crate::mock::answer;

/// Nothing that is asked for takes longer.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is asked for, by how many, and for how long.
pub struct Plan {
    pub address: SocketAddr,
    pub request: Request,
    pub workers: u32,
    /// From the start of one worker to the start of the next.
    pub stagger: Duration,
    pub until: Until,
}

/// When a worker asks no more.
#[derive(Clone, Copy)]
pub enum Until {
    Asked(u32),
    /// Since the start of the load.
    Elapsed(Duration),
}

/// One kind of request with what its answer must be.
#[derive(Clone)]
pub enum Request {
    /// A run whose events are streamed.
    Stream { tokens: u32, body: Bytes },
    /// A run whose answer is the finished response.
    Run { text: String, body: Bytes },
    /// A stored response: one of these paths after the other, each with this text.
    Get { text: String, paths: Arc<[String]> },
}

/// How long one answer took, since its request was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub first_event: Duration,
    pub first_token: Duration,
    pub whole: Duration,
}

/// What a load came to.
pub struct Outcome {
    pub samples: Vec<Sample>,
    /// From the start to the end of the last answer.
    pub elapsed: Duration,
}

impl Request {
    pub fn stream(tokens: u32, pace: Duration, store: bool) -> Self {
        Self::Stream {
            tokens,
            body: body(tokens, pace, true, store),
        }
    }

    pub fn run(tokens: u32, store: bool) -> Self {
        Self::Run {
            text: answer::text(tokens),
            body: body(tokens, Duration::ZERO, false, store),
        }
    }

    pub fn get(tokens: u32, paths: Vec<String>) -> Self {
        Self::Get {
            text: answer::text(tokens),
            paths: paths.into(),
        }
    }
}

fn body(tokens: u32, pace: Duration, stream: bool, store: bool) -> Bytes {
    let input = format!("tokens={tokens} pace_ms={}", pace.as_millis());
    json!({"model": "bench", "input": input, "stream": stream, "store": store})
        .to_string()
        .into()
}

/// Puts the load on the server and waits for its end. One wrong answer fails it.
pub async fn run(plan: Plan) -> anyhow::Result<Outcome> {
    let mut workers = JoinSet::new();
    let start = Instant::now();
    let plan = Arc::new(plan);
    for number in 0..plan.workers {
        workers.spawn(worker(Arc::clone(&plan), number, start));
    }
    let mut samples = Vec::new();
    while let Some(ended) = workers.join_next().await {
        samples.extend(ended.context("a worker of the load")??);
    }
    Ok(Outcome {
        samples,
        elapsed: start.elapsed(),
    })
}

async fn worker(plan: Arc<Plan>, number: u32, start: Instant) -> anyhow::Result<Vec<Sample>> {
    sleep_until(start + plan.stagger * number).await;
    let mut connection = Connection::open(plan.address).await?;
    let mut samples = Vec::new();
    for turn in 0.. {
        let is_enough = match plan.until {
            Until::Asked(count) => turn == count,
            Until::Elapsed(limit) => start.elapsed() >= limit,
        };
        if is_enough {
            break;
        }
        let asked = ask(&mut connection, &plan.request, turn + number);
        let sample = timeout(PATIENCE, asked)
            .await
            .context("waiting for an answer")??;
        samples.push(sample);
    }
    Ok(samples)
}

async fn ask(connection: &mut Connection, request: &Request, turn: u32) -> anyhow::Result<Sample> {
    match request {
        Request::Stream { tokens, body } => stream(connection, *tokens, body.clone()).await,
        Request::Run { text, body } => {
            let body = body.clone();
            whole(connection, Method::POST, "/v1/responses", body, text).await
        }
        Request::Get { text, paths } => {
            let path = &paths[turn as usize % paths.len()];
            whole(connection, Method::GET, path, Bytes::new(), text).await
        }
    }
}

async fn stream(connection: &mut Connection, tokens: u32, body: Bytes) -> anyhow::Result<Sample> {
    let sent = Instant::now();
    let mut first_event = None;
    let mut first_token = None;
    let mut frames = Frames::default();

    let mut answer = connection.send(Method::POST, "/v1/responses", body).await?;
    while let Some(bytes) = answer.next().await? {
        frames.feed(&bytes)?;
        if first_event.is_none() && frames.events > 0 {
            first_event = Some(sent.elapsed());
        }
        if first_token.is_none() && frames.deltas > 0 {
            first_token = Some(sent.elapsed());
        }
    }
    frames.finish(tokens)?;
    let whole = sent.elapsed();
    Ok(Sample {
        first_event: first_event.unwrap_or(whole),
        first_token: first_token.unwrap_or(whole),
        whole,
    })
}

async fn whole(
    connection: &mut Connection,
    method: Method,
    path: &str,
    body: Bytes,
    text: &str,
) -> anyhow::Result<Sample> {
    let sent = Instant::now();
    let mut answer = connection.send(method, path, body).await?;
    let body = answer.whole().await?;
    let whole = sent.elapsed();
    for needle in [r#""status":"completed""#, text] {
        ensure!(
            memmem::find(&body, needle.as_bytes()).is_some(),
            "the answer has no {needle:?}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    Ok(Sample {
        first_event: whole,
        first_token: whole,
        whole,
    })
}

/// Runs one short stored run and returns the path at which its response can be fetched.
pub async fn stored(connection: &mut Connection, tokens: u32) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Response {
        id: String,
    }
    let body = body(tokens, Duration::ZERO, false, true);
    let mut answer = connection.send(Method::POST, "/v1/responses", body).await?;
    let response: Response =
        serde_json::from_slice(&answer.whole().await?).context("reading the response")?;
    Ok(format!("/v1/responses/{}", response.id))
}
