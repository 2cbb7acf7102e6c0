//! Upstreams that break: what the client saw, what is stored, and how often the upstream was asked.

mod case;
mod fallback;
mod nothing_shown;
mod something_shown;

use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script, response_object};

use case::Case;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

async fn stack(kind: ApiKind, runs: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        runs: runs.to_owned(),
        upstream: "max_retries = 1\nfirst_byte_timeout_seconds = 1\nconnect_timeout_seconds = 1\n\
                   idle_timeout_seconds = 1"
            .to_owned(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// An answer without fault.
fn good(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&["Hel", "lo!"]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&["Hel", "lo!"]).finish("stop"),
    }
}

/// The same as one JSON document.
fn whole(kind: ApiKind) -> Script {
    let body = match kind {
        ApiKind::Responses => {
            let part = json!({"type": "output_text", "text": "Hello!", "annotations": []});
            let message = json!({"type": "message", "id": "msg_up", "role": "assistant", "status": "completed",
                "content": [part]});
            response_object("resp_up", "completed", &[message])
        }
        ApiKind::ChatCompletions => json!({"id": "c", "object": "chat.completion", "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello!"}}]}),
    };
    Script::json(200, &body)
}

/// The script, and then an event longer than any that is taken.
fn too_long(script: Script) -> Script {
    script.raw(format!("data: {}", "x".repeat(17 << 20)))
}

async fn play(stack: &Stack, case: Case) -> anyhow::Result<()> {
    let asked_before = stack.upstream.requests().len();
    for script in case.scripts.into_iter().take(case.requests) {
        stack.upstream.push(script);
    }

    let frames = stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let asked = stack.upstream.requests().len() - asked_before;
    anyhow::ensure!(asked == case.requests, "it was asked {asked} times");
    anyhow::ensure!(seen.status == case.status, "{}", seen.response);
    let messages = messages(&seen.response);
    anyhow::ensure!(messages == case.messages, "{messages:?}");
    let error = seen.response["error"]["message"].as_str();
    anyhow::ensure!(error == case.error, "{error:?}");
    let (status, stored) = stack.get(&seen.response_id).await?;
    anyhow::ensure!(
        status == 200 && stored == seen.response,
        "GET says {stored}"
    );
    Ok(())
}

/// Status and text of each message.
fn messages(response: &Value) -> Vec<(&str, &str)> {
    let items = response["output"].as_array().into_iter().flatten();
    items
        .filter(|item| item["type"] == "message")
        .map(|item| {
            let text = item["content"][0]["text"].as_str().unwrap_or_default();
            (item["status"].as_str().unwrap_or_default(), text)
        })
        .collect()
}

async fn play_all(kind: ApiKind, cases: Vec<Case>) -> anyhow::Result<()> {
    let stack = stack(kind, "").await?;
    let mut broken = Vec::new();
    for case in cases {
        let name = case.name;
        if let Err(error) = play(&stack, case).await {
            broken.push(format!("{name}: {error:#}"));
        }
        // An answer without fault, so that the cases stay apart.
        let rest = Case {
            requests: 1,
            scripts: vec![good(kind)],
            ..case::recovers("rest", Script::sse(), Script::sse())
        };
        play(&stack, rest).await?;
    }
    assert!(broken.is_empty(), "{kind:?}:\n{}", broken.join("\n"));
    Ok(())
}

/// REQ-101, REQ-102
#[tokio::test]
async fn a_responses_upstream_that_breaks_early_is_asked_again_and_nobody_notices()
-> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    play_all(kind, nothing_shown::cases(kind)).await
}

/// REQ-101, REQ-102
#[tokio::test]
async fn a_chat_upstream_that_breaks_early_is_asked_again_and_nobody_notices() -> anyhow::Result<()>
{
    let kind = ApiKind::ChatCompletions;
    play_all(kind, nothing_shown::cases(kind)).await
}

#[tokio::test]
async fn what_a_responses_upstream_said_before_it_broke_is_neither_lost_nor_doubled()
-> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    play_all(kind, something_shown::cases(kind)).await
}

#[tokio::test]
async fn what_a_chat_upstream_said_before_it_broke_is_neither_lost_nor_doubled()
-> anyhow::Result<()> {
    let kind = ApiKind::ChatCompletions;
    play_all(kind, something_shown::cases(kind)).await
}

#[tokio::test]
async fn the_operator_may_have_answers_that_break_off_fail() -> anyhow::Result<()> {
    for kind in [ApiKind::Responses, ApiKind::ChatCompletions] {
        let stack = stack(kind, "on_broken_stream = \"fail\"").await?;
        let error = "The connection to the upstream broke.";
        let case = Case {
            messages: vec![("incomplete", "So far")],
            ..case::fails("cut", something_shown::so_far(kind).cut(), error)
        };
        play(&stack, case).await?;
        let case = case::recovers("hung up", Script::hang_up(), good(kind));
        play(&stack, case).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_to_ask_again_can_be_cancelled() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses, "").await?;
    let slow = Script::error(429, "slow_down", "Slow down.").header("retry-after", "3600");
    stack.upstream.push(slow);
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let mut frames = reader.until_event("response.in_progress").await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    stack.upstream.request(0).await?.closed().await?;

    let url = stack.url(&format!("/v1/responses/{id}/cancel"));
    let cancelled: Value = stack.http.post(url).send().await?.json().await?;

    assert_eq!(cancelled["status"], "cancelled");
    frames.extend(reader.collect().await?);
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.status, "cancelled");
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_to_ask_again_does_not_keep_its_process_from_stopping()
-> anyhow::Result<()> {
    let mut stack = stack(ApiKind::Responses, "").await?;
    let slow = Script::error(429, "slow_down", "Slow down.").header("retry-after", "3600");
    stack.upstream.push(slow);
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let frames = reader.until_event("response.in_progress").await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    stack.upstream.request(0).await?.closed().await?;

    // Its drain is longer than the test waits.
    stack.processes[0].terminate()?;
    stack.processes[0].wait_for_success().await?;

    stack.upstream.push(good(ApiKind::Responses));
    stack.restart_serve().await?;
    let frames = stack.replay(&id, None).await?.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(messages(&seen.response), [("completed", "Hello!")]);
    Ok(())
}
