//! A stored run outlives its client; one that is not stored ends with it and leaves no trace.

use std::time::Duration;

use anyhow::Context;
use futures::future::{Either, select};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::Stack;
use talaria_testkit::upstream::{Ending, Request, ResponsesStream};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// REQ-19, REQ-20, REQ-24
#[tokio::test]
async fn an_ephemeral_stream_is_whole_and_was_never_there() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let answer = ResponsesStream::new()
        .open_text()
        .deltas(&["Hel"])
        .gate("rest");
    stack
        .upstream
        .push(answer.deltas(&["lo"]).close().completed());

    let mut reader = stack
        .stream(&json!({"input": "hi", "store": false}))
        .await?;
    let mut frames = reader.until_event("response.output_text.delta").await?;
    let id = response_id(&frames)?;
    assert_eq!(stack.get(&id).await?.0, 404, "while it runs");
    assert_eq!(stack.rows().await?, [] as [String; 0], "while it runs");
    stack.upstream.open("rest");
    frames.extend(reader.collect().await?);

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("completed", "Hello")
    );
    assert_eq!(seen.response["store"], false);
    let url = stack.url(&format!("/v1/responses/{id}"));
    assert_eq!(stack.get(&id).await?.0, 404);
    assert_eq!(stack.http.delete(&url).send().await?.status(), 404);
    let replay = stack.http.get(format!("{url}?stream=true")).send().await?;
    assert_eq!(replay.status(), 404);
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

/// REQ-20, REQ-22
#[tokio::test]
async fn an_ephemeral_answer_is_whole_and_was_never_there() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let answer = ResponsesStream::new().text(&["Hello"]).completed();
    stack.upstream.push(answer);

    let response = stack
        .create_json(&json!({"input": "hi", "store": false}))
        .await?;

    assert_eq!(response["status"], "completed");
    assert_eq!(response["store"], false);
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello");
    let id = response["id"].as_str().context("an id")?;
    assert_eq!(stack.get(id).await?.0, 404);
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

/// REQ-18
#[tokio::test]
async fn an_ephemeral_run_ends_with_the_connection_of_its_client() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;

    let streamed = leave_stream(&stack, false).await?;
    assert_eq!(streamed.closed().await?, Ending::ClientGone);
    let waited_for = leave_answer(&stack, false).await?;
    assert_eq!(waited_for.closed().await?, Ending::ClientGone);

    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

/// REQ-6, REQ-7, REQ-17
#[tokio::test]
async fn a_stored_run_goes_on_without_the_client_that_streamed_it() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;

    let request = leave_stream(&stack, true).await?;

    goes_on(&stack, &request).await
}

/// REQ-6, REQ-24
#[tokio::test]
async fn a_stored_run_goes_on_without_the_client_that_waited_for_it() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;

    let request = leave_answer(&stack, true).await?;

    goes_on(&stack, &request).await
}

#[tokio::test]
async fn an_ephemeral_turn_leaves_its_conversation_as_it_was() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let answer = || ResponsesStream::new().text(&["Hello"]).completed();
    stack.upstream.push(answer());
    let first = stack
        .create_json(&json!({"input": "one", "conversation": "c"}))
        .await?;
    let before = stack.rows().await?;

    stack.upstream.push(answer());
    let ephemeral = json!({"input": "two", "conversation": "c", "store": false});
    stack.create_json(&ephemeral).await?;
    assert_eq!(stack.rows().await?, before);
    stack.upstream.push(answer());
    stack
        .create_json(&json!({"input": "three", "conversation": "c"}))
        .await?;

    assert_eq!(first["status"], "completed");
    let asked: Vec<String> = inputs(&stack.upstream.request(2).await?.body);
    assert_eq!(asked, ["one", "Hello", "three"]);
    Ok(())
}

/// Leaves a stream after its first words, with the model still speaking.
async fn leave_stream(stack: &Stack, store: bool) -> anyhow::Result<Request> {
    let number = stack.upstream.requests().len();
    push_halting_answer(stack);
    let mut reader = stack
        .stream(&json!({"input": "hi", "store": store}))
        .await?;
    reader.until_event("response.output_text.delta").await?;
    drop(reader);
    stack.upstream.request(number).await
}

/// Leaves while the whole answer is still waited for, with the model already asked.
async fn leave_answer(stack: &Stack, store: bool) -> anyhow::Result<Request> {
    let number = stack.upstream.requests().len();
    push_halting_answer(stack);
    let body = json!({"input": "hi", "store": store});
    let answer = std::pin::pin!(stack.create_json(&body));
    let asked = std::pin::pin!(stack.upstream.request(number));
    match select(answer, asked).await {
        Either::Left((answer, _)) => anyhow::bail!("answered too early: {answer:?}"),
        Either::Right((request, _client)) => request,
    }
}

fn push_halting_answer(stack: &Stack) {
    let answer = ResponsesStream::new()
        .open_text()
        .deltas(&["Hel"])
        .gate("rest");
    stack
        .upstream
        .push(answer.deltas(&["lo"]).close().completed());
}

/// The one stored run has not noticed that its client is gone: it ends, and is stored whole.
async fn goes_on(stack: &Stack, request: &Request) -> anyhow::Result<()> {
    // Once the going of a later client was noticed, so was that of the one before.
    let later = leave_stream(stack, false).await?;
    assert_eq!(later.closed().await?, Ending::ClientGone);
    assert_eq!(request.ending(), None);
    let id = only_id(stack).await?;
    assert_eq!(stack.get(&id).await?.1["status"], "in_progress");

    stack.upstream.open("rest");
    let frames = stack.replay(&id, None).await?.collect().await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("completed", "Hello")
    );
    assert_eq!(seen.attempts, 1);
    assert_eq!(request.closed().await?, Ending::Completed);
    assert_eq!(stack.get(&id).await?, (200, seen.response));
    Ok(())
}

fn response_id(frames: &[Frame]) -> anyhow::Result<String> {
    let first = frames.first().context("no frames")?.json();
    let id = first["response"]["id"].as_str();
    Ok(id.with_context(|| format!("no id in {first}"))?.to_owned())
}

/// The id of the one response in the database, which its client never learned.
async fn only_id(stack: &Stack) -> anyhow::Result<String> {
    let database = stack.database().context("a database of one's own")?;
    let session = database.connect().await?;
    // A run that is only waited for is written down some milliseconds after it began.
    within("the response to be stored", async {
        loop {
            let sql = "SELECT 'resp_' || replace(id::text, '-', '') FROM response";
            if let Some(row) = session.query_opt(sql, &[]).await? {
                return Ok(row.get(0));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await?
}

/// The texts that the model was shown.
fn inputs(body: &Value) -> Vec<String> {
    let items = body["input"].as_array().cloned().unwrap_or_default();
    let text = |item: Value| match &item["content"] {
        Value::String(text) => text.clone(),
        parts => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
    };
    items.into_iter().map(text).collect()
}
