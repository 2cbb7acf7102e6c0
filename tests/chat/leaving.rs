//! Clients that leave before their answer is whole.

use std::pin::pin;

use anyhow::Context;
use futures::future::{Either, select};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Stack};
use talaria_testkit::upstream::{Ending, Request};

use crate::support::{
    complete, halting, open, response_id, stack, stack_with, until_content, user,
};

const IN_SESSION: [(&str, &str); 1] = [("x-hermes-session-id", "s")];

/// Leaves a stream after its first words; the completion's id and the request to the upstream.
async fn leave_stream(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<(String, Request)> {
    let number = stack.upstream.requests().len();
    stack.upstream.push(halting());
    let mut reader = open(stack, body, headers).await?;
    let seen = until_content(&mut reader).await?;
    drop(reader);
    let id = seen[0].json()["id"].as_str().context("an id")?.to_owned();
    Ok((response_id(&id), stack.upstream.request(number).await?))
}

/// Leaves while the whole answer is waited for.
async fn leave_answer(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<Request> {
    let number = stack.upstream.requests().len();
    stack.upstream.push(halting());
    let answer = pin!(complete(stack, body, headers));
    let asked = pin!(stack.upstream.request(number));
    match select(answer, asked).await {
        Either::Left((answer, _)) => anyhow::bail!("answered too early: {answer:?}"),
        Either::Right((request, _client)) => request,
    }
}

fn stored() -> Value {
    let mut body = user("hi");
    body["store"] = true.into();
    body
}

/// The run that the client left ends whole, and can be read.
async fn goes_on(stack: &Stack, id: &str, request: &Request) -> anyhow::Result<()> {
    assert_eq!(request.ending(), None);
    stack.upstream.open("rest");
    let frames = stack.replay(id, None).await?.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("completed", "Hello")
    );
    assert_eq!(request.closed().await?, Ending::Completed);
    Ok(())
}

/// REQ-93
#[tokio::test]
async fn a_completion_that_nobody_keeps_ends_with_its_client() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;

    let (_, streamed) = leave_stream(&stack, &user("hi"), &[]).await?;
    assert_eq!(streamed.closed().await?, Ending::ClientGone);
    let waited_for = leave_answer(&stack, &user("hi"), &[]).await?;
    assert_eq!(waited_for.closed().await?, Ending::ClientGone);

    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn a_session_s_completion_goes_on_without_its_client() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;

    let (id, request) = leave_stream(&stack, &user("hi"), &IN_SESSION).await?;
    // Once the going of a later client was noticed, so was that of the one before.
    let (_, later) = leave_stream(&stack, &user("hi"), &[]).await?;
    assert_eq!(later.closed().await?, Ending::ClientGone);

    goes_on(&stack, &id, &request).await
}

#[tokio::test]
async fn a_completion_that_is_only_stored_is_cancelled_when_its_client_leaves() -> anyhow::Result<()>
{
    let stack = stack(ApiKind::Responses).await?;

    let (id, streamed) = leave_stream(&stack, &stored(), &[]).await?;
    assert_eq!(streamed.closed().await?, Ending::ClientGone);
    let waited_for = leave_answer(&stack, &stored(), &[]).await?;
    assert_eq!(waited_for.closed().await?, Ending::ClientGone);

    // It is cancelled for good when its last event can be read.
    let frames = stack.replay(&id, None).await?.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("cancelled", "Hel")
    );
    Ok(())
}

#[tokio::test]
async fn the_setting_decides_for_all_of_them() -> anyhow::Result<()> {
    let detaching = stack_with(ApiKind::Responses, "chat_disconnect = \"detach\"").await?;
    let (id, request) = leave_stream(&detaching, &user("hi"), &[]).await?;
    let unstored = json!({"store": false, "messages": user("hi")["messages"]});
    let (_, later) = leave_stream(&detaching, &unstored, &[]).await?;
    assert_eq!(later.closed().await?, Ending::ClientGone);
    goes_on(&detaching, &id, &request).await?;

    let cancelling = stack_with(ApiKind::Responses, "chat_disconnect = \"cancel\"").await?;
    let (id, request) = leave_stream(&cancelling, &user("hi"), &IN_SESSION).await?;
    assert_eq!(request.closed().await?, Ending::ClientGone);
    let frames = cancelling.replay(&id, None).await?.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.status, "cancelled");
    Ok(())
}
