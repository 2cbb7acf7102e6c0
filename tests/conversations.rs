//! The Conversations API: made, filled, continued by responses, listed, emptied, forgotten.

use anyhow::Context;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// An answer below `/v1/conversations`: its status and body.
async fn call(
    stack: &Stack,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Value)> {
    let url = stack.url(&format!("/v1/conversations{path}"));
    let mut request = stack.http.request(method, url);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    let body = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
    Ok((status.as_u16(), body))
}

async fn get(stack: &Stack, path: &str) -> anyhow::Result<(u16, Value)> {
    call(stack, Method::GET, path, None).await
}

async fn post(stack: &Stack, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    call(stack, Method::POST, path, Some(body)).await
}

async fn delete(stack: &Stack, path: &str) -> anyhow::Result<(u16, Value)> {
    call(stack, Method::DELETE, path, None).await
}

/// A new conversation: its path.
async fn create(stack: &Stack, body: &Value) -> anyhow::Result<(String, Value)> {
    let (status, conversation) = post(stack, "", body).await?;
    assert_eq!(status, StatusCode::OK, "{conversation}");
    let id = conversation["id"].as_str().context("no id")?;
    Ok((format!("/{id}"), conversation))
}

/// A whole turn in the conversation.
async fn turn(
    stack: &Stack,
    conversation: &str,
    input: &str,
    reply: &str,
) -> anyhow::Result<Value> {
    stack
        .upstream
        .push(ResponsesStream::new().text(&[reply]).completed());
    let body = json!({"input": input, "conversation": conversation});
    stack.create_json(&body).await
}

fn texts(items: &Value) -> Vec<&str> {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["content"][0]["text"].as_str())
        .collect()
}

/// The texts of a conversation's items, oldest first.
async fn said(stack: &Stack, path: &str) -> anyhow::Result<Vec<String>> {
    let (_, list) = get(stack, &format!("{path}/items?order=asc&limit=100")).await?;
    Ok(texts(&list["data"])
        .into_iter()
        .map(str::to_owned)
        .collect())
}

/// The texts that the newest request showed the upstream.
fn shown(stack: &Stack) -> Vec<String> {
    let request = stack.upstream.requests().pop();
    let input = request.map_or(Value::Null, |request| request.body["input"].clone());
    texts(&input).into_iter().map(str::to_owned).collect()
}

fn message(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": text})
}

#[tokio::test]
async fn a_conversation_is_made_changed_and_forgotten() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let (path, mut made) = create(&stack, &json!({"metadata": {"topic": "demo"}})).await?;
    let id = made["id"].clone();
    assert!(made["created_at"].take().is_u64());
    let expected = json!({
        "id": id, "object": "conversation", "created_at": null, "metadata": {"topic": "demo"},
        "name": null, "latest_completed_response_id": null, "active_response_id": null,
    });
    assert_eq!(made, expected);

    let (_, changed) = post(&stack, &path, &json!({"metadata": {"topic": "other"}})).await?;
    assert_eq!(changed["metadata"], json!({"topic": "other"}));
    assert_eq!(get(&stack, &path).await?, (200, changed));

    let gone = json!({"id": id, "object": "conversation.deleted", "deleted": true});
    assert_eq!(delete(&stack, &path).await?, (200, gone));
    let message = format!(
        "Conversation with id '{}' not found.",
        id.as_str().unwrap_or_default()
    );
    let not_found = json!({"error": {
        "message": message, "type": "invalid_request_error", "param": null, "code": null,
    }});
    for again in [
        get(&stack, &path).await?,
        delete(&stack, &path).await?,
        post(&stack, &path, &json!({"metadata": {}})).await?,
        get(&stack, &format!("{path}/items")).await?,
        post(
            &stack,
            &format!("{path}/items"),
            &json!({"items": [message.as_str()]}),
        )
        .await?,
        delete(&stack, &format!("{path}/items/msg_1")).await?,
    ] {
        assert_eq!(again, (404, not_found.clone()));
    }
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_conversation_may_be_made_without_a_body() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let (status, made) = call(&stack, Method::POST, "", None).await?;

    assert_eq!((status, &made["metadata"]), (200, &json!({})));
    let url = stack.url("/v1/conversations");
    let answer = stack.http.post(url).body("items").send().await?;
    assert_eq!(answer.status(), 415);
    Ok(())
}

