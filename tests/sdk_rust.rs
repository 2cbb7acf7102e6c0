//! Everything that is sent fits the types of `async-openai`, which know only what OpenAI documents.

use anyhow::{Context, bail, ensure};
use async_openai::types::responses::{DeleteResponse, Response, ResponseStreamEvent, Status};
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::Stack;

#[path = "sdk_python/scenarios.rs"]
mod scenarios;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// What is asked, and how it ends.
fn questions() -> Vec<(Value, Status)> {
    let weather = json!({
        "type": "function", "name": "weather", "description": "Tells the weather.", "strict": true,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    });
    let bare_tool = json!({"type": "function", "name": "weather"});
    let format = json!({
        "type": "json_schema", "name": "city", "strict": true,
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    });
    let history = json!([
        {"role": "user", "content": "call the weather"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    ]);
    let choice = json!({"type": "function", "name": "weather"});
    vec![
        (json!({"input": "text"}), Status::Completed),
        (
            json!({
                "input": "text", "instructions": "Be brief.", "metadata": {"who": "me"}, "user": "me",
                "temperature": 0.5, "top_p": 0.5, "max_output_tokens": 100, "truncation": "auto",
                "service_tier": "auto", "conversation": "a chat", "parallel_tool_calls": false,
                "prompt_cache_key": "me", "safety_identifier": "me", "max_tool_calls": 3,
            }),
            Status::Completed,
        ),
        (json!({"input": "annotations"}), Status::Completed),
        (
            json!({"input": "call the weather", "tools": [weather], "tool_choice": choice}),
            Status::Completed,
        ),
        (
            json!({"input": history, "tools": [bare_tool], "tool_choice": "required"}),
            Status::Completed,
        ),
        (
            json!({"input": "think in summary", "reasoning": {"effort": "low", "summary": "auto"}}),
            Status::Completed,
        ),
        (json!({"input": "think aloud"}), Status::Completed),
        (json!({"input": "refuse"}), Status::Completed),
        (
            json!({"input": "the city as json", "text": {"format": format}}),
            Status::Completed,
        ),
        (json!({"input": "fail"}), Status::Failed),
        (json!({"input": "run into the limit"}), Status::Incomplete),
    ]
}

#[tokio::test]
async fn every_event_and_every_body_fits_the_types_of_a_rust_client() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);

    for (question, status) in questions() {
        let streamed = read(stack.stream(&question).await?).await?;
        assert_eq!(streamed.status, status, "{question}");
        reads_back_as(&stack, &streamed).await?;

        let answered = response(&stack.create_json(&question).await?)?;
        assert_eq!(answered.status, status, "{question}");
        reads_back_as(&stack, &answered).await?;
    }
    Ok(())
}

#[tokio::test]
async fn so_does_what_is_not_stored() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);

    for (mut question, status) in questions() {
        question["store"] = false.into();
        let streamed = read(stack.stream(&question).await?).await?;
        assert_eq!(streamed.status, status, "{question}");
        let answered = response(&stack.create_json(&question).await?)?;
        assert_eq!(answered.status, status, "{question}");
    }
    Ok(())
}

#[tokio::test]
async fn so_does_what_runs_in_the_background() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);

    for (mut question, status) in questions() {
        question["background"] = true.into();
        let streamed = read(stack.stream(&question).await?).await?;
        assert_eq!(streamed.status, status, "{question}");
        reads_back_as(&stack, &streamed).await?;

        let queued = response(&stack.create_json(&question).await?)?;
        assert_eq!(queued.status, Status::Queued, "{question}");
        let ended = read(stack.replay(&queued.id, None).await?).await?;
        assert_eq!(ended.status, status, "{question}");
        reads_back_as(&stack, &ended).await?;
    }
    Ok(())
}

#[tokio::test]
async fn so_does_what_runs_and_what_is_deleted() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);
    let mut stream = stack.stream(&json!({"input": "never end"})).await?;
    let head = stream.until_event("response.output_text.delta").await?;
    let id = head[0].json()["response"]["id"].clone();
    let id = id.as_str().context("an id")?;

    let (_, running) = stack.get(id).await?;
    assert_eq!(response(&running)?.status, Status::InProgress);
    let url = stack.url(&format!("/v1/responses/{id}"));
    let deleted = stack
        .http
        .delete(url)
        .send()
        .await?
        .json::<DeleteResponse>()
        .await?;
    assert_eq!((deleted.id.as_str(), deleted.deleted), (id, true));

    head.iter().try_for_each(|frame| event(frame).map(drop))?;
    let cancelled = read(stream).await?;
    assert_eq!(cancelled.status, Status::Cancelled);
    Ok(())
}

/// The response that `stream` ends with, once every event of it has fitted.
async fn read(stream: Reader) -> anyhow::Result<Response> {
    let frames = stream.collect().await?;
    let (done_mark, frames) = frames.split_last().context("an empty stream")?;
    ensure!(done_mark.is_done_mark(), "{done_mark:?} is last");
    let mut last = None;
    for frame in frames {
        last = Some(event(frame)?);
    }
    match last.context("no event")? {
        ResponseStreamEvent::ResponseCompleted(event) => Ok(event.response),
        ResponseStreamEvent::ResponseFailed(event) => Ok(event.response),
        ResponseStreamEvent::ResponseIncomplete(event) => Ok(event.response),
        other => bail!("{other:?} is last"),
    }
}

/// A finished response is the same when it is fetched, and when its stream is replayed.
async fn reads_back_as(stack: &Stack, expected: &Response) -> anyhow::Result<()> {
    let (_, fetched) = stack.get(&expected.id).await?;
    assert_eq!(response(&fetched)?, *expected);
    assert_eq!(
        read(stack.replay(&expected.id, None).await?).await?,
        *expected
    );
    Ok(())
}

fn event(frame: &Frame) -> anyhow::Result<ResponseStreamEvent> {
    let data = frame.data.as_deref().context("no data")?;
    serde_json::from_str(data).with_context(|| data.to_owned())
}

fn response(body: &Value) -> anyhow::Result<Response> {
    serde_json::from_value(body.clone()).with_context(|| body.to_string())
}
