//! More runs than may begin at a time: others are told to come back, and all else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const STREAMS: usize = 5;
const WORDS: usize = 200;
/// Clients that ask for a run as soon as they were answered.
const CLIENTS: usize = 16;
/// How often what is never refused is asked for meanwhile.
const TIMES: usize = 5;
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

/// A stack where one run begins at a time; it has streams for whoever asks for one, and answers to what has a key.
async fn stack() -> anyhow::Result<Stack> {
    let options = Options {
        runs: "max_starting = 1\nmax_concurrent = 10_000".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(|request| {
        let body = request.body.to_string();
        Some(if body.contains("a stream") {
            stream()
        } else if body.contains("keyed") {
            ResponsesStream::new().text(&["done"]).completed()
        } else {
            ResponsesStream::held("after")
        })
    });
    Ok(stack)
}

/// Starts a stream and reads to where it is held.
async fn held_stream(stack: &Stack, body: &Value) -> anyhow::Result<(Vec<Frame>, Reader)> {
    let mut reader = stack.stream(body).await?;
    let is_first = |frame: &Frame| frame.json()["delta"] == "before ";
    Ok((reader.until(is_first).await?, reader))
}

/// Asks for runs, one after the other, until told to stop; how many were refused, each as it should be.
async fn client(stack: &Stack, stop: &AtomicBool) -> anyhow::Result<usize> {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = stack
            .create(&json!({"input": "x", "background": true}))
            .await?;
        if answer.status() == StatusCode::OK {
            continue;
        }
        ensure!(
            answer.status() == StatusCode::TOO_MANY_REQUESTS,
            "{answer:?}"
        );
        assert_eq!(answer.headers()["retry-after"], "1");
        let expected = json!({"error": {
            "message": "The server is overloaded, try again in a moment.",
            "type": "rate_limit_error",
            "param": null,
            "code": "rate_limit_exceeded",
        }});
        assert_eq!(answer.json::<Value>().await?, expected);
        refused += 1;
    }
    Ok(refused)
}

async fn keyed(stack: &Stack) -> anyhow::Result<(bool, Value)> {
    let request = stack.http.post(stack.url("/v1/responses"));
    let request = request.header("idempotency-key", "k");
    let answer = request.json(&json!({"input": "keyed"})).send().await?;
    let replayed = answer.headers().contains_key("idempotency-replayed");
    Ok((replayed, answer.error_for_status()?.json().await?))
}

/// Something said in a conversation that is busy.
async fn in_line(stack: &Stack) -> anyhow::Result<Value> {
    let body =
        json!({"input": "x", "conversation": "c", "on_active": "enqueue", "background": true});
    stack.create_json(&body).await
}

async fn refused_runs(stack: &Stack) -> anyhow::Result<u64> {
    let health = stack.http.get(stack.url("/health/detailed")).send().await?;
    let health: Value = health.json().await?;
    let queues = &health["readiness"]["checks"]["background_queues"];
    queues["refused_runs"].as_u64().context("no counter")
}

#[tokio::test]
async fn runs_beyond_those_that_may_begin_are_refused_and_all_else_goes_on() -> anyhow::Result<()> {
    let stack = stack().await?;
    let (replayed, first) = keyed(&stack).await?;
    assert!(!replayed);
    assert_eq!(in_line(&stack).await?["status"], "queued");
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(held_stream(&stack, &json!({"input": "a stream"})).await?);
    }
    assert_eq!(refused_runs(&stack).await?, 0);

    stack.upstream.open("during");
    let stop = Arc::new(AtomicBool::new(false));
    let clients = try_join_all((0..CLIENTS).map(|_| client(&stack, &stop)));
    let meanwhile = async {
        while refused_runs(&stack).await? == 0 {}
        for _ in 0..TIMES {
            assert_eq!(keyed(&stack).await?, (true, first.clone()));
            assert_eq!(in_line(&stack).await?["status"], "queued");
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let both = async { tokio::try_join!(clients, meanwhile) };
    let (refused, ()) = within_duration("refusals", PATIENCE, both).await??;

    let refused = refused.into_iter().sum::<usize>() as u64;
    assert!(refused > 0);
    assert_eq!(refused_runs(&stack).await?, refused);
    // With nobody before it, a run begins.
    stack
        .create_json(&json!({"input": "x", "background": true}))
        .await?;
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

#[tokio::test]
async fn a_run_that_has_begun_keeps_nobody_from_beginning() -> anyhow::Result<()> {
    let stack = stack().await?;
    let mut held = Vec::new();
    for store in [true, false] {
        let body = json!({"input": "a stream", "store": store});
        held.push(held_stream(&stack, &body).await?);
    }
    let background = json!({"input": "a stream", "background": true});
    let background = stack.create_json(&background).await?;
    assert_eq!(keyed(&stack).await?.1["status"], "completed");
    let id = background["id"].as_str().context("no id")?;
    assert_eq!(stack.get(id).await?.1["status"], "in_progress");
    assert_eq!(refused_runs(&stack).await?, 0);
    Ok(())
}
