//! Upstreams that do not keep to the letter of their API: what a client sees of it.

mod case;
mod chat;
mod refusals;
mod responses;
mod spellings;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use case::{Case, failed};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
/// The key that the upstream is called with. It must never be seen.
const KEY: &str = "sk-of-the-upstream-0123456789";
/// What upstreams say whose spelling alone is odd.
const HELLO: [&str; 3] = ["Grüße, ", "世界 ", "🌍"];

async fn stack(kind: ApiKind, timeouts: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        upstream: format!("api_key_env = \"UPSTREAM_KEY\"\nmax_retries = 0\n{timeouts}"),
        environment: vec![("UPSTREAM_KEY".into(), KEY.into())],
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// Plays the case to a client that streams and to one that does not.
async fn play(stack: &Stack, case: Case) -> anyhow::Result<()> {
    stack.upstream.push(case.script.clone());
    let frames = stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.to_vec()).collect();
    let wire = String::from_utf8(wire)?;
    anyhow::ensure!(!wire.contains(KEY), "the key is shown: {wire}");
    anyhow::ensure!(!wire.contains("127.0.0.1"), "an address is shown: {wire}");
    anyhow::ensure!(seen.text == case.text, "the text is {:?}", seen.text);
    expect(&case, &seen.response)?;
    let (status, stored) = stack.get(&seen.response_id).await?;
    anyhow::ensure!(
        status == 200 && stored == seen.response,
        "GET says {stored}"
    );

    stack.upstream.push(case.script.clone());
    let whole = stack.create_json(&json!({"input": "hi"})).await?;
    expect(&case, &whole)?;
    let same = ["status", "error", "incomplete_details", "usage"]
        .iter()
        .all(|member| whole[*member] == seen.response[*member]);
    anyhow::ensure!(
        same && text(&whole) == text(&seen.response),
        "unstreamed: {whole}"
    );
    Ok(())
}

fn expect(case: &Case, response: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(response["status"] == case.status, "{response}");
    anyhow::ensure!(text(response) == case.text, "{response}");
    let error = &response["error"];
    let reason = &response["incomplete_details"]["reason"];
    match (case.status, case.error) {
        ("failed", Some((code, message))) => {
            anyhow::ensure!(
                error["code"] == code && error["message"] == message,
                "{error}"
            );
        }
        (_, expected) => {
            let expected = expected.map(|(reason, _)| reason);
            anyhow::ensure!(error.is_null() && reason.as_str() == expected, "{response}");
        }
    }
    Ok(())
}

/// The text of all messages of a response.
fn text(response: &Value) -> String {
    let items = response["output"].as_array().into_iter().flatten();
    let parts = items.filter_map(|item| match item["type"].as_str() {
        Some("message") => item["content"].as_array(),
        _ => None,
    });
    parts
        .flatten()
        .filter_map(|part| part["text"].as_str())
        .collect()
}

async fn play_all(kind: ApiKind, cases: impl Iterator<Item = Case>) -> anyhow::Result<()> {
    let stack = stack(kind, "").await?;
    let mut broken = Vec::new();
    for case in cases {
        let name = case.name;
        if let Err(error) = play(&stack, case).await {
            broken.push(format!("{name}: {error:#}"));
        }
    }
    assert!(broken.is_empty(), "{kind:?}:\n{}", broken.join("\n"));
    Ok(())
}

/// REQ-94, REQ-97, REQ-98, REQ-99
#[tokio::test]
async fn what_responses_upstreams_say_oddly_is_understood() -> anyhow::Result<()> {
    let usual = || ResponsesStream::new().text(&HELLO).completed();
    let cases = [
        responses::cases(),
        spellings::cases(&usual),
        refusals::cases(),
    ];
    play_all(ApiKind::Responses, cases.into_iter().flatten()).await
}

#[tokio::test]
async fn what_chat_upstreams_say_oddly_is_understood() -> anyhow::Result<()> {
    let usual = || ChatStream::new().text(&HELLO).finish("stop");
    let cases = [chat::cases(), spellings::cases(&usual), refusals::cases()];
    play_all(ApiKind::ChatCompletions, cases.into_iter().flatten()).await
}

