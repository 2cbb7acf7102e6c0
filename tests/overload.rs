//! More than can be done at the pace that running streams need: new runs are told to come back, and all else goes on.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use reqwest::Response;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::postgres::{Proxy, TestDatabase};
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
/// More than may always begin.
const STREAMS: usize = 20;
const WORDS: usize = 500;
/// How long a change may take to be noticed on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Says a word every ten milliseconds once `during` is opened, and ends when `after` is.
fn stream() -> Script {
    ResponsesStream::new()
        .open_text()
        .deltas(&["before "])
        .gate("during")
        .pace(Duration::from_millis(10))
        .deltas(&["word "; WORDS])
        .gate("after")
        .close()
        .completed()
}

/// A stack on a database that can be made slow, with streams for whoever asks for one.
async fn stack() -> anyhow::Result<(Stack, Proxy, TestDatabase)> {
    let database = TestDatabase::empty().await?;
    let proxy = Proxy::start(&database.url).await?;
    let options = Options {
        database_url: Some(proxy.url()),
        runs: "overload_delay_ms = 20\nlease_seconds = 60".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(|request| {
        Some(if request.body.to_string().contains("a stream") {
            stream()
        } else {
            ResponsesStream::new().text(&["done"]).completed()
        })
    });
    Ok((stack, proxy, database))
}

/// Asks for runs, one after the other, until one is answered so.
async fn ask_until(stack: &Stack, status: u16) -> anyhow::Result<Response> {
    let body = json!({"input": "x", "background": true});
    let asking = async {
        loop {
            let answer = stack.create(&body).await?;
            if answer.status() == status {
                return Ok(answer);
            }
            ensure!([200, 429].contains(&answer.status().as_u16()), "{answer:?}");
        }
    };
    within_duration(&format!("an answer {status}"), PATIENCE, asking).await?
}

async fn keyed(stack: &Stack) -> anyhow::Result<(bool, Value)> {
    let request = stack.http.post(stack.url("/v1/responses"));
    let request = request.header("idempotency-key", "k");
    let answer = request.json(&json!({"input": "keyed"})).send().await?;
    let replayed = answer.headers().contains_key("idempotency-replayed");
    Ok((replayed, answer.error_for_status()?.json().await?))
}

async fn refused_runs(stack: &Stack) -> anyhow::Result<u64> {
    let health = stack.http.get(stack.url("/health/detailed")).send().await?;
    let health: Value = health.json().await?;
    let queues = &health["readiness"]["checks"]["background_queues"];
    queues["refused_runs"].as_u64().context("no counter")
}

#[tokio::test]
async fn new_runs_are_refused_while_the_store_is_slow_and_what_runs_goes_on() -> anyhow::Result<()>
{
    let (stack, proxy, _database) = stack().await?;
    let (replayed, first) = keyed(&stack).await?;
    assert!(!replayed);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut reader = stack.stream(&json!({"input": "a stream"})).await?;
        let is_first = |frame: &Frame| frame.json()["delta"] == "before ";
        streams.push((reader.until(is_first).await?, reader));
    }
    assert_eq!(refused_runs(&stack).await?, 0);

    proxy.delay(Duration::from_millis(200));
    stack.upstream.open("during");
    let refused = ask_until(&stack, 429).await?;

    assert_eq!(refused.headers()["retry-after"], "1");
    let body: Value = refused.json().await?;
    let expected = json!({"error": {
        "message": "The server is overloaded, try again in a moment.",
        "type": "rate_limit_error",
        "param": null,
        "code": "rate_limit_exceeded",
    }});
    assert_eq!(body, expected);
    assert!(refused_runs(&stack).await? > 0);
    assert_eq!(keyed(&stack).await?, (true, first));

    proxy.delay(Duration::ZERO);
    ask_until(&stack, 200).await?;
    stack.upstream.open("after");
    let whole = streams.into_iter().map(|(mut frames, reader)| async move {
        frames.extend(reader.collect().await?);
        check::stream(&frames).map_err(anyhow::Error::msg)
    });
    for seen in try_join_all(whole).await? {
        assert_eq!((seen.status.as_str(), seen.attempts), ("completed", 1));
        assert_eq!(seen.text, format!("before {}", "word ".repeat(WORDS)));
    }
    Ok(())
}
