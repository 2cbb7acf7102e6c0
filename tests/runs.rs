//! Hermes' runs API: a run and its response are one record, and whoever reads its events loses none.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use talaria_testkit::postgres::PrivatePostgres;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

#[path = "runs/api.rs"]
mod api;
#[path = "runs/keys.rs"]
mod keys;
#[path = "runs/sessions.rs"]
mod sessions;

use api::{ended, events, get, id_of, post, start, status, told};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// A reply that stops in its middle until `rest` is opened.
fn held(first: &str, second: &str) -> Script {
    ResponsesStream::new()
        .reasoning_summary(&["Well", "."])
        .open_text()
        .deltas(&[first])
        .gate("rest")
        .deltas(&[second])
        .close()
        .completed()
}

fn is_delta(frame: &Frame) -> bool {
    frame.json()["event"] == "message.delta"
}

/// REQ-78
#[tokio::test]
async fn a_run_is_started_watched_and_read_as_with_hermes() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("Hel", "lo."));

    let body = json!({"input": "hi", "model": "gpt-4o"});
    let created = post(
        &stack,
        "/v1/runs",
        &body,
        &[("X-Hermes-Session-Id", "thread-1")],
    )
    .await?;

    let id = created.body["run_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let response_id = id.replace("run_", "resp_");
    assert_eq!(created.status, 202);
    let expected = json!({
        "object": "hermes.run", "run_id": id, "response_id": response_id, "status": "started",
        "created_at": 0, "updated_at": 0, "session_id": "thread-1", "model": "gpt-4o",
        "last_event": null, "replayed": false,
    });
    assert_eq!(created.timeless(), expected);
    assert_eq!(created.header("x-hermes-session-id"), Some("thread-1"));

    let mut reader = events(&stack, &stack.gateways[0], &id, None).await?;
    let mut frames = reader.until(is_delta).await?;
    let running = status(&stack, &id).await?;
    let expected = json!({
        "object": "hermes.run", "run_id": id, "response_id": response_id, "status": "running",
        "created_at": 0, "updated_at": 0, "session_id": "thread-1", "model": "gpt-4o",
        "last_event": "message.delta", "output": "Hel",
    });
    assert_eq!(running.timeless(), expected);

    stack.upstream.open("rest");
    let (rest, _) = reader.collect_however_it_ends().await?;
    frames.extend(rest);
    assert_eq!(
        reader.comments.last().map(|comment| comment.trim()),
        Some("stream closed")
    );
    let completed = status(&stack, &id).await?;
    let usage = completed.body["usage"].clone();
    let expected = json!({
        "object": "hermes.run", "run_id": id, "response_id": response_id, "status": "completed",
        "created_at": 0, "updated_at": 0, "session_id": "thread-1", "model": "gpt-4o",
        "last_event": "run.completed", "output": "Hello.", "usage": usage,
    });
    assert_eq!(completed.timeless(), expected);
    assert!(completed.body["updated_at"].as_f64() >= completed.body["created_at"].as_f64());
    assert_eq!(status(&stack, &response_id).await?.body, completed.body);
    let expected = [
        json!({"event": "reasoning.delta", "delta": "Well"}),
        json!({"event": "reasoning.delta", "delta": "."}),
        json!({"event": "reasoning.available", "text": "Well."}),
        json!({"event": "message.delta", "delta": "Hel"}),
        json!({"event": "message.delta", "delta": "lo."}),
        json!({"event": "run.completed", "output": "Hello.", "usage": usage}),
    ];
    assert_eq!(told(&frames), expected);
    let (_, response) = stack.get(&response_id).await?;
    assert_eq!(response["status"], "completed");
    Ok(())
}

