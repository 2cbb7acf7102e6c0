//! The rest of the Responses API: cancel, input items, sessions, history, and responses that wait for their turn.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Ended, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

fn reply(text: &str) -> Script {
    ResponsesStream::new().text(&[text]).completed()
}

/// A reply that stops after its first delta until `gate` is opened.
fn held(gate: &str, text: &str) -> Script {
    ResponsesStream::new()
        .open_text()
        .deltas(&["so far "])
        .gate(gate)
        .deltas(&[text])
        .close()
        .completed()
}

fn id(response: &Value) -> &str {
    response["id"].as_str().unwrap_or_default()
}

async fn cancel(stack: &Stack, gateway: usize, id: &str) -> anyhow::Result<(u16, Value)> {
    let url = format!("{}/v1/responses/{id}/cancel", stack.gateways[gateway]);
    let answer = stack.http.post(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn delete(stack: &Stack, id: &str) -> anyhow::Result<u16> {
    let url = stack.url(&format!("/v1/responses/{id}"));
    Ok(stack.http.delete(url).send().await?.status().as_u16())
}

async fn input_items(stack: &Stack, id: &str, query: &str) -> anyhow::Result<(u16, Value)> {
    let url = stack.url(&format!("/v1/responses/{id}/input_items{query}"));
    let answer = stack.http.get(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

fn session_of(answer: &Response) -> Option<String> {
    let value = answer.headers().get("x-hermes-session-id")?;
    value.to_str().ok().map(str::to_owned)
}

/// Starts a stream and reads its first delta; also the id of the response.
async fn begin(stack: &Stack, body: &Value) -> anyhow::Result<(Reader, String)> {
    let mut reader = stack.stream(body).await?;
    let frames = reader
        .until(|frame| frame.json()["delta"] == "so far ")
        .await?;
    let id = frames[0].json()["response"]["id"].clone();
    Ok((reader, id.as_str().context("no id")?.to_owned()))
}

/// REQ-8
#[tokio::test]
async fn get_shows_each_status_that_a_response_can_have() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let failing = ResponsesStream::new()
        .text(&["b"])
        .failed("server_error", "no");
    let cut_off = ResponsesStream::new()
        .text(&["b"])
        .incomplete("max_output_tokens");
    for (script, status) in [
        (reply("a"), "completed"),
        (failing, "failed"),
        (cut_off, "incomplete"),
    ] {
        stack.upstream.push(script);
        let response = stack.create_json(&json!({"input": "x"})).await?;
        assert_eq!(response["status"], status);
        assert_eq!(stack.get(id(&response)).await?, (200, response));
    }
    stack.upstream.push(held("rest", "one"));
    stack.upstream.push(reply("two"));
    let body = json!({"input": "1", "conversation": "c"});
    let (first, active) = begin(&stack, &body).await?;
    let next =
        json!({"input": "2", "conversation": "c", "on_active": "enqueue", "background": true});
    let next = stack.create_json(&next).await?;
    assert_eq!(stack.get(&active).await?.1["status"], "in_progress");
    assert_eq!(stack.get(id(&next)).await?, (200, next.clone()));
    assert_eq!(next["status"], "queued");
    cancel(&stack, 0, id(&next)).await?;
    assert_eq!(stack.get(id(&next)).await?.1["status"], "cancelled");
    stack.upstream.open("rest");
    first.collect().await?;
    Ok(())
}

/// REQ-16, REQ-51
#[tokio::test]
async fn a_silent_stream_gets_comments_between_its_frames() -> anyhow::Result<()> {
    let options = Options {
        server: "keepalive_seconds = 1".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let silent = ResponsesStream::new().pause(Duration::from_millis(2500));
    stack.upstream.push(silent.text(&["hi"]).completed());

    let mut reader = stack.stream(&json!({"input": "x"})).await?;
    let (frames, ended) = reader.collect_however_it_ends().await?;

    assert_eq!(ended, Ended::Cleanly);
    assert!(reader.comments.len() >= 2, "{:?}", reader.comments);
    let mut comments = reader.comments.iter();
    assert!(comments.all(|comment| comment == "keep-alive"));
    check::stream(&frames).map_err(anyhow::Error::msg)?;
    let first = String::from_utf8_lossy(&frames[0].raw).into_owned();
    let expected =
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,";
    assert!(first.starts_with(expected), "{first}");
    Ok(())
}

#[tokio::test]
async fn any_active_response_can_be_cancelled_through_any_gateway() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    for background in [false, true] {
        stack.upstream.push(held("never", "x"));
        let body = json!({"input": "hi", "background": background});
        let (reader, id) = begin(&stack, &body).await?;
        let asked = stack
            .upstream
            .request(stack.upstream.requests().len() - 1)
            .await?;

        let (status, response) = cancel(&stack, 1, &id).await?;

        assert_eq!((status, &response["status"]), (200, &json!("cancelled")));
        assert_eq!(response["output"][0]["content"][0]["text"], "so far ");
        assert_eq!(asked.closed().await?, Ending::ClientGone);
        let frames = reader.collect().await?;
        let last = &frames[frames.len() - 2];
        assert_eq!(last.event.as_deref(), Some("response.failed"));
        assert_eq!(last.json()["response"], response);
        assert_eq!(cancel(&stack, 0, &id).await?, (200, response.clone()));
        assert_eq!(stack.get(&id).await?, (200, response));
    }
    Ok(())
}

#[tokio::test]
async fn what_has_ended_cannot_be_cancelled() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(reply("hi"));
    let completed = stack.create_json(&json!({"input": "x"})).await?;
    let failure = ResponsesStream::new()
        .text(&["b"])
        .failed("server_error", "no");
    stack.upstream.push(failure);
    let failed = stack.create_json(&json!({"input": "x"})).await?;
    let cut = ResponsesStream::new()
        .text(&["b"])
        .incomplete("max_output_tokens");
    stack.upstream.push(cut);
    let incomplete = stack.create_json(&json!({"input": "x"})).await?;
    for (response, message) in [
        (&completed, "Cannot cancel a completed response."),
        (&failed, "Cannot cancel a failed response."),
        (&incomplete, "Cannot cancel a response in terminal state."),
    ] {
        let error = json!({
            "message": message, "type": "invalid_request_error", "param": null, "code": null,
        });
        let got = cancel(&stack, 0, id(response)).await?;
        assert_eq!(got, (400, json!({ "error": error })));
        assert_eq!(stack.get(id(response)).await?, (200, response.clone()));
    }
    for unknown in ["resp_00000000000070008000000000000000", "resp_1"] {
        let (status, error) = cancel(&stack, 0, unknown).await?;
        let message = format!("Response not found: {unknown}");
        assert_eq!((status, &error["error"]["message"]), (404, &json!(message)));
    }
    Ok(())
}

#[tokio::test]
async fn input_items_are_what_a_response_was_made_from() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(reply("ein"));
    let first = stack.create_json(&json!({"input": "one"})).await?;
    stack.upstream.push(reply("zwei"));
    let body = json!({
        "previous_response_id": id(&first),
        "input": [{"role": "user", "content": "two"}, {"role": "user", "content": "three"}],
    });
    let second = stack.create_json(&body).await?;

    let (status, list) = input_items(&stack, id(&second), "?order=asc").await?;

    assert_eq!(status, 200);
    let items = list["data"].as_array().context("no data")?;
    let texts: Vec<&Value> = items
        .iter()
        .map(|item| &item["content"][0]["text"])
        .collect();
    assert_eq!(texts, ["one", "ein", "two", "three"]);
    for item in items {
        assert_eq!(
            (&item["type"], &item["status"]),
            (&json!("message"), &json!("completed"))
        );
    }
    let envelope = json!({
        "object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[3]["id"],
        "has_more": false,
    });
    assert_eq!(list, envelope);
    let newest = input_items(&stack, id(&second), "").await?.1;
    let mut reversed = items.clone();
    reversed.reverse();
    assert_eq!(newest["data"], json!(reversed));
    let page = input_items(&stack, id(&second), "?limit=2").await?.1;
    assert_eq!(
        (&page["data"], &page["has_more"]),
        (&json!(reversed[..2]), &json!(true))
    );
    let after = format!("?limit=2&after={}", id(&reversed[1]));
    let page = input_items(&stack, id(&second), &after).await?.1;
    assert_eq!(
        (&page["data"], &page["has_more"]),
        (&json!(reversed[2..]), &json!(false))
    );
    for (query, param) in [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?order=up", "order"),
        ("?after=msg_unknown", "after"),
    ] {
        let (status, error) = input_items(&stack, id(&second), query).await?;
        assert_eq!(
            (status, &error["error"]["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
    let unknown = input_items(&stack, "resp_00000000000070008000000000000000", "").await?;
    assert_eq!(unknown.0, 404);
    Ok(())
}

/// REQ-45
#[tokio::test]
async fn a_chain_is_one_session_on_every_answer() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let create = async |body: &Value, header: Option<&str>| -> anyhow::Result<Response> {
        stack.upstream.push(reply("hi"));
        let mut request = stack.http.post(stack.url("/v1/responses")).json(body);
        if let Some(id) = header {
            request = request.header("x-hermes-session-id", id);
        }
        let answer = request.send().await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(answer)
    };
    let first = create(&json!({"input": "1"}), Some("s-1")).await?;
    assert_eq!(session_of(&first).as_deref(), Some("s-1"));
    let first: Value = first.json().await?;
    let chained = json!({"input": "2", "previous_response_id": id(&first), "stream": true});
    let second = create(&chained, None).await?;
    assert_eq!(session_of(&second).as_deref(), Some("s-1"));
    let frames = Reader::new(second).await?.collect().await?;
    let second = check::stream(&frames)
        .map_err(anyhow::Error::msg)?
        .response_id;
    for query in ["", "?stream=true"] {
        let url = stack.url(&format!("/v1/responses/{second}{query}"));
        let answer = stack.http.get(url).send().await?;
        assert_eq!(session_of(&answer).as_deref(), Some("s-1"), "{query}");
    }
    let moved = json!({"input": "3", "previous_response_id": second, "session_id": "s-2"});
    let third = create(&moved, None).await?;
    assert_eq!(
        session_of(&third).as_deref(),
        Some("s-2"),
        "the body comes first"
    );

    let fresh = create(&json!({"input": "1"}), None).await?;
    let own = session_of(&fresh).context("no session")?;
    let fresh: Value = fresh.json().await?;
    assert_eq!(format!("resp_{}", own.replace('-', "")), id(&fresh));
    let next = json!({"input": "2", "previous_response_id": id(&fresh)});
    assert_eq!(session_of(&create(&next, None).await?), Some(own));

    let request = stack.http.post(stack.url("/v1/responses"));
    let request = request.header("x-hermes-session-id", "s-1");
    let answer = request
        .json(&json!({"input": "x", "session_id": "s-2"}))
        .send()
        .await?;
    let status = answer.status();
    let error: Value = answer.json().await?;
    assert_eq!(
        (status.as_u16(), &error["error"]["param"]),
        (400, &json!("session_id"))
    );
    Ok(())
}

#[tokio::test]
async fn a_history_of_the_clients_own_stands_for_the_stored_one() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(reply("stored answer"));
    let first = json!({"input": "stored", "session_id": "s"});
    let first = stack.create_json(&first).await?;
    stack.upstream.push(reply("hi"));
    let body = json!({
        "input": "and now?", "previous_response_id": id(&first),
        "conversation_history": [
            {"role": "user", "content": "told"}, {"role": "assistant", "content": "so"},
        ],
    });
    let request = stack.http.post(stack.url("/v1/responses")).json(&body);
    let second = request.send().await?;

    assert_eq!(session_of(&second).as_deref(), Some("s"));
    let second: Value = second.json().await?;
    let shown = stack.upstream.request(1).await?;
    let texts = |items: &Value| -> Vec<Value> {
        let items = items.as_array().into_iter().flatten();
        items
            .map(|item| item["content"][0]["text"].clone())
            .collect()
    };
    assert_eq!(texts(&shown.body["input"]), ["told", "so", "and now?"]);
    let listed = input_items(&stack, id(&second), "?order=asc").await?.1;
    assert_eq!(texts(&listed["data"]), ["told", "so", "and now?"]);
    stack.upstream.push(reply("bye"));
    let next = json!({"input": "bye", "previous_response_id": id(&second)});
    stack.create_json(&next).await?;
    let shown = stack.upstream.request(2).await?;
    assert_eq!(
        texts(&shown.body["input"]),
        ["told", "so", "and now?", "hi", "bye"]
    );
    Ok(())
}

#[tokio::test]
async fn responses_in_line_answer_in_every_way_when_their_turn_comes() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("first", "one"));
    for text in ["two", "three", "four"] {
        stack.upstream.push(reply(text));
    }
    let (first, _) = begin(&stack, &json!({"input": "1", "conversation": "c"})).await?;
    let waiting = |text: &str| json!({"input": text, "conversation": "c", "on_active": "enqueue"});

    let mut streamed = stack.stream(&waiting("2")).await?;
    let mut frames = streamed.until_event("response.queued").await?;
    let in_line = frames[0].json()["response"]["id"].clone();
    let in_line = in_line.as_str().context("no id")?;
    let shown = stack.get(in_line).await?;
    assert_eq!((shown.0, &shown.1["status"]), (200, &json!("queued")));
    let mut background = waiting("3");
    background["background"] = true.into();
    let background = stack.create_json(&background).await?;
    assert_eq!(background["status"], "queued");
    let plain = waiting("4");
    let plain = stack.create_json(&plain);
    let rest = async {
        let reject = json!({"input": "x", "conversation": "c"});
        let rejected = stack.create(&reject).await?.status();
        assert_eq!(
            stack.upstream.requests().len(),
            1,
            "nobody has jumped the line"
        );
        stack.upstream.open("first");
        first.collect().await?;
        frames.extend(streamed.collect().await?);
        anyhow::Ok(rejected)
    };
    let (plain, rejected) = tokio::join!(plain, rest);

    assert_eq!(rejected?, 409);
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!((seen.text.as_str(), seen.attempts), ("two", 1));
    let plain = plain?;
    assert_eq!(plain["output"][0]["content"][0]["text"], "four");
    let third = stack.get(id(&background)).await?.1;
    assert_eq!(third["output"][0]["content"][0]["text"], "three");
    let last = stack.upstream.request(3).await?;
    let items = last.body["input"].as_array().context("no input")?.iter();
    let texts: Vec<&Value> = items.map(|item| &item["content"][0]["text"]).collect();
    assert_eq!(texts, ["1", "so far one", "2", "two", "3", "three", "4"]);
    Ok(())
}

/// REQ-52
#[tokio::test]
async fn deleting_the_active_response_lets_the_next_in_line_begin() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("never", "one"));
    stack.upstream.push(reply("two"));
    let (mut first, active) = begin(&stack, &json!({"input": "1", "conversation": "c"})).await?;
    let waiting = json!({"input": "2", "conversation": "c", "on_active": "enqueue"});
    let next = stack.stream(&waiting).await?;

    assert_eq!(delete(&stack, &active).await?, 200);

    first.collect_however_it_ends().await?;
    let frames = next.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.text, "two");
    assert_eq!(stack.get(&active).await?.0, 404);
    let shown = stack.upstream.request(1).await?;
    let items = shown.body["input"].as_array().context("no input")?;
    assert_eq!(items.len(), 1, "a deleted turn is not continued from");
    Ok(())
}
