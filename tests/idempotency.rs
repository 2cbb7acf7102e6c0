//! Requests that are sent again with the same `Idempotency-Key`: one run, one id, whatever happens in between.

use anyhow::{Context, ensure};
use futures::future::join_all;
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const DUPLICATES: usize = 50;
const FIRST_GATEWAY: usize = 2;

/// A reply that stops after its second delta until `rest` is opened.
fn held_reply() -> Script {
    ResponsesStream::held("rest")
}

fn reply(text: &str) -> Script {
    ResponsesStream::new().text(&[text]).completed()
}

fn keyed(stack: &Stack, gateway: usize, key: &str, body: &Value) -> RequestBuilder {
    let url = format!("{}/v1/responses", stack.gateways[gateway]);
    let request = stack.http.post(url).header("idempotency-key", key);
    request.json(body)
}

async fn send(stack: &Stack, key: &str, body: &Value) -> anyhow::Result<Response> {
    Ok(keyed(stack, 0, key, body).send().await?)
}

/// An answer that is a response object: whether it was replayed, and the object.
async fn response_of(answer: Response) -> anyhow::Result<(bool, Value)> {
    let replayed = is_replayed(answer.headers());
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status == 200, "{status}: {text}");
    Ok((replayed, serde_json::from_str(&text)?))
}

/// An answer that is a refusal: its status and its code.
async fn refusal_of(answer: Response) -> anyhow::Result<(u16, Value)> {
    let status = answer.status().as_u16();
    let retry = answer.headers().get("x-should-retry").cloned();
    ensure!(
        retry.is_some_and(|retry| retry == "false") == (status == 409),
        "the SDKs repeat a 409 that does not forbid it"
    );
    let mut body: Value = answer.json().await?;
    Ok((status, body["error"]["code"].take()))
}

fn is_replayed(headers: &HeaderMap) -> bool {
    headers
        .get("idempotency-replayed")
        .is_some_and(|value| value == "true")
}

async fn until_gate(reader: &mut Reader) -> anyhow::Result<(Vec<Frame>, String)> {
    let frames = reader
        .until(|frame| frame.json()["delta"] == "two ")
        .await?;
    let id = frames[0].json()["response"]["id"].clone();
    let id = id.as_str().context("no id in the first event")?.to_owned();
    Ok((frames, id))
}

async fn delete(stack: &Stack, id: &str) -> anyhow::Result<u16> {
    let url = stack.url(&format!("/v1/responses/{id}"));
    Ok(stack.http.delete(url).send().await?.status().as_u16())
}

/// Checks that the upstream was asked once and that there is one response.
async fn check_one_run(stack: &Stack) -> anyhow::Result<()> {
    ensure!(stack.upstream.requests().len() == 1, "asked more than once");
    let session = stack.database().context("no database")?.connect().await?;
    for table in ["response", "turn", "idempotency_key"] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = session.query_one(&count, &[]).await?.get(0);
        ensure!(count == 1, "{count} in {table}");
    }
    Ok(())
}

/// REQ-26, REQ-33
#[tokio::test]
async fn fifty_duplicates_at_once_through_two_gateways_are_one_run() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "conversation": "c"});
    let duplicates = (0..DUPLICATES).map(|n| {
        let request = keyed(&stack, n % 2, "k-1", &body);
        async move { response_of(request.send().await?).await }
    });
    let open = async {
        stack.upstream.request(0).await?;
        stack.upstream.open("rest");
        anyhow::Ok(())
    };

    let (answers, opened) = tokio::join!(join_all(duplicates), open);

    opened?;
    let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let first = &answers[0].1;
    assert_eq!(first["status"], "completed");
    assert!(answers.iter().all(|(_, response)| response == first));
    let replayed = answers.iter().filter(|(replayed, _)| *replayed).count();
    assert_eq!(replayed, DUPLICATES - 1);
    check_one_run(&stack).await
}

