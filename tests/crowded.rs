//! Duplicates where there is room for one run only: the key is worth more than the refusal.

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::{Value, json};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const DUPLICATES: usize = 20;

/// Sends the same request many times at once and expects the same response each time.
async fn one_run_of_many(stack: &Stack, key: &str, body: &Value) -> anyhow::Result<()> {
    let send = |_| async {
        let url = stack.url("/v1/responses");
        let request = stack.http.post(url).header("idempotency-key", key);
        let answer = request.json(body).send().await?;
        let replayed = answer.headers().contains_key("idempotency-replayed");
        let response: Value = answer.error_for_status()?.json().await?;
        anyhow::Ok((response["id"].clone(), replayed))
    };
    let answers = try_join_all((0..DUPLICATES).map(send)).await?;

    let id = &answers.first().context("no answers")?.0;
    assert!(answers.iter().all(|(other, _)| other == id), "{answers:?}");
    let originals = answers.iter().filter(|(_, replayed)| !replayed);
    assert_eq!(originals.count(), 1);
    Ok(())
}

/// REQ-26, REQ-33, REQ-49
#[tokio::test]
async fn duplicates_on_a_server_with_one_place_are_one_run_and_no_refusal() -> anyhow::Result<()> {
    let options = Options {
        runs: "max_concurrent = 1".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let held = ResponsesStream::new().gate("held").text(&["a"]).completed();
    stack.upstream.push(held);

    let body = json!({"input": "x", "background": true});
    one_run_of_many(&stack, "k", &body).await?;

    let other = stack.create(&json!({"input": "y"})).await?;
    assert_eq!(other.status(), 429);
    assert_eq!(stack.upstream.request(0).await?.body["stream"], true);
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

/// REQ-26, REQ-33, REQ-39
#[tokio::test]
async fn duplicates_in_one_conversation_are_one_run_and_no_refusal() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    for on_active in ["reject", "enqueue", "interrupt"] {
        let gate = ResponsesStream::new().gate(on_active).text(&["a"]);
        stack.upstream.push(gate.completed());
        let before = stack.upstream.requests().len();

        let body = json!({
            "input": "x", "background": true, "conversation": on_active, "on_active": on_active,
        });
        one_run_of_many(&stack, on_active, &body).await?;

        stack.upstream.request(before).await?;
        assert_eq!(stack.upstream.requests().len(), before + 1);
        let busy = json!({"input": "y", "conversation": on_active});
        assert_eq!(stack.create(&busy).await?.status(), 409);
    }
    Ok(())
}
