//! Idempotency keys: a completion that is asked for again is the same one.

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::Ending;

use crate::TALARIA;
use crate::support::{
    halting, header, open, post, put_together, response_id, says, stack, until_content, user,
};

const KEYED: [(&str, &str); 1] = [("idempotency-key", "k-1")];
const REPLAYED: &str = "idempotency-replayed";

#[tokio::test]
async fn the_same_key_and_request_is_the_same_answer() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    stack.upstream.push(says(kind, &["Hel", "lo"]));

    let first = post(&stack, &user("hi"), &KEYED).await?;
    let again = post(&stack, &user("hi"), &KEYED).await?;
    let other = post(&stack, &user("ho"), &KEYED).await?;

    let headers = |answer: &reqwest::Response| {
        let session = header(answer, "x-hermes-session-id");
        (header(answer, REPLAYED), session)
    };
    let (not_replayed, session) = headers(&first);
    assert_eq!(not_replayed, "");
    assert_eq!(headers(&again), ("true".to_owned(), session));
    let first: Value = first.json().await?;
    assert_eq!(again.json::<Value>().await?, first);
    assert_eq!(other.status(), 409);
    assert_eq!(header(&other, "x-should-retry"), "false");
    assert_eq!(
        other.json::<Value>().await?["error"]["code"],
        "idempotency_key_conflict"
    );
    assert_eq!(stack.upstream.requests().len(), 1);
    let id = response_id(first["id"].as_str().unwrap_or_default());
    assert_eq!(stack.get(&id).await?.1["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_was_left_is_seen_again_from_its_first_byte() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    stack.upstream.push(halting());
    let mut body = user("hi");
    body["stream"] = true.into();

    let mut first = open(&stack, &body, &KEYED).await?;
    let head = until_content(&mut first).await?;
    drop(first);
    let again = post(&stack, &body, &KEYED).await?;
    assert_eq!(header(&again, REPLAYED), "true");
    let mut again = Reader::new(again).await?;
    let mut live = until_content(&mut again).await?;
    assert_eq!(raw(&live), raw(&head));
    stack.upstream.open("rest");
    live.extend(again.collect().await?);
    let replayed = open(&stack, &body, &KEYED).await?.collect().await?;

    assert_eq!(put_together(&live)?.content, "Hello");
    assert_eq!(raw(&replayed), raw(&live));
    let request = stack.upstream.request(0).await?;
    assert_eq!(request.closed().await?, Ending::Completed);
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_keyed_answer_survives_the_server_that_was_giving_it() -> anyhow::Result<()> {
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.push(halting());
    let whole = says(ApiKind::Responses, &["Hel", "lo"]);
    stack.upstream.push(whole);
    let mut body = user("hi");
    body["stream"] = true.into();

    let mut first = open(&stack, &body, &KEYED).await?;
    let head = until_content(&mut first).await?;
    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let again = open(&stack, &body, &KEYED).await?.collect().await?;

    assert_eq!(raw(&again)[..head.len()], raw(&head));
    let put = put_together(&again)?;
    // What was shown cannot be taken back: the second attempt stands apart from it.
    assert_eq!(
        (put.content.as_str(), put.finish.as_str()),
        ("Hel\n\nHello", "stop")
    );
    Ok(())
}

#[tokio::test]
async fn a_key_needs_something_to_be_kept() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    let mut body = user("hi");
    body["store"] = json!("no");

    let refused = post(&stack, &body, &KEYED).await?;
    let malformed = post(&stack, &user("hi"), &[("idempotency-key", "a b")]).await?;

    assert_eq!(
        (refused.status().as_u16(), malformed.status().as_u16()),
        (400, 400)
    );
    let code = |body: Value| body["error"]["code"].as_str().map(str::to_owned);
    let refused = code(refused.json().await?).context("a code")?;
    let malformed = code(malformed.json().await?).context("a code")?;
    assert_eq!(refused, "idempotency_requires_store");
    assert_eq!(malformed, "invalid_idempotency_key");
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

fn raw(frames: &[Frame]) -> Vec<&[u8]> {
    frames.iter().map(|frame| &frame.raw[..]).collect()
}