/// REQ-25, REQ-26, REQ-33
#[tokio::test]
async fn fifty_streamed_duplicates_end_alike_also_when_a_gateway_is_killed() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "stream": true});
    let beginnings = (0..DUPLICATES).map(|n| {
        let request = keyed(&stack, n % 2, "k-1", &body);
        async move {
            let answer = request.send().await?;
            let replayed = is_replayed(answer.headers());
            let mut reader = Reader::new(answer).await?;
            let first = reader.next().await?.context("an empty stream")?;
            anyhow::Ok((n, replayed, first, reader))
        }
    });
    let begun = join_all(beginnings).await.into_iter();
    let begun = begun.collect::<anyhow::Result<Vec<_>>>()?;
    let id = begun[0].2.json()["response"]["id"].clone();
    for (_, replayed, first, _) in &begun {
        assert_eq!(first.json()["response"]["id"], id);
        let expected = if *replayed {
            "response.snapshot"
        } else {
            "response.created"
        };
        assert_eq!(first.event.as_deref(), Some(expected));
    }
    let fresh = begun.iter().filter(|(_, replayed, ..)| !replayed).count();
    assert_eq!(fresh, 1);

    stack.processes[FIRST_GATEWAY].kill9().await?;
    let mut readers = Vec::new();
    for (n, _, _, reader) in begun {
        readers.push(match n % 2 {
            0 => Reader::new(keyed(&stack, 1, "k-1", &body).send().await?).await?,
            _ => reader,
        });
    }
    stack.upstream.open("rest");

    for reader in readers {
        let frames = reader.collect().await?;
        let [.., last, done] = &frames[..] else {
            anyhow::bail!("too short: {frames:?}");
        };
        assert!(done.is_done_mark());
        assert_eq!(last.event.as_deref(), Some("response.completed"));
        let response = &last.json()["response"];
        assert_eq!(response["id"], id);
        assert_eq!(
            response["output"][0]["content"][0]["text"],
            "one two three four"
        );
    }
    check_one_run(&stack).await
}

/// REQ-26, REQ-33
#[tokio::test]
async fn duplicates_whose_gateway_is_killed_get_their_answer_from_another() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi"});
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..DUPLICATES {
        let request = keyed(&stack, n % 2, "k-1", &body);
        waiting.spawn(async move { (n, request.send().await.map_err(anyhow::Error::from)) });
    }
    stack.upstream.request(0).await?;

    stack.processes[FIRST_GATEWAY].kill9().await?;
    let mut lost = 0;
    while lost < DUPLICATES / 2 {
        let (n, answer) = waiting.join_next().await.context("too few were lost")??;
        ensure!(
            answer.is_err(),
            "{n} was answered before the end of the run"
        );
        let request = keyed(&stack, 1, "k-1", &body);
        waiting.spawn(async move { (DUPLICATES + n, request.send().await.map_err(Into::into)) });
        lost += 1;
    }
    stack.upstream.open("rest");

    let mut responses = Vec::new();
    while let Some(answered) = waiting.join_next().await {
        responses.push(response_of(answered?.1?).await?.1);
    }
    assert_eq!(responses.len(), DUPLICATES);
    assert!(responses.iter().all(|response| response == &responses[0]));
    check_one_run(&stack).await
}

/// REQ-27
#[tokio::test]
async fn a_retry_of_an_active_stream_begins_with_a_snapshot() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "stream": true});
    let mut original = Reader::new(send(&stack, "k", &body).await?).await?;
    let (mut frames, id) = until_gate(&mut original).await?;

    let answer = send(&stack, "k", &body).await?;
    assert!(is_replayed(answer.headers()));
    let mut retry = Reader::new(answer).await?;
    let snapshot = retry.next().await?.context("an empty stream")?;
    let seen = snapshot.json();
    let got = stack.get(&id).await?;
    stack.upstream.open("rest");
    let rest = retry.collect().await?;
    let before = frames.len();
    frames.extend(original.collect().await?);

    assert_eq!(snapshot.event.as_deref(), Some("response.snapshot"));
    let members: Vec<&String> = seen.as_object().context("no object")?.keys().collect();
    assert_eq!(members, ["type", "sequence_number", "response"]);
    assert_eq!(seen["type"], "response.snapshot");
    assert_eq!(seen["sequence_number"], before - 1);
    assert_eq!(got, (200, seen["response"].clone()));
    assert_eq!(
        seen["response"]["output"][0]["content"][0]["text"],
        "one two "
    );
    assert_eq!(rest, frames[before..]);
    check::stream(&frames).map_err(anyhow::Error::msg)?;
    Ok(())
}

/// REQ-28
#[tokio::test]
async fn a_retry_of_a_finished_stream_is_the_same_stream_again() -> anyhow::Result<()> {
    let mut stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(reply("hello"));
    let body = json!({"input": "hi", "stream": true});
    let original = Reader::new(send(&stack, "k", &body).await?).await?;
    let frames = original.collect().await?;

    let again = send(&stack, "k", &body).await?;
    assert!(is_replayed(again.headers()));
    assert_eq!(Reader::new(again).await?.collect().await?, frames);
    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let restarted = send(&stack, "k", &body).await?;
    assert!(is_replayed(restarted.headers()));
    assert_eq!(Reader::new(restarted).await?.collect().await?, frames);
    check_one_run(&stack).await
}

