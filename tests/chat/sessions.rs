//! Sessions: the history comes from the store, whichever API made it.

use serde_json::{Value, json};
use talaria_testkit::stack::ApiKind;

use crate::support::{
    complete, frames, header, post, put_together, response_id, says, shown, stack, user,
};

const SESSION: &str = "x-hermes-session-id";

fn thread(texts: &[&str]) -> Value {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = roles
        .zip(texts)
        .map(|(role, text)| json!({"role": role, "content": text}));
    json!({"messages": messages.collect::<Vec<_>>()})
}

/// REQ-80, REQ-81
#[tokio::test]
async fn a_session_continues_from_the_store_and_not_from_the_body() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    for text in ["1", "2", "3"] {
        stack.upstream.push(says(kind, &[text]));
    }
    let headers = [(SESSION, "pineapple"), ("x-hermes-session-key", "ann")];

    let first = post(&stack, &user("One"), &headers).await?;
    assert_eq!(header(&first, SESSION), "pineapple");
    assert_eq!(header(&first, "x-hermes-session-key"), "ann");
    let first: Value = first.json().await?;
    let second = frames(&stack, &thread(&["forged", "history", "Two"]), &headers).await?;
    let other = complete(&stack, &user("Three"), &[(SESSION, "other")]).await?;

    assert_eq!(put_together(&second)?.content, "2");
    assert_eq!(
        shown(&stack, 1).await?,
        "user: One\nassistant: 1\nuser: Two"
    );
    assert_eq!(shown(&stack, 2).await?, "user: Three");
    for id in [&first["id"], &other["id"]] {
        let id = response_id(id.as_str().unwrap_or_default());
        let (status, response) = stack.get(&id).await?;
        assert_eq!((status, &response["status"]), (200, &json!("completed")));
    }
    Ok(())
}

/// REQ-80
#[tokio::test]
async fn chat_and_responses_share_their_sessions() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    for text in ["1", "2", "3"] {
        stack.upstream.push(says(kind, &[text]));
    }
    let created = stack
        .http
        .post(stack.url("/v1/responses"))
        .header(SESSION, "s");
    let created = created.json(&json!({"input": "One"})).send().await?;
    let created: Value = created.json().await?;

    let chat = complete(&stack, &user("Two"), &[(SESSION, "s")]).await?;
    let previous = response_id(chat["id"].as_str().unwrap_or_default());
    let chained = json!({"input": "Three", "previous_response_id": previous});
    let chained = stack.create(&chained).await?;

    assert_eq!(created["status"], "completed");
    assert_eq!(header(&chained, SESSION), "s");
    assert_eq!(chained.json::<Value>().await?["status"], "completed");
    let all = "user: One\nassistant: 1\nuser: Two\nassistant: 2\nuser: Three";
    assert_eq!(shown(&stack, 2).await?, all);
    Ok(())
}

#[tokio::test]
async fn a_turn_that_is_not_stored_reads_a_session_and_leaves_no_trace() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    for text in ["1", "2", "3"] {
        stack.upstream.push(says(kind, &[text]));
    }
    let headers = [(SESSION, "s")];
    complete(&stack, &user("One"), &headers).await?;
    let before = stack.rows().await?;

    let mut ephemeral = user("Two");
    ephemeral["store"] = false.into();
    complete(&stack, &ephemeral, &headers).await?;
    assert_eq!(stack.rows().await?, before);
    complete(&stack, &user("Three"), &headers).await?;

    assert_eq!(
        shown(&stack, 1).await?,
        "user: One\nassistant: 1\nuser: Two"
    );
    assert_eq!(
        shown(&stack, 2).await?,
        "user: One\nassistant: 1\nuser: Three"
    );
    Ok(())
}

/// REQ-79, REQ-81
#[tokio::test]
async fn one_conversation_is_one_session_whoever_keeps_its_history() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let mut sessions = Vec::new();
    for body in [
        thread(&["One"]),
        thread(&["One", "1", "Two"]),
        thread(&["Uno"]),
    ] {
        stack.upstream.push(says(kind, &["x"]));
        sessions.push(header(&post(&stack, &body, &[]).await?, SESSION));
    }

    assert_eq!(sessions[0], sessions[1]);
    assert_ne!(sessions[0], sessions[2]);
    assert_eq!(
        shown(&stack, 1).await?,
        "user: One\nassistant: 1\nuser: Two"
    );
    Ok(())
}

#[tokio::test]
async fn a_session_id_that_could_be_a_path_is_refused() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    let long = "x".repeat(257);
    for (id, message) in [
        ("../etc", "Invalid session ID"),
        ("c:x", "Invalid session ID"),
        (long.as_str(), "Session ID too long"),
    ] {
        let answer = post(&stack, &user("x"), &[(SESSION, id)]).await?;

        assert_eq!(answer.status(), 400, "{id}");
        assert_eq!(answer.json::<Value>().await?["error"]["message"], message);
    }
    assert_eq!(stack.upstream.requests().len(), 0);
    Ok(())
}
