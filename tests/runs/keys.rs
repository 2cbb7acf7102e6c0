//! Runs that are found again: by key when the answer to their start got lost, and in lists.

use serde_json::{Value, json};
use talaria_testkit::stack::Stack;
use talaria_testkit::upstream::ResponsesStream;

use super::api::{ended, events, get, post, start, started};
use super::{TALARIA, held};

/// The ids of the runs in a list.
fn ids(list: &Value) -> Vec<&str> {
    let runs = list["data"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    runs.iter()
        .filter_map(|run| run["run_id"].as_str())
        .collect()
}

/// REQ-28
#[tokio::test]
async fn a_run_whose_answer_got_lost_is_found_by_its_key() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(held("Hel", "lo."));
    let body = json!({"input": "hi", "session_id": "s"});
    let key = [("Idempotency-Key", "order-66")];
    let id = started(&post(&stack, "/v1/runs", &body, &key).await?)?;

    let found = get(&stack, "/v1/runs?idempotency_key=order-66").await?.body;
    assert_eq!(ids(&found), [id.as_str()]);
    assert_eq!(found["data"][0]["idempotency_key"], "order-66");
    let none = get(&stack, "/v1/runs?idempotency_key=order-67").await?.body;
    let expected = json!({
        "object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false,
    });
    assert_eq!(none, expected);

    events(&stack, &stack.gateways[0], &id, None)
        .await?
        .next()
        .await?;
    let again = post(&stack, "/v1/runs", &body, &key).await?;
    assert_eq!(
        (again.status, &again.body["status"]),
        (202, &json!("running"))
    );
    assert_eq!(
        (&again.body["run_id"], &again.body["replayed"]),
        (&json!(id), &json!(true))
    );
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("x-hermes-session-id"), Some("s"));
    stack.upstream.open("rest");
    ended(&stack, &id).await?;
    let after = post(&stack, "/v1/runs", &body, &key).await?;
    assert_eq!(
        (after.status, &after.body["status"]),
        (202, &json!("completed"))
    );
    assert_eq!(after.body["output"], "Hello.");

    let other = post(&stack, "/v1/runs", &json!({"input": "other"}), &key).await?;
    assert_eq!(other.refusal(), (409, &json!("idempotency_key_conflict")));
    assert_eq!(other.header("x-should-retry"), Some("false"));
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn runs_are_listed_newest_first_by_status_and_session() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let mut runs = Vec::new();
    for (index, session) in ["a", "b", "a", "b"].into_iter().enumerate() {
        let reply = ResponsesStream::new();
        let reply = match index {
            0 => reply.failed("server_error", "The model tripped."),
            3 => reply.text(&["w"]).gate("rest").completed(),
            _ => reply.text(&["x"]).completed(),
        };
        stack.upstream.push(reply);
        let id = start(&stack, &json!({"input": "hi", "session_id": session})).await?;
        if index < 3 {
            ended(&stack, &id).await?;
        } else {
            events(&stack, &stack.gateways[0], &id, None)
                .await?
                .next()
                .await?;
        }
        runs.push(id);
    }
    let [one, two, three, four] = [&runs[0], &runs[1], &runs[2], &runs[3]].map(String::as_str);
    for (query, expected) in [
        (String::new(), vec![four, three, two, one]),
        ("status=failed".to_owned(), vec![one]),
        ("status=running,failed".to_owned(), vec![four, one]),
        ("status=waiting_for_approval".to_owned(), vec![]),
        ("session_id=a".to_owned(), vec![three, one]),
        ("session_id=b&status=completed".to_owned(), vec![two]),
        (format!("after={three}"), vec![two, one]),
        ("session_id=c".to_owned(), vec![]),
    ] {
        let list = get(&stack, &format!("/v1/runs?{query}")).await?.body;
        assert_eq!(ids(&list), expected, "{query}");
    }
    let page = get(&stack, "/v1/runs?limit=2").await?.body;
    assert_eq!(
        (&page["first_id"], &page["last_id"]),
        (&json!(four), &json!(three))
    );
    assert_eq!(page["has_more"], true);
    assert_eq!(
        (&page["data"][1]["status"], &page["data"][1]["output"]),
        (&json!("completed"), &Value::Null)
    );
    let refused = get(&stack, "/v1/runs?status=done").await?;
    assert_eq!(refused.refusal(), (400, &json!("invalid_value")));
    stack.upstream.open("rest");
    Ok(())
}