/// REQ-51
#[tokio::test]
async fn a_run_that_has_nothing_to_show_shows_that_it_lives() -> anyhow::Result<()> {
    let options = Options {
        server: "keepalive_seconds = 1".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let paced = ResponsesStream::new().pace(Duration::from_millis(250));
    let call = paced.function_call(
        "call_1",
        "look_up",
        &["{", " ", " ", " ", " ", " ", " ", "}"],
    );
    stack.upstream.push(call.completed());
    let tool = json!({"type": "function", "name": "look_up", "parameters": {}, "strict": false});
    let id = start(&stack, &json!({"input": "hi", "tools": [tool]})).await?;

    let mut reader = events(&stack, &stack.gateways[0], &id, None).await?;
    let (frames, _) = reader.collect_however_it_ends().await?;

    assert_eq!(frames.len(), 1, "the end");
    assert_eq!(
        reader.comments.first().map(String::as_str),
        Some("keep-alive")
    );
    Ok(())
}

/// REQ-78
#[tokio::test]
async fn every_reader_sees_the_same_from_wherever_it_comes_back() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held("a", "b"));
    let id = start(&stack, &json!({"input": "hi"})).await?;
    let [first, other] = [&stack.gateways[0], &stack.gateways[1]];

    let mut one = events(&stack, first, &id, None).await?;
    let mut two = events(&stack, other, &id, None).await?;
    let mut whole = one.until(is_delta).await?;
    let mut seen_by_two = two.until(is_delta).await?;
    assert_eq!(seen_by_two, whole);
    // It leaves, which nobody notices, and comes back elsewhere.
    drop(one);
    let last = id_of(&whole[whole.len() - 1])?;
    let back = events(&stack, other, &id, Some(last)).await?;
    stack.upstream.open("rest");
    whole.extend(back.collect().await?);
    seen_by_two.extend(two.collect().await?);

    assert_eq!(seen_by_two, whole);
    let ids: Vec<u64> = whole.iter().map(id_of).collect::<Result<_, _>>()?;
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    for (index, after) in ids.iter().enumerate() {
        let rest = events(&stack, first, &id, Some(*after))
            .await?
            .collect()
            .await?;
        assert_eq!(rest, whole[index + 1..], "after {after}");
        let url = format!("{other}/v1/runs/{id}/events?after={after}");
        let rest = talaria_testkit::sse::Reader::new(stack.http.get(url).send().await?).await?;
        assert_eq!(rest.collect().await?, whole[index + 1..], "after {after}");
    }
    // What is no id of a frame is the beginning; one that nobody can have is the end.
    for (after, expected) in [("01", whole.len()), ("x", whole.len()), ("999999", 0)] {
        let url = format!("{first}/v1/runs/{id}/events?after={after}");
        let rest = talaria_testkit::sse::Reader::new(stack.http.get(url).send().await?).await?;
        assert_eq!(rest.collect().await?.len(), expected, "{after}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_comes_back_after_a_crash_and_misses_nothing() -> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        database_url: Some(postgres.url()),
        ..Options::default()
    };
    let mut stack = Stack::serve_with(TALARIA, options).await?;
    let search = |status: &str| json!({"type": "web_search_call", "id": "ws_1", "status": status});
    let dying = ResponsesStream::new()
        .begin_item(&search("in_progress"))
        .end_item(search("completed"))
        .open_text()
        .deltas(&["one "])
        .gate("never");
    stack.upstream.push(dying.stop());
    stack
        .upstream
        .push(ResponsesStream::new().text(&["two"]).completed());
    let id = start(&stack, &json!({"input": "count"})).await?;
    let mut reader = events(&stack, &stack.gateways[0], &id, None).await?;
    let mut seen = reader.until(is_delta).await?;

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let last = id_of(&seen[seen.len() - 1])?;
    let rest = events(&stack, &stack.gateways[0], &id, Some(last)).await?;
    seen.extend(rest.collect().await?);

    let mut shown = told(&seen);
    let took = shown[1]["duration"].take();
    assert!(took.is_f64());
    let usage = shown[4]["usage"].take();
    assert!(usage["total_tokens"].is_u64());
    let expected = [
        json!({"event": "tool.started", "tool": "web_search", "preview": null}),
        json!({"event": "tool.completed", "tool": "web_search", "duration": null, "error": false}),
        json!({"event": "message.delta", "delta": "one "}),
        json!({"event": "message.delta", "delta": "two"}),
        json!({"event": "run.completed", "output": "two", "usage": null}),
    ];
    assert_eq!(shown, expected);
    let whole = events(&stack, &stack.gateways[0], &id, None).await?;
    assert_eq!(whole.collect().await?, seen);
    assert_eq!(status(&stack, &id).await?.body["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_run_is_stopped_once_however_often_it_is_asked_to() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held("Hel", "never"));
    let id = start(&stack, &json!({"input": "hi"})).await?;
    let mut reader = events(&stack, &stack.gateways[1], &id, None).await?;
    reader.until(is_delta).await?;
    let path = format!("/v1/runs/{id}/stop");

    let stopped = post(&stack, &path, &json!({}), &[]).await?;

    assert_eq!(stopped.status, 200);
    assert_eq!(stopped.body, json!({"run_id": id, "status": "stopping"}));
    let end = reader.collect().await?;
    assert_eq!(told(&end), [json!({"event": "run.cancelled"})]);
    let again = post(&stack, &path, &json!({}), &[]).await?;
    assert_eq!(
        (again.status, &again.body["status"]),
        (200, &json!("cancelled"))
    );
    assert_eq!(again.body["output"], "Hel");
    assert_eq!(again.body, status(&stack, &id).await?.body);
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_in_line_is_stopped_before_it_begins() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("a", "b"));
    let talk = |text: &str| json!({"input": text, "conversation": "talk", "on_active": "enqueue"});
    let first = start(&stack, &talk("first")).await?;
    let waiting = start(&stack, &talk("second")).await?;
    assert_eq!(status(&stack, &waiting).await?.body["status"], "queued");

    post(&stack, &format!("/v1/runs/{waiting}/stop"), &json!({}), &[]).await?;

    assert_eq!(ended(&stack, &waiting).await?["status"], "cancelled");
    stack.upstream.open("rest");
    assert_eq!(ended(&stack, &first).await?["status"], "completed");
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_run_whose_log_is_gone_is_told_from_its_end() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["Hel", "lo."]).completed());
    let id = start(&stack, &json!({"input": "hi"})).await?;
    let whole = events(&stack, &stack.gateways[0], &id, None)
        .await?
        .collect()
        .await?;
    let session = stack.database().context("no database")?.connect().await?;
    session.execute("DELETE FROM event_chunk", &[]).await?;

    let again = events(&stack, &stack.gateways[0], &id, None)
        .await?
        .collect()
        .await?;
    let [ref said, ref end] = told(&again)[..] else {
        bail!("{again:?}");
    };
    assert_eq!(said, &json!({"event": "message.delta", "delta": "Hello."}));
    assert_eq!(Some(end), told(&whole).last());
    let after = id_of(&whole[0])?;
    let rest = events(&stack, &stack.gateways[0], &id, Some(after))
        .await?
        .collect()
        .await?;
    assert_eq!((rest.len(), id_of(&rest[0])?), (1, id_of(&whole[2])?));
    assert_eq!(told(&rest).last(), told(&whole).last());
    Ok(())
}

