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
const STREAMS: usize = 20;
/// Runs that are asked for at once: more than may begin.
const BURST: usize = 8;
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
        runs: "max_starting = 2\nlease_seconds = 60".into(),
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

/// Asks for runs at once, whose answers come when they are admitted, or refused.
async fn burst(stack: &Stack) -> anyhow::Result<Vec<Response>> {
    let body = json!({"input": "x", "background": true});
    let answers = try_join_all((0..BURST).map(|_| stack.create(&body))).await?;
    for answer in &answers {
        ensure!([200, 429].contains(&answer.status().as_u16()), "{answer:?}");
    }
    Ok(answers)
}

/// The first refusal.
async fn refusal(stack: &Stack) -> anyhow::Result<Response> {
    let asking = async {
        loop {
            let mut answers = burst(stack).await?.into_iter();
            if let Some(refused) = answers.find(|answer| answer.status() == 429) {
                return Ok(refused);
            }
        }
    };
    within_duration("a refusal", PATIENCE, asking).await?
}

/// Returns when as many as came at once before are all admitted.
async fn recovery(stack: &Stack) -> anyhow::Result<()> {
    let asking = async {
        while burst(stack).await?.iter().any(|it| it.status() != 200) {}
        Ok(())
    };
    within_duration("the recovery", PATIENCE, asking).await?
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
async fn runs_beyond_those_that_may_begin_are_refused_and_what_runs_goes_on() -> anyhow::Result<()>
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
    let refused = refusal(&stack).await?;

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
    recovery(&stack).await?;
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
