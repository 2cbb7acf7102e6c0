//! The load: workers that ask again and again over connections of their own, and check every answer.

mod ask;
mod connection;
mod frames;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use memchr::memmem;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::ask::{body, chained_body, context_body, input};
pub use self::connection::{Answer, Connection};
pub use self::frames::Frames;

use crate::mock::answer::Text;
use crate::mock::asked::Pace;

/// Where responses are created; below it they are found.
pub const CREATE: &str = "/v1/responses";
/// What a response object that has ended well says.
pub const COMPLETED: &str = r#""status":"completed""#;
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
    /// The stream of a stored response, from its beginning: one of these paths after the other.
    Replay { tokens: u32, paths: Arc<[String]> },
    /// A stored response: one of these paths after the other, each with this text.
    Get { text: String, paths: Arc<[String]> },
}

/// How long one answer took, since its request was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub sent: Instant,
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
    /// A stream with one token a tick; zero is as fast as they are taken.
    pub fn stream(tokens: u32, tick: Duration, store: bool) -> Self {
        Self::Stream {
            tokens,
            body: body(&input(Text::plain(tokens), Pace::every(tick)), true, store),
        }
    }

    pub fn run(tokens: u32, store: bool) -> Self {
        let text = Text::plain(tokens);
        Self::Run {
            text: text.whole(),
            body: body(&input(text, Pace::default()), false, store),
        }
    }

    pub fn get(tokens: u32, paths: Vec<String>) -> Self {
        Self::Get {
            text: Text::plain(tokens).whole(),
            paths: paths.into(),
        }
    }

    /// Replays of stored responses of so many tokens. The paths are those of GETs.
    pub fn replay(tokens: u32, paths: Vec<String>) -> Self {
        // What Talaria does not know, the mock needs.
        let streamed = |path: String| format!("{path}?stream=true&tokens={tokens}");
        Self::Replay {
            tokens,
            paths: paths.into_iter().map(streamed).collect(),
        }
    }
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
    let chosen = |paths: &Arc<[String]>| paths[turn as usize % paths.len()].clone();
    match request {
        Request::Stream { tokens, body } => {
            let answer = connection.send(Method::POST, CREATE, body.clone());
            Ok(stream(answer, *tokens).await?.0)
        }
        Request::Replay { tokens, paths } => {
            let path = chosen(paths);
            let answer = connection.send(Method::GET, &path, Bytes::new());
            Ok(stream(answer, *tokens).await?.0)
        }
        Request::Run { text, body } => {
            let answer = connection.send(Method::POST, CREATE, body.clone());
            Ok(whole(answer, &[COMPLETED, text]).await?.0)
        }
        Request::Get { text, paths } => {
            let path = chosen(paths);
            let answer = connection.send(Method::GET, &path, Bytes::new());
            Ok(whole(answer, &[COMPLETED, text]).await?.0)
        }
    }
}

/// Reads a stream with so many deltas to its end.
pub async fn stream(
    answer: impl Future<Output = anyhow::Result<Answer<'_>>>,
    tokens: u32,
) -> anyhow::Result<(Sample, Frames)> {
    let sent = Instant::now();
    let mut first_event = None;
    let mut first_token = None;
    let mut frames = Frames::default();

    let mut answer = answer.await?;
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
    let sample = Sample {
        sent,
        first_event: first_event.unwrap_or(whole),
        first_token: first_token.unwrap_or(whole),
        whole,
    };
    Ok((sample, frames))
}

/// Reads an answer that must hold all of `needles`.
pub async fn whole(
    answer: impl Future<Output = anyhow::Result<Answer<'_>>>,
    needles: &[&str],
) -> anyhow::Result<(Sample, Bytes)> {
    let sent = Instant::now();
    let body = answer.await?.whole().await?;
    let whole = sent.elapsed();
    for needle in needles {
        ensure!(
            memmem::find(&body, needle.as_bytes()).is_some(),
            "the answer has no {needle:?}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    let sample = Sample {
        sent,
        first_event: whole,
        first_token: whole,
        whole,
    };
    Ok((sample, body))
}

/// Runs one short stored run and returns the path at which its response can be fetched.
pub async fn stored(connection: &mut Connection, tokens: u32) -> anyhow::Result<String> {
    let text = Text::plain(tokens);
    let body = body(&input(text, Pace::default()), false, true);
    let answer = connection.send(Method::POST, CREATE, body);
    let (_, body) = whole(answer, &[COMPLETED]).await?;
    Ok(format!("{CREATE}/{}", id(&body)?))
}

/// Runs one streamed stored run and returns the path at which its response can be fetched.
pub async fn stored_stream(connection: &mut Connection, tokens: u32) -> anyhow::Result<String> {
    let text = Text::plain(tokens);
    let body = body(&input(text, Pace::default()), true, true);
    let answer = connection.send(Method::POST, CREATE, body);
    let (_, frames) = stream(answer, tokens).await?;
    let id = frames.response_id.context("the stream names no response")?;
    Ok(format!("{CREATE}/{id}"))
}

/// The id of a response object.
pub fn id(response: &[u8]) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Response {
        id: String,
    }
    let response: Response = serde_json::from_slice(response).context("reading the response")?;
    Ok(response.id)
}