/// REQ-104
#[tokio::test]
async fn a_page_that_is_let_in_reads_the_events_too() -> anyhow::Result<()> {
    let options = Options {
        server: "cors_origins = [\"https://chat.example\"]".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["a"]).completed());
    let id = start(&stack, &json!({"input": "hi"})).await?;

    let url = stack.url(&format!("/v1/runs/{id}/events"));
    let request = stack.http.get(url).header("Origin", "https://chat.example");
    let answer = request.send().await?;

    for (name, value) in [
        ("access-control-allow-origin", "https://chat.example"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(
            answer
                .headers()
                .get(name)
                .map(reqwest::header::HeaderValue::as_bytes),
            Some(value.as_bytes())
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_deleted_is_gone_for_its_readers() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("a", "never"));
    let id = start(&stack, &json!({"input": "hi"})).await?;
    let mut reader = events(&stack, &stack.gateways[0], &id, None).await?;
    reader.until(is_delta).await?;

    let response = id.replace("run_", "resp_");
    let url = stack.url(&format!("/v1/responses/{response}"));
    stack.http.delete(url).send().await?.error_for_status()?;

    reader.collect().await?;
    assert_eq!(
        status(&stack, &id).await?.refusal(),
        (404, &json!("run_not_found"))
    );
    Ok(())
}

#[tokio::test]
async fn a_run_that_fails_says_why_and_one_that_ends_early_is_not_completed() -> anyhow::Result<()>
{
    let options = Options {
        upstream: "max_retries = 0".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let said = || ResponsesStream::new().open_text().deltas(&["So f"]);
    for (script, error, partial) in [
        (
            said().failed("server_error", "The model tripped."),
            "The model tripped.",
            Value::Null,
        ),
        (
            said().incomplete("max_output_tokens"),
            "The run ended before it was done: max_output_tokens.",
            json!(true),
        ),
    ] {
        stack.upstream.push(script);
        let id = start(&stack, &json!({"input": "hi"})).await?;
        let run = ended(&stack, &id).await?;

        assert_eq!(run["status"], "failed");
        assert_eq!((&run["error"], &run["partial"]), (&json!(error), &partial));
        assert_eq!(
            (&run["output"], &run["last_event"]),
            (&json!("So f"), &json!("run.failed"))
        );
        let frames = events(&stack, &stack.gateways[0], &id, None)
            .await?
            .collect()
            .await?;
        let last = told(&frames).pop().unwrap_or_default();
        assert_eq!(
            (&last["event"], &last["error"]),
            (&json!("run.failed"), &json!(error))
        );
    }
    Ok(())
}

#[tokio::test]
async fn calls_of_the_clients_own_functions_are_not_tools_of_the_run() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let call = ResponsesStream::new().function_call("call_1", "weather", &["{}"]);
    stack.upstream.push(call.completed());
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});

    let id = start(&stack, &json!({"input": "hi", "tools": [tool]})).await?;
    let frames = events(&stack, &stack.gateways[0], &id, None)
        .await?
        .collect()
        .await?;

    let names: Vec<Value> = frames
        .iter()
        .map(|frame| frame.json()["event"].take())
        .collect();
    assert_eq!(names, ["run.completed"]);
    let (_, response) = stack.get(&id.replace("run_", "resp_")).await?;
    assert_eq!(response["output"][0]["call_id"], "call_1");
    Ok(())
}