#[tokio::test]
async fn responses_go_on_with_the_items_and_add_their_own() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let (path, made) = create(&stack, &json!({"items": [message("zero")]})).await?;
    let id = made["id"].as_str().unwrap_or_default();

    let first = turn(&stack, id, "one", "ein").await?;
    assert_eq!(shown(&stack), ["zero", "one"]);
    let items = json!({"items": [message("aside"), {"role": "assistant", "content": "noted"}]});
    let (status, added) = post(&stack, &format!("{path}/items"), &items).await?;
    assert_eq!(
        (status, texts(&added["data"])),
        (200, vec!["aside", "noted"])
    );
    turn(&stack, id, "two", "zwei").await?;

    let all = ["zero", "one", "ein", "aside", "noted", "two", "zwei"];
    assert_eq!(shown(&stack), all[..6]);
    assert_eq!(said(&stack, &path).await?, all);
    let (_, conversation) = get(&stack, &path).await?;
    assert_ne!(conversation["latest_completed_response_id"], first["id"]);
    let (_, newest) = get(&stack, &format!("{path}/items?limit=2")).await?;
    assert_eq!(
        (texts(&newest["data"]), &newest["has_more"]),
        (vec!["zwei", "two"], &json!(true))
    );
    let after = newest["last_id"].as_str().unwrap_or_default();
    let (_, older) = get(&stack, &format!("{path}/items?limit=2&after={after}")).await?;
    assert_eq!(texts(&older["data"]), ["noted", "aside"]);
    let one = get(&stack, &format!("{path}/items/{after}")).await?;
    assert_eq!(one, (200, newest["data"][1].clone()));
    let (status, _) = get(&stack, &format!("{path}/items?after=msg_1")).await?;
    assert_eq!(status, 400);
    Ok(())
}

#[tokio::test]
async fn an_item_that_is_taken_out_is_not_shown_to_the_model_again() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let items = json!({"items": [message("zero"), message("secret")]});
    let (path, made) = create(&stack, &items).await?;
    let id = made["id"].as_str().unwrap_or_default();
    let first = turn(&stack, id, "one", "ein").await?;
    let (_, list) = get(&stack, &format!("{path}/items?order=asc")).await?;

    for index in [1, 3] {
        let item = list["data"][index]["id"].as_str().unwrap_or_default();
        let deleted = delete(&stack, &format!("{path}/items/{item}")).await?;
        assert_eq!(deleted, get(&stack, &path).await?);
        assert_eq!(get(&stack, &format!("{path}/items/{item}")).await?.0, 404);
        assert_eq!(
            delete(&stack, &format!("{path}/items/{item}")).await?.0,
            404
        );
    }

    assert_eq!(said(&stack, &path).await?, ["zero", "one"]);
    turn(&stack, id, "two", "zwei").await?;
    assert_eq!(shown(&stack), ["zero", "one", "two"]);
    let (_, kept) = stack.get(first["id"].as_str().unwrap_or_default()).await?;
    assert_eq!(texts(&kept["output"]), ["ein"]);
    Ok(())
}

#[tokio::test]
async fn items_that_are_added_at_the_same_moment_are_all_there() -> anyhow::Result<()> {
    const CLIENTS: usize = 30;
    let stack = Stack::serve(TALARIA).await?;
    let (path, _) = create(&stack, &json!({})).await?;
    let items_path = format!("{path}/items");
    let add = async |index: usize| {
        let items =
            json!({"items": [message(&format!("a{index}")), message(&format!("b{index}"))]});
        post(&stack, &items_path, &items).await
    };

    for (status, added) in try_join_all((0..CLIENTS).map(add)).await? {
        assert_eq!(status, 200, "{added}");
    }

    let mut said = said(&stack, &path).await?;
    for pair in said.chunks(2) {
        assert_eq!(pair[0].replace('a', "b"), pair[1]);
    }
    said.sort_unstable();
    said.dedup();
    assert_eq!(said.len(), 2 * CLIENTS);
    Ok(())
}

