//! The scripted upstream, seen by a real HTTP client.

use std::time::Duration;

use serde_json::{Value, json};
use talaria_testkit::sse::{Ended, Reader};
use talaria_testkit::upstream::{ChatStream, Ending, ResponsesStream, Script, Upstream};

async fn post(upstream: &Upstream, path: &str) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/{path}", upstream.base_url());
    let request = reqwest::Client::new().post(url).header("x-test", "1");
    request.json(&json!({ "model": "m" })).send().await
}

async fn stream(upstream: &Upstream, path: &str) -> anyhow::Result<Reader> {
    Reader::new(post(upstream, path).await?).await
}

#[tokio::test]
async fn scripts_answer_requests_in_order_and_requests_are_recorded() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.push(ResponsesStream::new().text(&["a", "b"]).completed());
    upstream.push(Script::error(429, "slow_down", "later").header("retry-after", "7"));

    let events = stream(&upstream, "responses").await?.collect().await?;
    let refused = post(&upstream, "chat/completions").await?;

    assert_eq!(events.len(), 10);
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "7");
    let request = upstream.request(0).await?;
    assert_eq!(request.path, "/v1/responses");
    assert_eq!(request.headers["x-test"], "1");
    assert_eq!(request.body, json!({ "model": "m" }));
    assert_eq!(request.closed().await?, Ending::Completed);
    assert_eq!(upstream.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_gate_holds_the_stream_until_it_is_opened() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.push(
        Script::sse()
            .raw("data: 1\n\n")
            .gate("g")
            .raw("data: 2\n\n"),
    );
    let mut reader = stream(&upstream, "responses").await?;
    assert!(reader.next().await?.is_some());
    reader.deadline = Duration::from_millis(50);
    assert!(reader.next().await.is_err(), "the gate is closed");

    upstream.open("g");

    reader.deadline = Duration::from_secs(20);
    assert_eq!(reader.collect().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_head_can_be_held_as_well() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.push(Script::json(200, &json!({})).hold_head("head"));
    let mut asking = Box::pin(post(&upstream, "responses"));
    tokio::select! {
        _ = &mut asking => anyhow::bail!("answered before the gate opened"),
        request = upstream.request(0) => assert_eq!(request?.ending(), None),
    }

    upstream.open("head");

    assert_eq!(asking.await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_cut_breaks_the_stream_after_everything_that_was_sent_before() -> anyhow::Result<()> {
    for deltas in [1, 300] {
        let upstream = Upstream::start().await?;
        upstream.push(ResponsesStream::new().numbered_text(deltas).cut());
        let mut reader = stream(&upstream, "responses").await?;

        let (frames, ended) = reader.collect_however_it_ends().await?;

        assert_eq!(frames.len(), 7 + deltas);
        assert!(matches!(ended, Ended::Broken(_)), "{ended:?}");
        assert_eq!(upstream.request(0).await?.closed().await?, Ending::Cut);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_can_hang_up_without_a_word() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.push(Script::hang_up());

    assert!(post(&upstream, "responses").await.is_err());

    assert_eq!(upstream.request(0).await?.closed().await?, Ending::Cut);
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_while_the_script_waits() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.push(
        ResponsesStream::new()
            .open_text()
            .deltas(&["a"])
            .gate("never")
            .cut(),
    );
    upstream.push(Script::sse().hold_head("never"));
    let mut reader = stream(&upstream, "responses").await?;
    reader.until_event("response.output_text.delta").await?;

    drop(reader);
    assert_eq!(
        upstream.request(0).await?.closed().await?,
        Ending::ClientGone
    );

    let mut asking = Box::pin(post(&upstream, "responses"));
    tokio::select! {
        _ = &mut asking => anyhow::bail!("answered before the gate opened"),
        request = upstream.request(1) => drop(request?),
    }
    drop(asking);
    assert_eq!(
        upstream.request(1).await?.closed().await?,
        Ending::ClientGone
    );
    Ok(())
}

#[tokio::test]
async fn a_function_of_the_request_can_answer_anything() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.choose(|request| {
        let is_odd = request.path == "/v1/odd?x=1";
        is_odd.then(|| Script::json(202, &json!({ "odd": true })))
    });
    upstream.push(Script::json(200, &json!({})));

    let odd = post(&upstream, "odd?x=1").await?;
    let queued = post(&upstream, "responses").await?;
    let unknown = post(&upstream, "unknown").await?;
    let too_many = post(&upstream, "responses").await?;

    assert_eq!(odd.json::<Value>().await?, json!({ "odd": true }));
    let statuses = [queued.status(), unknown.status(), too_many.status()];
    assert_eq!(statuses.map(|status| status.as_u16()), [200, 404, 500]);
    Ok(())
}

#[tokio::test]
async fn chat_streams_are_chunks_with_a_finish_reason_usage_and_end_mark() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let chat = ChatStream::new().reasoning(&["hm"]).text(&["a", "b"]);
    upstream.push(
        chat.function_call("call_1", "f", &["{", "}"])
            .finish("tool_calls"),
    );

    let frames = stream(&upstream, "chat/completions")
        .await?
        .collect()
        .await?;

    let deltas: Vec<Value> = frames
        .iter()
        .map(|frame| frame.json()["choices"][0]["delta"].clone())
        .filter(Value::is_object)
        .collect();
    let call = |fields: Value| json!({ "tool_calls": [fields] });
    let expected = [
        json!({ "role": "assistant", "content": "" }),
        json!({ "reasoning_content": "hm" }),
        json!({ "content": "a" }),
        json!({ "content": "b" }),
        call(json!({ "index": 0, "id": "call_1", "type": "function",
                     "function": { "name": "f", "arguments": "" } })),
        call(json!({ "index": 0, "function": { "arguments": "{" } })),
        call(json!({ "index": 0, "function": { "arguments": "}" } })),
        json!({}),
    ];
    assert_eq!(deltas, expected);
    assert_eq!(frames[8].json()["usage"]["total_tokens"], 11);
    assert!(frames[9].is_done_mark());
    Ok(())
}
