//! How tools that the server runs show to clients: as which items, as which progress, and under which instructions.

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const QUESTION: &str = "What is 6 * 7?";

/// A stack whose agent is the demo, which calls the demo tools.
async fn demo() -> anyhow::Result<Stack> {
    let options = Options {
        agent: "upstream = \"toy\"".to_owned(),
        upstream: "[upstreams.toy]\nkind = \"demo\"".to_owned(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// Posts `body`, asking for this shape of tool items.
async fn post(
    stack: &Stack,
    path: &str,
    shape: Option<&str>,
    body: &Value,
) -> anyhow::Result<reqwest::Response> {
    let mut request = stack.http.post(stack.url(path)).json(body);
    if let Some(shape) = shape {
        request = request.header("X-Talaria-Tool-Items", shape);
    }
    Ok(request.send().await?)
}

/// The output's items without what differs each time.
fn items(response: &Value) -> Value {
    let mut items = response["output"].clone();
    for item in items.as_array_mut().into_iter().flatten() {
        if let Some(members) = item.as_object_mut() {
            members.shift_remove("id");
        }
    }
    items
}

fn answer() -> Value {
    json!({"type": "message", "status": "completed", "role": "assistant", "content": [
        {"type": "output_text", "annotations": [], "logprobs": [], "text": "The tool answered: 42"}]})
}

fn as_function_call(output: &Value) -> Value {
    json!([
        {"type": "function_call", "status": "completed", "call_id": "call_demo_1", "name": "calculator",
            "arguments": r#"{"expression":"6 * 7"}"#},
        {"type": "function_call_output", "status": "completed", "call_id": "call_demo_1", "output": output},
        answer(),
    ])
}

fn as_mcp_call() -> Value {
    json!([
        {"type": "mcp_call", "status": "completed", "approval_request_id": null,
            "arguments": r#"{"expression":"6 * 7"}"#, "error": null, "name": "calculator", "output": "42",
            "server_label": "demo"},
        answer(),
    ])
}

/// REQ-61, REQ-62
#[tokio::test]
async fn calls_of_server_tools_have_the_shape_that_the_request_asks_for() -> anyhow::Result<()> {
    let stack = demo().await?;
    let text = json!("42");
    let parts = json!([{"type": "input_text", "text": "42"}]);
    let cases = [
        (None, false, as_function_call(&text)),
        (Some("function_call"), true, as_function_call(&parts)),
        (Some("mcp_call"), false, as_mcp_call()),
        (Some("mcp_call"), true, as_mcp_call()),
    ];

    for (shape, streamed, expected) in cases {
        let body = json!({"input": QUESTION, "stream": streamed});
        let answer = post(&stack, "/v1/responses", shape, &body).await?;
        let response = if streamed {
            let frames = Reader::new(answer).await?.collect().await?;
            check::stream(&frames).map_err(anyhow::Error::msg)?.response
        } else {
            answer.json().await?
        };
        assert_eq!(response["status"], "completed");
        assert_eq!(response["tools"], json!([]));
        assert_eq!(items(&response), expected, "{shape:?} {streamed}");
        let id = response["id"].as_str().context("an id")?;
        assert_eq!(stack.get(id).await?, (200, response.clone()));
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_can_show_mcp_calls_and_a_request_can_ask_otherwise() -> anyhow::Result<()> {
    let options = Options {
        agent: "upstream = \"toy\"\ntool_items = \"mcp_call\"".to_owned(),
        upstream: "[upstreams.toy]\nkind = \"demo\"".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let body = json!({"input": QUESTION});

    let usual = stack.create_json(&body).await?;
    let asked = post(&stack, "/v1/responses", Some("function_call"), &body).await?;

    assert_eq!(items(&usual), as_mcp_call());
    assert_eq!(items(&asked.json().await?), as_function_call(&json!("42")));
    Ok(())
}

#[tokio::test]
async fn an_unknown_shape_is_refused_and_another_shape_is_another_request() -> anyhow::Result<()> {
    let stack = demo().await?;
    let asked = json!({"input": QUESTION});
    let chat = json!({"messages": [{"role": "user", "content": QUESTION}]});
    for (path, body) in [
        ("/v1/responses", &asked),
        ("/v1/chat/completions", &chat),
        ("/v1/runs", &asked),
    ] {
        let answer = post(&stack, path, Some("xml"), body).await?;
        assert_eq!(answer.status(), 400, "{path}");
        let error: Value = answer.json().await?;
        assert_eq!(
            error["error"]["message"],
            "X-Talaria-Tool-Items must be 'function_call' or 'mcp_call'."
        );
    }

    let send = |shape: &'static str| {
        let request = stack.http.post(stack.url("/v1/responses"));
        let request = request
            .header("Idempotency-Key", "k")
            .header("X-Talaria-Tool-Items", shape);
        request.json(&json!({"input": QUESTION})).send()
    };
    let first = send("mcp_call").await?;
    let again = send("mcp_call").await?;
    let other = send("function_call").await?;

    assert_eq!(
        [first.status(), again.status(), other.status()].map(|status| status.as_u16()),
        [200, 200, 409]
    );
    let (first, again): (Value, Value) = (first.json().await?, again.json().await?);
    assert_eq!(first, again);
    Ok(())
}

/// A turn of one shape is context for the next, whatever shape that has.
#[tokio::test]
async fn a_conversation_goes_on_from_calls_of_either_shape() -> anyhow::Result<()> {
    let stack = demo().await?;
    let mut previous = Value::Null;
    for shape in ["mcp_call", "function_call", "mcp_call"] {
        let body = json!({"input": QUESTION, "previous_response_id": previous});
        let response: Value = post(&stack, "/v1/responses", Some(shape), &body)
            .await?
            .json()
            .await?;
        assert_eq!(response["status"], "completed", "{response}");
        let last = &response["output"].as_array().context("an output")?.last();
        assert_eq!(
            last.context("an item")?["content"][0]["text"],
            "The tool answered: 42"
        );
        previous = response["id"].clone();
    }
    Ok(())
}

/// REQ-66, REQ-67
#[tokio::test]
async fn chats_and_runs_tell_of_calls_as_progress_in_either_shape() -> anyhow::Result<()> {
    let stack = demo().await?;
    for shape in ["function_call", "mcp_call"] {
        let body = json!({"messages": [{"role": "user", "content": QUESTION}], "stream": true});
        let answer = post(&stack, "/v1/chat/completions", Some(shape), &body).await?;
        let frames = Reader::new(answer).await?.collect().await?;
        let progress = frames
            .iter()
            .filter(|frame| frame.event.as_deref() == Some("hermes.tool.progress"))
            .map(Frame::json);
        let told: Vec<Value> = progress
            .map(|data| json!([data["tool"], data["status"]]))
            .collect();
        assert_eq!(
            told,
            [
                json!(["calculator", "running"]),
                json!(["calculator", "completed"])
            ],
            "{shape}"
        );

        let run = post(&stack, "/v1/runs", Some(shape), &json!({"input": QUESTION})).await?;
        let run: Value = run.json().await?;
        let id = run["run_id"].as_str().context("an id")?;
        let events = stack.url(&format!("/v1/runs/{id}/events"));
        let events = stack.http.get(events).send().await?.text().await?;
        let events = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let told: Vec<Value> = events
            .filter(|event| {
                event["event"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("tool."))
            })
            .map(|event| {
                json!([
                    event["event"],
                    event["tool"],
                    event["preview"],
                    event["error"]
                ])
            })
            .collect();
        assert_eq!(
            told,
            [
                json!(["tool.started", "calculator", "6 * 7", null]),
                json!(["tool.completed", "calculator", null, false])
            ],
            "{shape}"
        );
    }
    Ok(())
}

/// REQ-107
#[tokio::test]
async fn instructions_are_inherited_where_the_agent_says_so() -> anyhow::Result<()> {
    let agent = |name: &str, more: &str| {
        format!("[[agents]]\nname = \"{name}\"\nupstream = \"main\"\nmodel = \"m\"\n{more}\n")
    };
    let options = Options {
        // The first agent inherits, and the stack's own is the last.
        runs: agent("first", "") + &agent("told to", "inherit_instructions = true"),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(|_| Some(said("text")));

    for (name, expected) in [
        ("first", json!("Rhyme.")),
        ("told to", json!("Rhyme.")),
        ("agent", Value::Null),
    ] {
        let one = json!({"model": name, "input": "one", "instructions": "Rhyme."});
        let one = stack.create_json(&one).await?;
        let two = json!({"model": name, "input": "two", "previous_response_id": one["id"]});
        let two = stack.create_json(&two).await?;
        assert_eq!(two["instructions"], expected, "{name}");
        let sent = stack.upstream.requests().pop().context("no request")?;
        let sent = sent.body.get("instructions").cloned().unwrap_or_default();
        assert_eq!(sent, expected, "{name}");
    }
    Ok(())
}

fn said(text: &str) -> Script {
    ResponsesStream::new().text(&[text]).completed()
}
