//! Which thread a run belongs to, and what it continues.

use serde_json::{Value, json};
use talaria_testkit::stack::Stack;
use talaria_testkit::upstream::ResponsesStream;

use super::TALARIA;
use super::api::{ended, get, post, started};

/// Runs to the end: the upstream answers `reply`. The run object.
async fn turn(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
    reply: &str,
) -> anyhow::Result<Value> {
    stack
        .upstream
        .push(ResponsesStream::new().text(&[reply]).completed());
    let id = started(&post(stack, "/v1/runs", body, headers).await?)?;
    ended(stack, &id).await
}

/// The texts that the newest request showed the upstream.
fn shown(stack: &Stack) -> Vec<String> {
    let Some(request) = stack.upstream.requests().pop() else {
        return Vec::new();
    };
    let items = request.body["input"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |item: &Value| item["content"][0]["text"].as_str().map(str::to_owned);
    items.iter().filter_map(text).collect()
}

/// REQ-45, REQ-46, REQ-107
#[tokio::test]
async fn a_run_has_the_session_that_it_was_given_or_that_of_its_chain() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let header = [
        ("X-Hermes-Session-Id", "of-header"),
        ("X-Hermes-Session-Key", "memory-1"),
    ];
    let one = turn(
        &stack,
        &json!({"input": "one", "session_id": "mine"}),
        &header,
        "ein",
    )
    .await?;
    assert_eq!(one["session_id"], "mine");

    let chained = json!({"input": "two", "previous_response_id": one["response_id"]});
    let two = turn(&stack, &chained, &[], "zwei").await?;
    assert_eq!(two["session_id"], "mine");
    assert_eq!(shown(&stack), ["one", "ein", "two"]);

    let chained = json!({
        "input": "three", "previous_response_id": two["response_id"], "session_id": "other",
    });
    let three = turn(&stack, &chained, &header, "drei").await?;
    assert_eq!(three["session_id"], "other");
    assert_eq!(shown(&stack), ["one", "ein", "two", "zwei", "three"]);

    let alone = turn(&stack, &json!({"input": "four"}), &[], "vier").await?;
    let digits = alone["session_id"]
        .as_str()
        .unwrap_or_default()
        .replace('-', "");
    assert_eq!(alone["run_id"], format!("run_{digits}"));
    let path = format!("/v1/runs/{}", one["run_id"].as_str().unwrap_or_default());
    let run = get(&stack, &path).await?;
    assert_eq!(run.header("x-hermes-session-id"), Some("mine"));
    assert_eq!(run.header("x-hermes-session-key"), Some("memory-1"));
    Ok(())
}

#[tokio::test]
async fn a_session_goes_on_with_whatever_was_said_in_it_last() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let header = [("X-Hermes-Session-Id", "thread")];
    turn(&stack, &json!({"input": "one"}), &header, "ein").await?;
    let body = json!({"input": "two", "session_id": "thread"});
    turn(&stack, &body, &[], "zwei").await?;
    assert_eq!(shown(&stack), ["one", "ein", "two"]);

    let body = json!({"input": "three", "session_id": "fresh"});
    turn(&stack, &body, &[], "drei").await?;
    assert_eq!(shown(&stack), ["three"]);

    let history = json!([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]);
    let body = json!({"input": "four", "session_id": "thread", "conversation_history": history});
    turn(&stack, &body, &[], "vier").await?;
    assert_eq!(shown(&stack), ["A", "B", "four"]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_run_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let unknown = "resp_0192345678907012800000000000000a";
    for (body, status, code) in [
        (json!({}), 400, json!("missing_required_parameter")),
        (json!({"input": 7}), 400, json!("invalid_type")),
        (
            json!({"input": "a", "store": false}),
            400,
            json!("unsupported_parameter"),
        ),
        (
            json!({"input": "a", "session_id": "../etc"}),
            400,
            Value::Null,
        ),
        (
            json!({"input": "a", "previous_response_id": unknown}),
            404,
            json!("previous_response_not_found"),
        ),
    ] {
        let answer = post(&stack, "/v1/runs", &body, &[]).await?;
        assert_eq!(answer.status, status, "{body}");
        if !code.is_null() {
            assert_eq!(answer.body["error"]["code"], code, "{body}");
        }
    }
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    Ok(())
}
