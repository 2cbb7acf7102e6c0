//! Tools: the client's own are called, the upstream's are progress.

use std::time::Duration;

use serde_json::{Value, json};
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::support::{
    KINDS, complete, frames, open, put_together, says, shown, stack, stack_with, user,
};

fn calls(kind: ApiKind) -> Script {
    let deltas = ["{\"city\":", "\"Oslo\"}"];
    match kind {
        ApiKind::Responses => {
            let stream = ResponsesStream::new().function_call("call_0", "weather", &deltas);
            stream
                .function_call("call_1", "weather", &deltas)
                .completed()
        }
        ApiKind::ChatCompletions => {
            let stream = ChatStream::new().function_call("call_0", "weather", &deltas);
            stream
                .function_call("call_1", "weather", &deltas)
                .finish("tool_calls")
        }
    }
}

fn asking() -> Value {
    let mut body = user("How is Oslo?");
    body["tools"] = json!([{"type": "function", "function": {
        "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }}]);
    body
}

fn called(index: Option<u8>, id: &str) -> Value {
    let mut call = json!({"id": id, "type": "function",
        "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
    if let Some(index) = index {
        call["index"] = index.into();
    }
    call
}

#[tokio::test]
async fn the_client_s_tools_go_round() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(calls(kind));
        stack.upstream.push(calls(kind));
        stack.upstream.push(says(kind, &["Wet."]));

        let put = put_together(&frames(&stack, &asking(), &[]).await?)?;
        let whole = complete(&stack, &asking(), &[]).await?;

        assert_eq!(put.finish, "tool_calls");
        assert_eq!(
            put.calls,
            [called(Some(0), "call_0"), called(Some(1), "call_1")]
        );
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(
            choice["message"],
            json!({
                "role": "assistant", "content": null, "refusal": null, "annotations": [],
                "tool_calls": [called(None, "call_0"), called(None, "call_1")],
            })
        );

        let mut answered = asking();
        let messages = answered["messages"].as_array_mut().expect("messages");
        messages.push(choice["message"].clone());
        for id in ["call_1", "call_0"] {
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": "rain"}));
        }
        let ended = complete(&stack, &answered, &[]).await?;

        assert_eq!(ended["choices"][0]["message"]["content"], "Wet.");
        assert_eq!(
            shown(&stack, 2).await?.lines().next(),
            Some("user: How is Oslo?")
        );
        assert_eq!(stack.rows().await?, [] as [String; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn half_of_an_exchange_with_a_tool_is_refused() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    let call =
        json!({"role": "assistant", "content": null, "tool_calls": [called(None, "call_0")]});
    let output = json!({"role": "tool", "tool_call_id": "call_7", "content": "x"});
    for second in [call, output] {
        let body = json!({"messages": [{"role": "user", "content": "x"}, second]});
        let answer = crate::support::post(&stack, &body, &[]).await?;

        assert_eq!(answer.status(), 400);
        let error: Value = answer.json().await?;
        assert_eq!(error["error"]["param"], "messages", "{error}");
    }
    Ok(())
}

/// An answer for which the upstream itself searches the web.
fn searches() -> Script {
    let item = |status: &str| json!({"id": "ws_1", "type": "web_search_call", "status": status});
    let stream = ResponsesStream::new().begin_item(&item("in_progress"));
    stream
        .end_item(item("completed"))
        .text(&["Found."])
        .completed()
}

fn progress(frames: &[Frame]) -> Vec<Value> {
    let progress = frames
        .iter()
        .filter(|frame| frame.event.as_deref() == Some("hermes.tool.progress"));
    progress.map(Frame::json).collect()
}

/// REQ-65, REQ-66, REQ-67, REQ-68, REQ-71, REQ-75
#[tokio::test]
async fn a_tool_that_is_run_elsewhere_shows_as_progress() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    stack.upstream.push(searches());

    let seen = frames(&stack, &user("search"), &[]).await?;

    let put = put_together(&seen)?;
    assert_eq!((put.content.as_str(), put.calls.len()), ("Found.", 0));
    let [start, end] = &progress(&seen)[..] else {
        anyhow::bail!("not a start and an end: {seen:?}");
    };
    let id = &start["toolCallId"];
    assert_eq!(
        *start,
        json!({"tool": "web_search", "emoji": "🔍", "label": "web_search", "toolCallId": id, "status": "running"})
    );
    assert_eq!(
        *end,
        json!({"tool": "web_search", "toolCallId": id, "status": "completed"})
    );
    let ended = seen.iter().rposition(|frame| frame.event.is_some());
    let said = seen
        .iter()
        .position(|frame| frame.json()["choices"][0]["delta"]["content"] == "Found.");
    assert!(ended < said, "the end comes before the text");
    Ok(())
}

/// REQ-69
#[tokio::test]
async fn a_stream_that_has_nothing_to_show_shows_that_it_lives() -> anyhow::Result<()> {
    let stack = stack_with(ApiKind::Responses, "keepalive_seconds = 1").await?;
    let paced = ResponsesStream::new().pace(Duration::from_millis(250));
    let hidden = paced.function_call(
        "call_0",
        "_think",
        &["{", " ", " ", " ", " ", " ", " ", "}"],
    );
    stack.upstream.push(hidden.text(&["Done."]).completed());

    let mut reader = open(&stack, &user("think"), &[]).await?;
    let (seen, _) = reader.collect_however_it_ends().await?;

    assert_eq!(put_together(&seen)?.content, "Done.");
    assert_eq!(progress(&seen), [] as [Value; 0]);
    assert_eq!(
        reader.comments.first().map(String::as_str),
        Some("keep-alive")
    );
    Ok(())
}

#[tokio::test]
async fn progress_can_be_turned_off() -> anyhow::Result<()> {
    let off = [("x-talaria-tool-progress", "off")];
    let sdk = [("x-stainless-lang", "python")];
    let open_stack = stack(ApiKind::Responses).await?;
    let closed = stack_with(ApiKind::Responses, "tool_progress_events = false").await?;
    for (stack, headers) in [
        (&open_stack, &off[..]),
        (&open_stack, &sdk[..]),
        (&closed, &[][..]),
    ] {
        stack.upstream.push(searches());

        let seen = frames(stack, &user("search"), headers).await?;

        assert_eq!(put_together(&seen)?.content, "Found.");
        assert_eq!(progress(&seen), [] as [Value; 0]);
    }
    Ok(())
}