/// REQ-37
#[tokio::test]
async fn a_busy_conversation_keeps_its_items_as_they_are() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let (path, made) = create(&stack, &json!({"items": [message("zero")]})).await?;
    let (_, list) = get(&stack, &format!("{path}/items")).await?;
    let item = list["data"][0]["id"].as_str().unwrap_or_default();
    let held = ResponsesStream::new()
        .open_text()
        .deltas(&["a"])
        .gate("rest");
    stack.upstream.push(held.close().completed());
    let body = json!({"input": "one", "conversation": made["id"], "background": true});
    let active = stack.create_json(&body).await?;

    assert_eq!(
        get(&stack, &path).await?.1["active_response_id"],
        active["id"]
    );
    for refused in [
        post(
            &stack,
            &format!("{path}/items"),
            &json!({"items": [message("x")]}),
        )
        .await?,
        delete(&stack, &format!("{path}/items/{item}")).await?,
        delete(&stack, &path).await?,
    ] {
        let code = &refused.1["error"]["code"];
        assert_eq!(
            (refused.0, code),
            (409, &json!("conversation_response_not_completed"))
        );
    }
    let changed = post(&stack, &path, &json!({"metadata": {"a": "b"}})).await?;
    assert_eq!(changed.0, 200);

    stack.upstream.open("rest");
    let id = active["id"].as_str().unwrap_or_default();
    stack.replay(id, None).await?.collect().await?;
    assert_eq!(said(&stack, &path).await?, ["zero", "one", "a"]);
    let (_, conversation) = get(&stack, &path).await?;
    assert_eq!(conversation["latest_completed_response_id"], active["id"]);
    assert_eq!(conversation["active_response_id"], Value::Null);
    Ok(())
}

/// REQ-47
#[tokio::test]
async fn a_conversation_by_name_is_one_like_any_other() -> anyhow::Result<()> {
    let mut stack = Stack::serve_with(TALARIA, Options::default()).await?;
    turn(&stack, "my project/7", "one", "ein").await?;
    let path = "/my%20project%2F7";
    let (status, named) = get(&stack, path).await?;
    assert_eq!((status, &named["name"]), (200, &json!("my project/7")));

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let by_id = format!("/{}", named["id"].as_str().unwrap_or_default());
    assert_eq!(get(&stack, &by_id).await?, (200, named));
    post(
        &stack,
        &format!("{path}/items"),
        &json!({"items": [message("aside")]}),
    )
    .await?;
    turn(&stack, "my project/7", "two", "zwei").await?;

    assert_eq!(shown(&stack), ["one", "ein", "aside", "two"]);
    assert_eq!(
        said(&stack, &by_id).await?,
        ["one", "ein", "aside", "two", "zwei"]
    );
    assert_eq!(delete(&stack, path).await?.0, 200);
    turn(&stack, "my project/7", "three", "drei").await?;
    assert_eq!(shown(&stack), ["three"]);
    Ok(())
}

#[tokio::test]
async fn responses_outlive_their_conversation_and_items_their_response() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let (path, made) = create(&stack, &json!({})).await?;
    let id = made["id"].as_str().unwrap_or_default();
    let one = turn(&stack, id, "one", "ein").await?;
    let two = turn(&stack, id, "two", "zwei").await?;
    let response = |response: &Value| {
        stack.url(&format!(
            "/v1/responses/{}",
            response["id"].as_str().unwrap_or_default()
        ))
    };

    stack
        .http
        .delete(response(&two))
        .send()
        .await?
        .error_for_status()?;
    assert_eq!(said(&stack, &path).await?, ["one", "ein", "two", "zwei"]);
    assert_eq!(
        get(&stack, &path).await?.1["latest_completed_response_id"],
        Value::Null
    );
    delete(&stack, &path).await?;
    let kept: Value = stack.http.get(response(&one)).send().await?.json().await?;
    assert_eq!(texts(&kept["output"]), ["ein"]);
    let again = stack
        .create(&json!({"input": "x", "conversation": id}))
        .await?;
    assert_eq!(again.status(), 404);
    Ok(())
}

#[tokio::test]
async fn what_makes_no_conversation_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    for (body, code, param) in [
        (
            json!({"items": vec![message("x"); 21]}),
            "array_above_max_length",
            "items",
        ),
        (json!({"items": "x"}), "invalid_type", "items"),
        (
            json!({"metadata": {"a": "x".repeat(513)}}),
            "string_above_max_length",
            "metadata.a",
        ),
        (
            json!({"items": [{"type": "item_reference", "id": "msg_1"}]}),
            "invalid_value",
            "items[0]",
        ),
    ] {
        let (status, refused) = post(&stack, "", &body).await?;
        let error = &refused["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param))
        );
    }
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    Ok(())
}
