//! Upstreams that keep what they make: whatever breaks in between, clients see a pause, and each text once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, Request, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

async fn stack(upstream: &str) -> anyhow::Result<Stack> {
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        upstream: format!("resumable = true\nfirst_byte_timeout_seconds = 2\n{upstream}"),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// Reasoning, text and a call, under one id.
fn talk() -> Script {
    ResponsesStream::new()
        .reasoning_summary(&["Let me ", "think."])
        .text(&["I will ", "look ", "it ", "up 🌍."])
        .function_call("call_1", "look", &["{\"q\":", "1}"])
        .completed()
}

/// The events of `script` after number `after`, `count` of them at most; then `rest`.
fn events(script: &Script, after: Option<u64>, count: usize, rest: fn(Script) -> Script) -> Script {
    let from = after.map_or(0, |after| usize::try_from(after + 1).unwrap_or(usize::MAX));
    let mut part = script.clone();
    part.steps = script.steps.iter().skip(from).cloned().collect();
    if part.steps.len() > count {
        part.steps.truncate(count);
        part = rest(part);
    }
    part
}

/// The number after which a request wants a stream to go on.
fn starting_after(request: &Request) -> Option<u64> {
    let (_, after) = request.path.split_once("?stream=true&starting_after=")?;
    after.parse().ok()
}

fn is_post(request: &Request) -> bool {
    request.method == "POST" && request.path == "/v1/responses"
}

fn says(frame: &Frame, text: &str) -> bool {
    frame.data.as_ref().is_some_and(|data| data.contains(text))
}

/// What clients are told, but for ids and numbers.
fn told(frames: &[Frame], but: &str) -> anyhow::Result<Vec<Value>> {
    let mut told = Vec::new();
    for frame in frames
        .iter()
        .filter(|frame| frame.data.as_deref() != Some("[DONE]"))
    {
        let mut event = frame.json();
        event["sequence_number"].take();
        if event["type"] == but {
            continue;
        }
        event["response"]["created_at"].take();
        event["response"]["completed_at"].take();
        let digits = frames[0].json()["response"]["id"]
            .as_str()
            .context("a response has an id")?
            .trim_start_matches("resp_")
            .to_owned();
        told.push(serde_json::from_str(
            &event.to_string().replace(&digits, "_"),
        )?);
    }
    Ok(told)
}

#[tokio::test]
async fn a_stream_that_is_cut_again_and_again_tells_what_one_tells_that_is_not()
-> anyhow::Result<()> {
    let stack = stack("max_retries = 1").await?;
    let script = talk();
    let whole = script.clone();
    stack.upstream.choose(move |_| Some(whole.clone()));
    let body =
        json!({"input": "hi", "tools": [{"type": "function", "name": "look", "parameters": {}}]});
    let uncut = stack.stream(&body).await?.collect().await?;
    // One event, then three at a time: the first attempt says only that the response is made.
    let count = script.steps.len();
    stack.upstream.choose(move |request| {
        let count = if is_post(request) { 1 } else { 3 };
        Some(events(&script, starting_after(request), count, Script::cut))
    });

    let cut = stack.stream(&body).await?.collect().await?;

    check::stream(&cut).map_err(anyhow::Error::msg)?;
    assert_eq!(told(&cut, "")?, told(&uncut, "")?);
    let requests = stack.upstream.requests();
    assert_eq!(requests[1].body["background"], true);
    assert_eq!(requests[1].body["store"], true);
    assert_eq!(requests.len(), 1 + 1 + (count - 1).div_ceil(3));
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_tells_everything_again_is_listened_to_from_where_it_broke()
-> anyhow::Result<()> {
    let stack = stack("").await?;
    let script = talk();
    stack.upstream.choose(move |request| {
        let count = if is_post(request) { 8 } else { usize::MAX };
        Some(events(&script, None, count, Script::cut))
    });

    let response = stack.create_json(&json!({"input": "hi"})).await?;

    assert_eq!(
        response["output"][1]["content"][0]["text"],
        "I will look it up 🌍."
    );
    assert_eq!(response["output"][1]["status"], "completed");
    assert_eq!(stack.upstream.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_goes_on_with_its_upstream_s_stream() -> anyhow::Result<()> {
    let mut stack = stack("").await?;
    let script = talk();
    stack.upstream.choose({
        let script = script.clone();
        move |request| {
            let hang = |script: Script| script.gate("never");
            let count = if is_post(request) { 12 } else { usize::MAX };
            Some(events(&script, starting_after(request), count, hang))
        }
    });
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let seen = reader.until(|frame| says(frame, "I will")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;

    let whole = stack.replay(&id, None).await?.collect().await?;
    assert!(whole.starts_with(&seen), "something was taken back");
    let checked = check::stream(&whole).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (checked.status.as_str(), checked.attempts),
        ("completed", 2)
    );
    assert_eq!(checked.text, "I will look it up 🌍.");
    assert_eq!(stack.upstream.requests().len(), 2, "it was not asked again");
    stack.upstream.choose(move |_| Some(script.clone()));
    let uncut = stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;
    let (whole, uncut) = (
        told(&whole, "response.in_progress")?,
        told(&uncut, "response.in_progress")?,
    );
    assert_eq!(whole, uncut);
    Ok(())
}

#[tokio::test]
async fn a_talaria_before_a_talaria_is_killed_in_the_middle_of_a_text() -> anyhow::Result<()> {
    let back = Stack::serve(TALARIA).await?;
    back.upstream.push(
        ResponsesStream::new()
            .open_text()
            .deltas(&["One, ", "two, "])
            .gate("three")
            .deltas(&["three, ", "four."])
            .close()
            .completed(),
    );
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        agent: "upstream = \"back\"".to_owned(),
        upstream: format!(
            "[upstreams.back]\nkind = \"responses\"\nbase_url = \"{}\"\nresumable = true",
            back.url("/v1")
        ),
        ..Options::default()
    };
    let mut front = Stack::serve_with(TALARIA, options).await?;
    let mut reader = front.stream(&json!({"input": "count"})).await?;
    let seen = reader.until(|frame| says(frame, "two, ")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    front.processes[0].kill9().await?;
    // Nobody listens to the one behind just now.
    back.upstream.open("three");
    front.restart_serve().await?;

    let whole = front.replay(&id, None).await?.collect().await?;
    assert!(whole.starts_with(&seen), "something was taken back");
    let checked = check::stream(&whole).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (checked.status.as_str(), checked.attempts),
        ("completed", 2)
    );
    assert_eq!(checked.text, "One, two, three, four.");
    assert_eq!(checked.items.len(), 1, "{:?}", checked.items);
    assert_eq!(checked.items[0]["status"], "completed");
    assert_eq!(checked.response["usage"]["total_tokens"], 11);
    assert_eq!(back.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_an_upstream_does_not_have_any_more_is_asked_for_again() -> anyhow::Result<()> {
    for status in [400, 404, 410] {
        let stack = stack("").await?;
        let posts = AtomicUsize::new(0);
        stack.upstream.choose(move |request| {
            if !is_post(request) {
                return Some(Script::error(status, "not_found", "No such response."));
            }
            let open = ResponsesStream::new().open_text().deltas(&["So far"]).cut();
            let good = ResponsesStream::new().text(&["Hello!"]).completed();
            let is_first = posts.fetch_add(1, Ordering::Relaxed) == 0;
            Some(if is_first { open } else { good })
        });

        let frames = stack
            .stream(&json!({"input": "hi"}))
            .await?
            .collect()
            .await?;

        let checked = check::stream(&frames).map_err(anyhow::Error::msg)?;
        let texts: Vec<_> = checked
            .items
            .iter()
            .map(|item| (&item["status"], &item["content"][0]["text"]))
            .collect();
        let expected = [
            (&json!("incomplete"), &json!("So far")),
            (&json!("completed"), &json!("Hello!")),
        ];
        assert_eq!(texts, expected, "{status}");
        let gets = stack.upstream.requests();
        let gets = gets.iter().filter(|request| request.method == "GET");
        assert_eq!(gets.count(), 1, "{status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_cancelled_cancels_what_its_upstream_makes() -> anyhow::Result<()> {
    let mut stack = stack("").await?;
    let halting = || {
        ResponsesStream::new()
            .open_text()
            .deltas(&["So far"])
            .gate("never")
            .stop()
    };
    stack
        .upstream
        .choose(move |request| is_post(request).then(halting));
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let seen = reader.until(|frame| says(frame, "So far")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let url = stack.url(&format!("/v1/responses/{id}/cancel"));
    stack.http.post(url).send().await?.error_for_status()?;

    let cancel = stack.upstream.request(1).await?;
    assert_eq!(cancel.method, "POST");
    assert!(
        cancel.path.starts_with("/v1/responses/resp_"),
        "{}",
        cancel.path
    );
    assert!(cancel.path.ends_with("/cancel"), "{}", cancel.path);

    // Also when it is cancelled while nobody executes it.
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let seen = reader.until(|frame| says(frame, "So far")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    stack.processes[0].kill9().await?;
    let database = stack.database().context("the stack has a database")?;
    let digits = id.trim_start_matches("resp_").to_owned();
    let session = database.connect().await?;
    let flagged = session
        .execute(
            &format!("UPDATE response SET cancel_requested = true WHERE id = '{digits}'"),
            &[],
        )
        .await?;
    assert_eq!(flagged, 1);
    stack.restart_serve().await?;

    let cancel = stack.upstream.request(3).await?;
    assert!(cancel.path.ends_with("/cancel"), "{}", cancel.path);
    let frames = stack.replay(&id, None).await?.collect().await?;
    let checked = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(checked.status, "cancelled");
    Ok(())
}

#[tokio::test]
async fn what_a_client_does_not_want_stored_is_not_kept_at_the_upstream() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["Hello!"]).completed());

    stack
        .create_json(&json!({"input": "hi", "store": false}))
        .await?;

    let body = stack.upstream.request(0).await?.body;
    assert_eq!(body["store"], false);
    assert_eq!(body["background"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn whoever_lost_its_run_does_not_cancel_what_another_listens_to() -> anyhow::Result<()> {
    let mut stack = stack("").await?;
    stack.upstream.choose(|request| {
        is_post(request).then(|| {
            ResponsesStream::new()
                .open_text()
                .deltas(&["So far"])
                .gate("never")
                .stop()
        })
    });
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let seen = reader.until(|frame| says(frame, "So far")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let database = stack.database().context("the stack has a database")?;
    let session = database.connect().await?;
    let digits = id.trim_start_matches("resp_");
    let other = "0198f000-0000-7000-8000-000000000001";
    session
        .batch_execute(&format!(
            "INSERT INTO orchestrator VALUES ('{other}', '', now() + interval '1 hour');
             UPDATE response SET epoch = epoch + 1, owner = '{other}' WHERE id = '{digits}'"
        ))
        .await?;

    let url = stack.url(&format!("/v1/responses/{id}/cancel"));
    // What it answers is the other's to say, who says nothing.
    let cancelled = stack.http.post(url).send();
    let _ = tokio::time::timeout(Duration::from_secs(2), cancelled).await;

    let heard = stack.upstream.request(0).await?.closed().await?;
    assert_eq!(heard, Ending::ClientGone, "it noticed");
    // Once the process has ended, nothing is on its way any more.
    drop(reader);
    stack.processes[0].terminate()?;
    stack.processes[0].wait_for_success().await?;
    assert_eq!(stack.upstream.requests().len(), 1, "it cancelled");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_ends_without_saying_so_has_ended_when_nothing_follows() -> anyhow::Result<()>
{
    for end in [ResponsesStream::stop as fn(_) -> Script, |script| {
        ResponsesStream::stop(script).done_mark()
    }] {
        let stack = stack("").await?;
        let script = end(ResponsesStream::new().text(&["Hel", "lo!"]));
        stack.upstream.choose(move |request| {
            let count = if is_post(request) { 4 } else { usize::MAX };
            Some(events(&script, starting_after(request), count, Script::cut))
        });

        let response = stack.create_json(&json!({"input": "hi"})).await?;

        assert_eq!(response["status"], "completed");
        assert_eq!(response["output"].as_array().map(Vec::len), Some(1));
        assert_eq!(response["output"][0]["content"][0]["text"], "Hello!");
        assert_eq!(response["output"][0]["status"], "completed");
        let requests = stack.upstream.requests();
        let posts = requests.iter().filter(|request| is_post(request)).count();
        assert_eq!((posts, requests.len()), (1, 3));
    }
    Ok(())
}

#[tokio::test]
async fn a_takeover_asks_again_what_its_upstream_forgot_whatever_is_set() -> anyhow::Result<()> {
    let options = Options {
        runs: "lease_seconds = 1\non_broken_stream = \"fail\"".to_owned(),
        upstream: "resumable = true\nmax_retries = 0".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::serve_with(TALARIA, options).await?;
    let posts = AtomicUsize::new(0);
    stack.upstream.choose(move |request| {
        if !is_post(request) {
            return Some(Script::error(404, "not_found", "No such response."));
        }
        let begun = ResponsesStream::new().open_text().deltas(&["So far"]);
        let good = ResponsesStream::new().text(&["Hello!"]).completed();
        let is_first = posts.fetch_add(1, Ordering::Relaxed) == 0;
        Some(if is_first {
            begun.gate("never").stop()
        } else {
            good
        })
    });
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let seen = reader.until(|frame| says(frame, "So far")).await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;

    let frames = stack.replay(&id, None).await?.collect().await?;
    let checked = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(checked.status, "completed");
    assert_eq!(checked.items.len(), 2, "{:?}", checked.items);
    Ok(())
}

#[tokio::test]
async fn a_stream_is_gone_on_with_for_longer_than_other_calls_are_tried_again() -> anyhow::Result<()>
{
    let stack = stack("max_retries = 1").await?;
    let script = talk();
    let gets = AtomicUsize::new(0);
    stack.upstream.choose(move |request| {
        if !is_post(request) && gets.fetch_add(1, Ordering::Relaxed) < 3 {
            return Some(Script::hang_up());
        }
        let count = if is_post(request) { 8 } else { usize::MAX };
        Some(events(&script, starting_after(request), count, Script::cut))
    });

    let response = stack.create_json(&json!({"input": "hi"})).await?;

    assert_eq!(
        response["output"][1]["content"][0]["text"],
        "I will look it up 🌍."
    );
    let requests = stack.upstream.requests();
    let posts = requests.iter().filter(|request| is_post(request)).count();
    assert_eq!((posts, requests.len()), (1, 5));
    Ok(())
}

#[tokio::test]
async fn an_answer_has_one_deadline_over_however_many_connections_it_comes() -> anyhow::Result<()> {
    let stack = stack("total_timeout_seconds = 2").await?;
    stack.upstream.choose(|request| {
        if is_post(request) {
            return Some(ResponsesStream::new().open_text().deltas(&["And"]).cut());
        }
        let after = starting_after(request)?;
        let delta = json!({
            "type": "response.output_text.delta", "sequence_number": after + 1,
            "output_index": 0, "content_index": 0, "delta": " so on",
        });
        Some(Script::sse().data(&delta).cut())
    });

    let frames = stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;

    let checked = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(checked.status, "failed");
    let requests = stack.upstream.requests();
    let posts = requests.iter().filter(|request| is_post(request)).count();
    assert_eq!(posts, 1);
    // It is sent when the end is written.
    let is_cancel = |request: &Request| request.path.ends_with("/cancel");
    if !requests.iter().any(is_cancel) {
        assert!(is_cancel(&stack.upstream.request(requests.len()).await?));
    }
    Ok(())
}

#[tokio::test]
async fn what_a_cut_stream_said_that_it_used_counts_once() -> anyhow::Result<()> {
    let stack = stack("").await?;
    let usage = json!({"usage": {"input_tokens": 3, "output_tokens": 8, "total_tokens": 11}});
    let script = ResponsesStream::new()
        .open_text()
        .deltas(&["Hel", "lo!"])
        .event("response.in_progress", json!({ "response": usage }))
        .close()
        .completed();
    let count = script.steps.len() - 3;
    stack.upstream.choose(move |request| {
        let count = if is_post(request) { count } else { usize::MAX };
        Some(events(&script, starting_after(request), count, Script::cut))
    });

    let response = stack.create_json(&json!({"input": "hi"})).await?;

    assert_eq!(response["output"][0]["content"][0]["text"], "Hello!");
    assert_eq!(response["usage"]["total_tokens"], 11);
    assert_eq!(stack.upstream.requests().len(), 2);
    Ok(())
}
