//! Function tools that are the client's to run: called out, answered in a later request.

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];

async fn stack(kind: ApiKind) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// An answer that calls `weather` once for each of `cities`.
fn calls(kind: ApiKind, cities: &[&str]) -> Script {
    let call_id = |n: usize| format!("call_{n}");
    let deltas = |city: &str| [r#"{"city":"#.to_owned(), format!(r#""{city}"}}"#)];
    let cities = cities.iter().enumerate();
    match kind {
        ApiKind::Responses => cities
            .fold(ResponsesStream::new(), |stream, (n, city)| {
                let [head, tail] = deltas(city);
                stream.function_call(&call_id(n), "weather", &[&head, &tail])
            })
            .completed(),
        ApiKind::ChatCompletions => cities
            .fold(ChatStream::new(), |stream, (n, city)| {
                let [head, tail] = deltas(city);
                stream.function_call(&call_id(n), "weather", &[&head, &tail])
            })
            .finish("tool_calls"),
    }
}

fn answer(kind: ApiKind, text: &str) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&[text]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&[text]).finish("stop"),
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}})
}

fn tools() -> Value {
    json!([{"type": "function", "name": "weather", "description": "of a city", "parameters": schema()}])
}

/// What the upstream is told of [`tools`].
fn told_tools(kind: ApiKind) -> Value {
    match kind {
        ApiKind::Responses => tools(),
        ApiKind::ChatCompletions => {
            let function =
                json!({"name": "weather", "description": "of a city", "parameters": schema()});
            json!([{"type": "function", "function": function}])
        }
    }
}

fn output(call_id: &str, output: &str) -> Value {
    json!({"type": "function_call_output", "call_id": call_id, "output": output})
}

/// What the upstream was shown after the user's first message: a call for Oslo and its result.
fn told_exchange(kind: ApiKind, result: &str) -> Value {
    let arguments = r#"{"city":"Oslo"}"#;
    match kind {
        ApiKind::Responses => json!([
            {"type": "function_call", "status": "completed", "call_id": "call_0", "name": "weather",
             "arguments": arguments},
            output("call_0", result),
        ]),
        ApiKind::ChatCompletions => json!([
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_0", "type": "function",
                 "function": {"name": "weather", "arguments": arguments}},
            ]},
            {"role": "tool", "tool_call_id": "call_0", "content": result},
        ]),
    }
}

/// The items of a request to the upstream from the second on, without ids.
fn told(kind: ApiKind, body: &Value) -> anyhow::Result<Value> {
    let member = match kind {
        ApiKind::Responses => "input",
        ApiKind::ChatCompletions => "messages",
    };
    let items = body[member].as_array().context("no context")?;
    let without_id = |item: &Value| {
        let mut item = item.clone();
        if item["type"] == "function_call" || item["type"] == "function_call_output" {
            item.as_object_mut()
                .and_then(|item| item.shift_remove("id"));
        }
        item
    };
    Ok(items.iter().skip(1).map(without_id).collect())
}

