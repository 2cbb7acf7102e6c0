//! Upstreams that break: what the client saw, what is stored, and how often the upstream was asked.

mod case;
mod fallback;
mod nothing_shown;
mod raw;
mod something_shown;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{
    ChatStream, Request, ResponsesStream, Script, Upstream, response_object,
};

use case::Case;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];
const PATIENCE: &str = "max_retries = 1\nfirst_byte_timeout_seconds = 1\nconnect_timeout_seconds = 1\n\
                        idle_timeout_seconds = 1";

async fn stack(kind: ApiKind, runs: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        runs: runs.to_owned(),
        upstream: PATIENCE.to_owned(),
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
    let before = stack.upstream.requests().len();
    for script in case.scripts.iter().take(case.requests) {
        stack.upstream.push(script.clone());
    }
    let case = Case {
        requests: before + case.requests,
        ..case
    };
    judge(stack, &stack.upstream, "scripted", &case).await
}

/// Has `agent` asked, whose model is of the same name, and looks at what came of it.
async fn judge(stack: &Stack, upstream: &Upstream, agent: &str, case: &Case) -> anyhow::Result<()> {
    let body = json!({"input": "hi", "model": agent});
    let frames = stack.stream(&body).await?.collect().await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let requests = upstream.requests();
    let of_agent = |request: &&Request| request.body["model"] == agent;
    let asked = requests.iter().filter(of_agent).count();
    anyhow::ensure!(asked == case.requests, "it was asked {asked} times");
    what_came(stack, case, &seen.response_id, &seen.response).await
}

/// Looks at what the client saw, and at what is stored.
async fn what_came(stack: &Stack, case: &Case, id: &str, response: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(response["status"] == case.status, "{response}");
    let messages = messages(response);
    anyhow::ensure!(messages == case.messages, "{messages:?}");
    let error = response["error"]["message"].as_str();
    anyhow::ensure!(error == case.error, "{error:?}");
    let (status, stored) = stack.get(id).await?;
    anyhow::ensure!(status == 200 && stored == *response, "GET says {stored}");
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

/// Plays every case, many at a time: each has an agent and an upstream of its own, so that none stands in another's way.
async fn play_all(kind: ApiKind, cases: Vec<Case>) -> anyhow::Result<()> {
    let api = match kind {
        ApiKind::Responses => "responses",
        ApiKind::ChatCompletions => "chat_completions",
    };
    let address = Upstream::start().await?;
    let cases: Vec<(String, Case)> = (0..)
        .map(|number| format!("case{number}"))
        .zip(cases)
        .collect();
    let tables = cases.iter().map(|(agent, _)| {
        format!(
            "[[agents]]\nname = \"{agent}\"\nupstream = \"{agent}\"\nmodel = \"{agent}\"\n\
             [upstreams.{agent}]\nkind = \"{api}\"\nbase_url = \"{}\"\n{PATIENCE}\n",
            address.base_url()
        )
    });
    let options = Options {
        kind,
        upstream: tables.collect(),
        ..Options::default()
    };
    let scripts = cases.iter().map(|(agent, case)| {
        let scripts = case.scripts.iter().take(case.requests).cloned();
        (agent.clone(), scripts.collect::<VecDeque<_>>())
    });
    let scripts = Mutex::new(scripts.collect::<HashMap<_, _>>());
    address.choose(move |request| {
        let mut scripts = scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = request.body["model"].as_str()?;
        scripts.get_mut(agent)?.pop_front()
    });
    let stack = Stack::serve_with(TALARIA, options).await?;
    let count = cases.len();
    let broken: Vec<String> = stream::iter(cases)
        .map(|(agent, case)| {
            let (stack, address) = (&stack, &address);
            async move {
                let judged = judge(stack, address, &agent, &case).await;
                judged
                    .err()
                    .map(|error| format!("{}: {error:#}", case.name))
            }
        })
        .buffer_unordered(16)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(
        broken.is_empty(),
        "{kind:?}, {} of {count}:\n{}",
        broken.len(),
        broken.join("\n")
    );
    Ok(())
}

/// REQ-101, REQ-102
#[tokio::test]
async fn an_upstream_that_breaks_early_is_asked_again_and_nobody_notices() -> anyhow::Result<()> {
    for kind in KINDS {
        play_all(kind, nothing_shown::cases(kind)).await?;
    }
    Ok(())
}

/// The same, when an answer broke off before: it is neither lost nor doubled.
#[tokio::test]
async fn an_upstream_that_breaks_again_when_it_is_to_go_on_is_asked_again() -> anyhow::Result<()> {
    for kind in KINDS {
        let cases = nothing_shown::cases(kind).into_iter();
        play_all(kind, cases.map(|case| case.after_so_far(kind)).collect()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_an_upstream_said_before_it_broke_is_neither_lost_nor_doubled() -> anyhow::Result<()> {
    for kind in KINDS {
        play_all(kind, something_shown::cases(kind)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn connections_that_end_or_speak_oddly_are_understood() -> anyhow::Result<()> {
    for kind in KINDS {
        raw::play_all(kind).await?;
    }
    Ok(())
}

/// What failed attempts used counts too.
#[tokio::test]
async fn usage_is_the_sum_over_all_attempts() -> anyhow::Result<()> {
    let told = json!({"prompt_tokens": 2, "input_tokens": 2, "completion_tokens": 1, "output_tokens": 1,
        "completion_tokens_details": {"reasoning_tokens": 1}, "output_tokens_details": {"reasoning_tokens": 1}});
    for kind in KINDS {
        let stack = stack(kind, "").await?;
        stack.upstream.push(match kind {
            ApiKind::Responses => {
                let mut failed = response_object("resp_up", "failed", &[]);
                failed["usage"] = told.clone();
                failed["error"] = json!({"code": "server_error", "message": "It broke."});
                let fields = json!({"response": failed});
                ResponsesStream::new()
                    .event("response.failed", fields)
                    .stop()
            }
            // It tells its usage as it goes, and breaks.
            ApiKind::ChatCompletions => something_shown::so_far(kind)
                .data(&json!({"choices": [], "usage": told}))
                .cut(),
        });
        stack.upstream.push(good(kind));

        let response = stack.create_json(&json!({"input": "hi"})).await?;

        let usage = &response["usage"];
        let counts = ["input_tokens", "output_tokens", "total_tokens"].map(|name| &usage[name]);
        assert_eq!(counts, [10, 4, 14], "{kind:?}");
        assert_eq!(
            usage["output_tokens_details"]["reasoning_tokens"], 1,
            "{kind:?}"
        );
    }
    Ok(())
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