/// REQ-26
#[tokio::test]
async fn a_retry_after_a_crash_in_mid_run_is_the_same_run() -> anyhow::Result<()> {
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.push(held_reply());
    stack.upstream.push(reply("after the crash"));
    let body = json!({"input": "hi", "stream": true});
    let mut original = Reader::new(send(&stack, "k", &body).await?).await?;
    let (_, id) = until_gate(&mut original).await?;

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let answer = send(&stack, "k", &body).await?;

    assert!(is_replayed(answer.headers()));
    let frames = Reader::new(answer).await?.collect().await?;
    assert_eq!(frames[0].event.as_deref(), Some("response.snapshot"));
    assert_eq!(frames[0].json()["response"]["id"], id);
    let last = &frames[frames.len() - 2].json()["response"];
    assert_eq!(
        (&last["id"], &last["status"]),
        (&json!(id), &json!("completed"))
    );
    Ok(())
}

/// REQ-27
#[tokio::test]
async fn official_sdks_get_an_active_stream_from_its_beginning() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "stream": true});
    let mut original = Reader::new(send(&stack, "k", &body).await?).await?;
    let (mut frames, _) = until_gate(&mut original).await?;

    let request = keyed(&stack, 0, "k", &body).header("x-stainless-lang", "js");
    let answer = request.send().await?;
    assert!(is_replayed(answer.headers()));
    let mut retry = Reader::new(answer).await?;
    let (mut seen, _) = until_gate(&mut retry).await?;
    stack.upstream.open("rest");
    seen.extend(retry.collect().await?);
    frames.extend(original.collect().await?);

    assert_eq!(seen, frames);
    check::stream(&seen).map_err(anyhow::Error::msg)?;
    Ok(())
}

/// REQ-29, REQ-32
#[tokio::test]
async fn a_key_of_another_request_is_a_conflict() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "model": "agent"});
    let streamed = json!({"input": "hi", "model": "agent", "stream": true});
    let mut original = Reader::new(send(&stack, "k", &streamed).await?).await?;
    until_gate(&mut original).await?;

    let conflict = (409, json!("idempotency_key_conflict"));
    let check_conflicts = async || -> anyhow::Result<()> {
        for other in [
            body.clone(),
            json!({"input": "ho", "model": "agent", "stream": true}),
            json!({"input": "hi", "stream": true}),
            json!({"input": "hi", "model": "agent", "stream": true, "conversation": "c"}),
            json!({"input": "hi", "model": "agent", "stream": true, "store": true}),
        ] {
            let got = refusal_of(send(&stack, "k", &other).await?).await?;
            assert_eq!(got, conflict, "{other}");
        }
        let session = keyed(&stack, 0, "k", &streamed).header("x-hermes-session-id", "s");
        assert_eq!(refusal_of(session.send().await?).await?, conflict);
        Ok(())
    };
    check_conflicts().await?;
    stack.upstream.open("rest");
    original.collect().await?;
    check_conflicts().await?;
    check_one_run(&stack).await?;

    let spelled = r#"{"stream":true, "model":"agent", "input":"\u0068i", "store":null}"#;
    let url = stack.url("/v1/responses");
    let spelled = stack
        .http
        .post(url)
        .header("idempotency-key", "k")
        .body(spelled);
    let spelled = spelled
        .header("content-type", "application/json")
        .send()
        .await?;
    assert_eq!(
        spelled.status(),
        200,
        "another spelling is the same request"
    );
    assert!(is_replayed(spelled.headers()));
    Ok(())
}

/// REQ-21
#[tokio::test]
async fn a_key_needs_a_stored_response() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    for stream in [true, false] {
        let body = json!({"input": "hi", "stream": stream, "store": false});
        let got = refusal_of(send(&stack, "k", &body).await?).await?;
        assert_eq!(got, (400, json!("idempotency_requires_store")));
    }
    let too_long = "k".repeat(256);
    for key in ["", "a b", &too_long] {
        let got = refusal_of(send(&stack, key, &json!({"input": "hi"})).await?).await?;
        assert_eq!(got, (400, json!("invalid_idempotency_key")), "{key:?}");
    }
    assert_eq!(stack.upstream.requests().len(), 0);
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    Ok(())
}

