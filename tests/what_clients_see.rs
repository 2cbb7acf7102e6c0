//! What a client sees of a run, whatever it is asked for: its frames, its calls, its costs, what is left of it.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream};

#[path = "sdk_python/scenarios.rs"]
mod scenarios;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// REQ-13
#[tokio::test]
async fn a_run_that_ends_early_keeps_what_it_produced() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);
    for (input, ends, said) in [
        ("run into the limit", "incomplete", "Once upon"),
        ("fail", "failed", "So f"),
    ] {
        let response = stack.create_json(&json!({"input": input})).await?;
        let id = response["id"].as_str().context("an id")?;

        assert_eq!(stack.get(id).await?, (200, response.clone()));
        assert_eq!(response["status"], ends);
        assert_eq!(response["output"][0]["content"][0]["text"], said);
    }
    Ok(())
}

/// REQ-16
#[tokio::test]
async fn a_stream_begins_with_these_very_bytes() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);

    let answer = stack
        .create(&json!({"input": "text", "stream": true}))
        .await?;
    let body = answer.text().await?;

    let beginning = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_";
    ensure!(body.starts_with(beginning), "{body}");
    let fields: Vec<&str> = body
        .lines()
        .filter(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": "))
        .map(|(field, _)| field)
        .collect();
    let (end, events) = fields.split_last().context("no lines")?;
    ensure!(
        events.chunks(2).all(|lines| lines == ["event", "data"]),
        "{body}"
    );
    assert_eq!(*end, "data");
    ensure!(body.ends_with("}\n\ndata: [DONE]\n\n"), "{body}");
    Ok(())
}

/// REQ-77
#[tokio::test]
async fn a_call_is_seen_while_its_arguments_are_written() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let call = |status: &str, arguments: &str| {
        json!({
            "id": "fc_1", "type": "function_call", "status": status, "call_id": "call_1", "name": "weather",
            "arguments": arguments,
        })
    };
    let kind = "response.function_call_arguments.delta";
    let delta = |delta: &str| json!({"item_id": "fc_1", "output_index": 0, "delta": delta});
    for gate in ["responses", "chat"] {
        let script = ResponsesStream::new()
            .begin_item(&call("in_progress", ""))
            .event(kind, delta("{\"city\":"))
            .gate(gate)
            .event(kind, delta("\"Oslo\"}"))
            .end_item(call("completed", "{\"city\":\"Oslo\"}"));
        stack.upstream.push(script.completed());
    }
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});

    let tool = json!({"type": "function", "name": "weather", "parameters": parameters});
    let mut stream = stack
        .stream(&json!({"input": "x", "tools": [tool]}))
        .await?;
    stream.until_event(kind).await?;
    stack.upstream.open("responses");
    stream.until_event("response.completed").await?;

    let function = json!({"name": "weather", "parameters": parameters});
    let body = json!({
        "messages": [{"role": "user", "content": "x"}], "stream": true,
        "tools": [{"type": "function", "function": function}],
    });
    let mut stream = Reader::new(chat(&stack, &body).await?).await?;
    let arguments = |frame: &Frame| {
        let call = frame.json()["choices"][0]["delta"]["tool_calls"][0].clone();
        call["function"]["arguments"] == "{\"city\":"
    };
    stream.until(arguments).await?;
    stack.upstream.open("chat");
    stream.until(Frame::is_done_mark).await?;
    Ok(())
}