#[tokio::test]
async fn a_call_ends_the_response_and_its_output_begins_the_next() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(calls(kind, &["Oslo"]));
        let ask = json!({"input": "how is Oslo?", "tools": tools(), "tool_choice": "auto"});

        let frames = stack.stream(&ask).await?.collect().await?;
        let called = check::stream(&frames).map_err(anyhow::Error::msg)?;

        assert_eq!(called.status, "completed");
        let [call] = &called.items[..] else {
            anyhow::bail!("not one item: {:?}", called.items);
        };
        let id = &call["id"];
        assert!(id.as_str().is_some_and(|id| id.starts_with("fc_")), "{id}");
        assert_eq!(
            *call,
            json!({
                "id": id, "type": "function_call", "status": "completed", "call_id": "call_0",
                "name": "weather", "arguments": r#"{"city":"Oslo"}"#,
            })
        );
        assert_eq!(called.response["tools"][0]["name"], "weather");
        assert_eq!(
            stack.upstream.request(0).await?.body["tools"],
            told_tools(kind)
        );

        stack.upstream.push(answer(kind, "wet"));
        let result = json!({
            "previous_response_id": called.response_id, "tools": tools(),
            "input": [output("call_0", "rain")],
        });
        let ended = stack.create_json(&result).await?;

        assert_eq!(ended["output"][0]["content"][0]["text"], "wet");
        let request = stack.upstream.request(1).await?;
        assert_eq!(told(kind, &request.body)?, told_exchange(kind, "rain"));
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_keeps_its_own_history_sends_call_and_output_along() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(calls(kind, &["Oslo"]));
        let user = json!({"role": "user", "content": "how is Oslo?"});
        let ask = json!({"input": [user], "tools": tools(), "store": false});
        let called = stack.create_json(&ask).await?;
        let call = &called["output"][0];
        assert_eq!(called["status"], "completed");
        assert_eq!(call["type"], "function_call");

        stack.upstream.push(answer(kind, "wet"));
        let history = json!([user, call, output("call_0", "rain")]);
        let ended = json!({"input": history, "tools": tools(), "store": false});
        let ended = stack.create_json(&ended).await?;

        assert_eq!(ended["output"][0]["content"][0]["text"], "wet");
        let request = stack.upstream.request(1).await?;
        assert_eq!(told(kind, &request.body)?, told_exchange(kind, "rain"));
        assert_eq!(
            stack.get(ended["id"].as_str().unwrap_or_default()).await?.0,
            404
        );
    }
    Ok(())
}

#[tokio::test]
async fn calls_and_outputs_that_do_not_pair_are_refused_before_anything_starts()
-> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(calls(kind, &["Oslo", "Rome"]));
        let called = stack
            .create_json(&json!({"input": "and Rome?", "tools": tools()}))
            .await?;
        assert_eq!(called["output"].as_array().map(Vec::len), Some(2));
        let previous = &called["id"];
        let call = json!({
            "type": "function_call", "call_id": "call_9", "name": "weather", "arguments": "{}",
        });
        let missing = |n: u8| format!("No tool output found for function call call_{n}.");
        let surplus =
            |n: u8| format!("No tool call found for function call output with call_id call_{n}.");

        let cases = [
            (json!("never mind"), previous, missing(0)),
            (json!([output("call_0", "rain")]), previous, missing(1)),
            (json!([output("call_7", "rain")]), previous, surplus(7)),
            (
                json!([
                    output("call_0", "a"),
                    output("call_1", "b"),
                    output("call_2", "c")
                ]),
                previous,
                surplus(2),
            ),
            (json!([output("call_9", "rain")]), &Value::Null, surplus(9)),
            (
                json!([output("call_9", "rain"), call]),
                &Value::Null,
                surplus(9),
            ),
            (
                json!([call, {"role": "user", "content": "x"}]),
                &Value::Null,
                missing(9),
            ),
        ];
        for (input, previous, message) in cases {
            for store in [true, false] {
                let body =
                    json!({"input": input, "previous_response_id": previous, "store": store});
                let answer = stack.create(&body).await?;
                assert_eq!(answer.status(), 400, "{body}");
                let error = json!({
                    "message": message, "type": "invalid_request_error", "param": "input", "code": null,
                });
                assert_eq!(
                    answer.json::<Value>().await?,
                    json!({"error": error}),
                    "{body}"
                );
            }
        }

        assert_eq!(stack.upstream.requests().len(), 1, "refusals ask nobody");
        let database = stack.database().context("no database")?.connect().await?;
        let rows = database
            .query_one("SELECT count(*) FROM response", &[])
            .await?;
        assert_eq!(rows.get::<_, i64>(0), 1, "refusals leave nothing behind");

        stack.upstream.push(answer(kind, "wet and dry"));
        let both = json!({
            "previous_response_id": previous,
            "input": [output("call_1", "sun"), output("call_0", "rain")],
        });
        let ended = stack.create_json(&both).await?;
        assert_eq!(ended["status"], "completed");
    }
    Ok(())
}