/// REQ-26, REQ-49
#[tokio::test]
async fn a_full_server_still_answers_for_runs_that_it_has() -> anyhow::Result<()> {
    let options = Options {
        runs: "max_concurrent = 1".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "stream": true});
    let mut original = Reader::new(send(&stack, "k", &body).await?).await?;
    let (_, id) = until_gate(&mut original).await?;

    let another = send(&stack, "another", &body).await?;
    assert_eq!(another.headers()["retry-after"], "1");
    let got = refusal_of(another).await?;
    assert_eq!(got, (429, json!("rate_limit_exceeded")));
    let again = send(&stack, "k", &body).await?;
    assert!(is_replayed(again.headers()));
    let mut again = Reader::new(again).await?;
    let snapshot = again.next().await?.context("an empty stream")?;
    assert_eq!(snapshot.json()["response"]["id"], id);

    stack.upstream.open("rest");
    again.collect().await?;
    original.collect().await?;
    check_one_run(&stack).await?;
    stack.upstream.push(reply("now there is room"));
    let now = send(&stack, "another", &body).await?;
    assert!(
        !is_replayed(now.headers()),
        "the refusal left no key behind"
    );
    Reader::new(now).await?.collect().await?;
    Ok(())
}

/// REQ-31
#[tokio::test]
async fn deleting_a_response_frees_its_key() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let body = json!({"input": "hi"});
    stack.upstream.push(reply("first"));
    let (_, first) = response_of(send(&stack, "k", &body).await?).await?;
    let first = first["id"].as_str().context("no id")?;

    assert_eq!(delete(&stack, first).await?, 200);
    stack.upstream.push(reply("second"));
    let (replayed, second) = response_of(send(&stack, "k", &body).await?).await?;

    assert!(!replayed);
    assert_ne!(second["id"], first);
    assert_eq!(second["output"][0]["content"][0]["text"], "second");
    Ok(())
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_found_by_its_key() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi"});
    tokio::select! {
        answer = keyed(&stack, 0, "k", &body).send() => anyhow::bail!("answered: {answer:?}"),
        asked = stack.upstream.request(0) => asked?,
    };

    let retry = keyed(&stack, 0, "k", &body);
    let retry = async { response_of(retry.send().await?).await };
    let open = async { stack.upstream.open("rest") };
    let (answer, ()) = tokio::join!(retry, open);

    let (replayed, response) = answer?;
    assert!(replayed);
    assert_eq!(
        response["output"][0]["content"][0]["text"],
        "one two three four"
    );
    check_one_run(&stack).await
}

#[tokio::test]
async fn a_retry_of_a_background_request_shows_how_far_it_is() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "background": true});
    let (_, created) = response_of(send(&stack, "k", &body).await?).await?;
    assert_eq!(created["status"], "queued");
    let id = created["id"].as_str().context("no id")?;
    let mut follow = stack.replay(id, None).await?;
    until_gate(&mut follow).await?;

    let (replayed, active) = response_of(send(&stack, "k", &body).await?).await?;
    assert_eq!((replayed, &active["id"]), (true, &created["id"]));
    assert_eq!(active["status"], "in_progress");
    stack.upstream.open("rest");
    follow.collect().await?;
    let (replayed, ended) = response_of(send(&stack, "k", &body).await?).await?;
    assert_eq!((replayed, &ended["status"]), (true, &json!("completed")));
    assert_eq!(stack.get(id).await?, (200, ended));
    check_one_run(&stack).await
}

/// REQ-30, REQ-104
#[tokio::test]
async fn web_pages_can_read_replays_and_their_session() -> anyhow::Result<()> {
    const ORIGIN: &str = "https://app.example";
    let options = Options {
        environment: vec![("TALARIA_CORS_ORIGINS".into(), ORIGIN.into())],
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.push(held_reply());
    let body = json!({"input": "hi", "stream": true, "session_id": "my-session"});
    let from_page = || async {
        let request = keyed(&stack, 0, "k", &body);
        let request = request.header("x-hermes-session-key", "my-key");
        anyhow::Ok(request.header("origin", ORIGIN).send().await?)
    };
    let check_headers = |answer: &Response, replayed: bool| {
        let headers = answer.headers();
        assert_eq!(is_replayed(headers), replayed);
        assert_eq!(headers["access-control-allow-origin"], ORIGIN);
        assert_eq!(headers["x-hermes-session-id"], "my-session");
        assert_eq!(headers["x-hermes-session-key"], "my-key");
        let exposed = headers["access-control-expose-headers"].as_bytes();
        let exposed = String::from_utf8_lossy(exposed);
        for name in ["Idempotency-Replayed", "X-Hermes-Session-Id", "Retry-After"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    };

    let live = from_page().await?;
    check_headers(&live, false);
    let mut live = Reader::new(live).await?;
    until_gate(&mut live).await?;
    let attached = from_page().await?;
    check_headers(&attached, true);
    stack.upstream.open("rest");
    live.collect().await?;
    Reader::new(attached).await?.collect().await?;
    let finished = from_page().await?;
    check_headers(&finished, true);
    Reader::new(finished).await?.collect().await?;
    Ok(())
}