/// REQ-63
#[tokio::test]
async fn usage_is_what_the_upstream_counted() -> anyhow::Result<()> {
    for kind in [ApiKind::Responses, ApiKind::ChatCompletions] {
        let options = Options {
            kind,
            ..Options::default()
        };
        let stack = Stack::serve_with(TALARIA, options).await?;
        for _ in 0..2 {
            stack.upstream.push(match kind {
                ApiKind::Responses => ResponsesStream::new().text(&["Hello."]).completed(),
                ApiKind::ChatCompletions => ChatStream::new().text(&["Hello."]).finish("stop"),
            });
        }
        let response = stack.create_json(&json!({"input": "x"})).await?;
        let chat = json!({"messages": [{"role": "user", "content": "x"}]});
        let chat: Value = self::chat(&stack, &chat).await?.json().await?;

        let of_response = ["input_tokens", "output_tokens", "total_tokens"];
        let of_chat = ["prompt_tokens", "completion_tokens", "total_tokens"];
        let counts = |usage: &Value, names: [&str; 3]| names.map(|name| usage[name].as_u64());
        let expected = [Some(8), Some(3), Some(11)];
        assert_eq!(
            counts(&response["usage"], of_response),
            expected,
            "{kind:?}"
        );
        assert_eq!(counts(&chat["usage"], of_chat), expected, "{kind:?}");
    }
    Ok(())
}

/// REQ-64
#[tokio::test]
async fn what_the_client_instructs_comes_after_what_the_agent_is() -> anyhow::Result<()> {
    let options = Options {
        // The stack's own agent has no instructions; this one stands before it in the file.
        runs: "[[agents]]\nname = \"pirate\"\ninstructions = \"You are a pirate.\"\nupstream = \"main\"\nmodel = \"m\""
            .into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(scenarios::answer);

    let body = json!({"model": "pirate", "input": "text", "instructions": "Be brief."});
    let response = stack.create_json(&body).await?;
    let messages =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "text"}]);
    let chat = json!({"model": "pirate", "messages": messages});
    self::chat(&stack, &chat).await?;
    stack
        .create_json(&json!({"model": "pirate", "input": "text"}))
        .await?;

    assert_eq!(response["instructions"], "Be brief.");
    let told = stack
        .upstream
        .requests()
        .into_iter()
        .map(|request| request.body["instructions"].clone());
    let both = json!("You are a pirate.\n\nBe brief.");
    assert_eq!(
        told.collect::<Vec<_>>(),
        [both.clone(), both, json!("You are a pirate.")]
    );
    Ok(())
}

/// REQ-60
#[tokio::test]
async fn many_requests_share_a_few_connections_to_the_database() -> anyhow::Result<()> {
    const CONNECTIONS: &str = "
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);
    let id = stack.create_json(&json!({"input": "text"})).await?["id"].clone();
    let id = id.as_str().unwrap_or_default();

    let gets = (0..300).map(|_| stack.get(id));
    for answer in futures::future::join_all(gets).await {
        assert_eq!(answer?.0, 200);
    }

    let database = stack
        .database()
        .context("the stack has no database of its own")?;
    let row = database
        .connect()
        .await?
        .query_one(CONNECTIONS, &[])
        .await?;
    let connections: i64 = row.get(0);
    ensure!(connections <= 40, "{connections} connections");
    Ok(())
}

/// REQ-47, REQ-56
#[tokio::test]
async fn after_a_restart_responses_and_conversations_are_where_they_were() -> anyhow::Result<()> {
    let mut stack = Stack::serve(TALARIA).await?;
    stack.upstream.choose(scenarios::answer);
    let turn = json!({"input": "text", "conversation": "garden"});
    let before = stack.create_json(&turn).await?;

    stack.restart_serve().await?;

    let id = before["id"].as_str().context("an id")?;
    assert_eq!(stack.get(id).await?, (200, before.clone()));
    let turn = json!({"input": "what did I ask first", "conversation": "garden"});
    let after = stack.create_json(&turn).await?;
    assert_eq!(after["output"][0]["content"][0]["text"], "text");
    assert_eq!(after["conversation"], before["conversation"]);
    Ok(())
}

/// `POST /v1/chat/completions`, which must succeed.
async fn chat(stack: &Stack, body: &Value) -> anyhow::Result<reqwest::Response> {
    let url = stack.url("/v1/chat/completions");
    let answer = stack.http.post(url).json(body).send().await?;
    Ok(answer.error_for_status()?)
}
