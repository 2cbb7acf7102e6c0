//! What these tests have in common: a stack, a stream that is held up in its middle, and what must be true after it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// A stack on this database whose runs stay its own, however long the database is in trouble.
pub async fn stack_on(url: String) -> anyhow::Result<Stack> {
    let options = Options {
        database_url: Some(url),
        runs: "lease_seconds = 60".into(),
        upstream: "max_retries = 0".into(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// A response that has ended, and its stream.
pub async fn ended(stack: &Stack) -> anyhow::Result<(Value, Vec<Frame>)> {
    let script = ResponsesStream::new().text(&["over ", "and done"]);
    stack.upstream.push(script.completed());
    let frames = stack.stream(&json!({"input": "hi"})).await?.collect();
    let frames = frames.await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    Ok((seen.response, frames))
}

/// Checks that a response is shown as it was: fetched, and replayed.
pub async fn expect_shown(stack: &Stack, response: &Value, frames: &[Frame]) -> anyhow::Result<()> {
    let id = response["id"].as_str().context("no id")?;
    assert_eq!(stack.get(id).await?, (200, response.clone()));
    assert_eq!(stack.replay(id, None).await?.collect().await?, frames);
    Ok(())
}

/// Waits until a response can be read again, for at most `longest`: a write that hung may come through before the
/// store has found out that new connections do.
pub async fn expect_reads(
    stack: &Stack,
    response: &Value,
    longest: Duration,
) -> anyhow::Result<()> {
    let id = response["id"].as_str().context("no id")?;
    let began = Instant::now();
    while stack.get(id).await?.0 != 200 {
        ensure!(began.elapsed() < longest, "cannot be read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A stream that stops in its middle.
pub struct Held {
    reader: Reader,
    frames: Vec<Frame>,
}

impl Held {
    /// Begins one, and reads what comes before the middle. It says `during` when the gate `during` is opened, and the
    /// rest when `after` is.
    pub async fn begin(stack: &Stack, during: &[&str]) -> anyhow::Result<Self> {
        let script = ResponsesStream::new()
            .open_text()
            .deltas(&["before, "])
            .gate("during")
            .deltas(during)
            .gate("after")
            .deltas(&["after"])
            .close()
            .completed();
        stack.upstream.push(script);
        let mut reader = stack.stream(&json!({"input": "hi"})).await?;
        let frames = reader
            .until(|frame| frame.json()["delta"] == "before, ")
            .await?;
        Ok(Self { reader, frames })
    }

    /// Fails if anything is shown within half a second: what is not durable must not be seen.
    pub async fn expect_silence(&mut self) -> anyhow::Result<()> {
        let half_a_second = Duration::from_millis(500);
        let seen = tokio::time::timeout(half_a_second, self.reader.next()).await;
        ensure!(seen.is_err(), "seen while nothing is durable: {seen:?}");
        Ok(())
    }

    /// Reads up to this delta.
    pub async fn until(&mut self, delta: &str) -> anyhow::Result<()> {
        let is_last = |frame: &Frame| frame.json()["delta"] == delta;
        self.frames.extend(self.reader.until(is_last).await?);
        Ok(())
    }

    /// Reads the rest, and checks that it is whole, was made once, and is what is stored.
    pub async fn expect_whole(mut self, stack: &Stack, during: &[&str]) -> anyhow::Result<()> {
        stack.upstream.open("after");
        self.frames.extend(self.reader.collect().await?);
        let seen = check::stream(&self.frames).map_err(anyhow::Error::msg)?;
        let text = format!("before, {}after", during.concat());
        assert_eq!(
            (seen.status.as_str(), seen.text, seen.attempts),
            ("completed", text, 1)
        );
        expect_shown(stack, &seen.response, &self.frames).await
    }
}

/// Checks that a request is told to come back.
pub async fn expect_unavailable(request: reqwest::RequestBuilder) -> anyhow::Result<()> {
    let answer = request.send().await?;
    let url = answer.url().clone();
    ensure!(answer.status() == 503, "{} {url}", answer.status());
    assert_eq!(answer.headers()["retry-after"], "1", "{url}");
    let body: Value = answer.json().await?;
    assert_eq!(body["error"]["code"], "store_unavailable", "{url}");
    Ok(())
}

/// `POST /v1/responses`.
pub fn post(stack: &Stack, body: &Value) -> reqwest::RequestBuilder {
    stack.http.post(stack.url("/v1/responses")).json(body)
}

/// Letters that cannot be compressed much.
pub fn noise(count: usize) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                [(state >> 58) as usize],
        )
    };
    (0..count).map(|_| letter()).collect()
}