/// REQ-95
#[tokio::test]
async fn text_is_shown_as_it_comes_however_the_stream_began() -> anyhow::Result<()> {
    let odd = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n: hi\n\n";
    let scripts = [
        (
            ApiKind::Responses,
            ResponsesStream::headless()
                .raw(odd)
                .reasoning_summary(&["hm"])
                .open_text()
                .deltas(&["live "])
                .gate("rest")
                .deltas(&["text"])
                .stop(),
        ),
        (
            ApiKind::ChatCompletions,
            ChatStream::new()
                .raw(odd)
                .reasoning(&["hm"])
                .text(&["live "])
                .gate("rest")
                .text(&["text"])
                .stop(),
        ),
    ];
    for (kind, script) in scripts {
        let stack = stack(kind, "").await?;
        stack.upstream.push(script);
        let mut reader = stack.stream(&json!({"input": "hi"})).await?;
        let mut frames = reader.until_event("response.output_text.delta").await?;
        assert_eq!(
            frames.last().map(|frame| frame.json()["delta"].take()),
            Some("live ".into())
        );

        stack.upstream.open("rest");

        frames.extend(reader.collect().await?);
        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        assert_eq!(
            (seen.status.as_str(), seen.text.as_str()),
            ("completed", "live text")
        );
        assert_eq!(seen.items.len(), 2, "{kind:?}: {:?}", seen.items);
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_falls_silent_fails_the_run_and_what_came_is_kept() -> anyhow::Result<()> {
    let scripts = [
        (
            ApiKind::Responses,
            ResponsesStream::new()
                .open_text()
                .deltas(&["so far"])
                .gate("never")
                .completed(),
        ),
        (
            ApiKind::ChatCompletions,
            ChatStream::new()
                .text(&["so far"])
                .gate("never")
                .finish("stop"),
        ),
    ];
    for (kind, script) in scripts {
        let stack = stack(kind, "idle_timeout_seconds = 1").await?;
        let case = failed(
            "silence",
            script,
            "so far",
            "server_error",
            "The upstream stopped answering.",
        );
        play(&stack, case)
            .await
            .with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn calls_that_chat_upstreams_send_in_pieces_are_put_together() -> anyhow::Result<()> {
    let chunk = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]});
    let call = |call_id: &str, arguments: &str| {
        (call_id.to_owned(), "look".to_owned(), arguments.to_owned())
    };
    let cases = [
        (
            "arguments in pieces",
            vec![
                chunk(
                    json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": "{\"x"}}]),
                ),
                chunk(json!([{"index": 0, "function": {"arguments": "\":"}}])),
                chunk(
                    json!([{"index": 0, "id": null, "function": {"name": null, "arguments": "1}"}}]),
                ),
            ],
            vec![call("a", "{\"x\":1}")],
        ),
        (
            "two calls whose pieces alternate",
            vec![
                chunk(
                    json!([{"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}]),
                ),
                chunk(
                    json!([{"index": 1, "id": "b", "function": {"name": "look", "arguments": "{\"y\""}}]),
                ),
                chunk(json!([{"index": 0, "function": {"arguments": "{}"}}])),
                chunk(json!([{"index": 1, "function": {"arguments": ":2}"}}])),
            ],
            vec![call("a", "{}"), call("b", "{\"y\":2}")],
        ),
        (
            "two whole calls in one piece",
            vec![chunk(json!([
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}},
                {"index": 1, "id": "b", "function": {"name": "look", "arguments": "{\"y\":2}"}},
            ]))],
            vec![call("a", "{}"), call("b", "{\"y\":2}")],
        ),
        (
            "no index",
            vec![
                chunk(json!([{"id": "a", "function": {"name": "look", "arguments": "{}"}}])),
                chunk(json!([{"id": "b", "function": {"name": "look", "arguments": "{\"y\":2}"}}])),
            ],
            vec![call("a", "{}"), call("b", "{\"y\":2}")],
        ),
        (
            "the id repeated in every piece",
            vec![
                chunk(
                    json!([{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{"}}]),
                ),
                chunk(json!([{"index": 0, "id": "a", "function": {"arguments": "}"}}])),
            ],
            vec![call("a", "{}")],
        ),
    ];
    let stack = stack(ApiKind::ChatCompletions, "").await?;
    for (name, chunks, expected) in cases {
        let script = chunks.iter().fold(Script::sse(), Script::data).data(&end);
        stack.upstream.push(script);
        let frames = stack
            .stream(&json!({"input": "hi"}))
            .await?
            .collect()
            .await?;

        let seen = check::stream(&frames).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;

        let member = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let calls: Vec<_> = seen
            .items
            .iter()
            .map(|item| {
                (
                    member(item, "call_id"),
                    member(item, "name"),
                    member(item, "arguments"),
                )
            })
            .collect();
        assert_eq!(
            (seen.status.as_str(), calls),
            ("completed", expected),
            "{name}"
        );
        assert_eq!(
            stack.get(&seen.response_id).await?,
            (200, seen.response),
            "{name}"
        );
    }
    Ok(())
}