#[tokio::test]
async fn an_unknown_run_is_not_found_whatever_is_asked_of_it() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let unknown = format!("run_{}", "0192345678907012800000000000000a");
    for id in [unknown.as_str(), "run_1", "x"] {
        let run = format!("/v1/runs/{id}");
        let choice = json!({"choice": "once"});
        for answer in [
            get(&stack, &run).await?,
            get(&stack, &format!("{run}/events")).await?,
            post(&stack, &format!("{run}/stop"), &json!({}), &[]).await?,
            post(&stack, &format!("{run}/approval"), &choice, &[]).await?,
        ] {
            let expected = json!({"error": {
                "message": format!("Run not found: {id}"), "type": "invalid_request_error",
                "param": null, "code": "run_not_found",
            }});
            assert_eq!((answer.status, answer.body), (404, expected));
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_approval_that_nothing_waits_for_is_refused() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["a"]).completed());
    let id = start(&stack, &json!({"input": "hi"})).await?;
    let path = format!("/v1/runs/{id}/approval");
    for (body, status, code) in [
        (
            json!({"choice": "Approve", "all": "yes"}),
            409,
            "approval_not_active",
        ),
        (
            json!({"choice": "deny", "request_id": "r1"}),
            409,
            "approval_not_active",
        ),
        (json!({"choice": "perhaps"}), 400, "invalid_approval_choice"),
        (
            json!({"choice": "deny", "request_id": ""}),
            400,
            "invalid_approval_request",
        ),
    ] {
        let answer = post(&stack, &path, &body, &[]).await?;
        assert_eq!(answer.refusal(), (status, &json!(code)), "{body}");
    }
    Ok(())
}
