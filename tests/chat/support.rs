//! Asking for completions, and putting streamed ones together.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::TALARIA;

pub const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];

/// A stack whose upstream is asked once, by this API.
pub async fn stack(kind: ApiKind) -> anyhow::Result<Stack> {
    stack_with(kind, "").await
}

/// The same with these lines below `[server]`.
pub async fn stack_with(kind: ApiKind, server: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        server: server.to_owned(),
        upstream: "max_retries = 0".to_owned(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// A whole answer of the upstream.
pub fn says(kind: ApiKind, deltas: &[&str]) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(deltas).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(deltas).finish("stop"),
    }
}

/// An answer that stops after `Hel` until the gate `rest` is opened.
pub fn halting() -> Script {
    let answer = ResponsesStream::new().open_text().deltas(&["Hel"]);
    answer.gate("rest").deltas(&["lo"]).close().completed()
}

/// A request of one user message.
pub fn user(text: &str) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]})
}

/// `POST /v1/chat/completions` with headers.
pub async fn post(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<reqwest::Response> {
    let mut request = stack
        .http
        .post(stack.url("/v1/chat/completions"))
        .json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

/// A completion that is not streamed.
pub async fn complete(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<Value> {
    let answer = post(stack, body, headers).await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status == 200, "{status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// A completion that is streamed.
pub async fn open(stack: &Stack, body: &Value, headers: &[(&str, &str)]) -> anyhow::Result<Reader> {
    let mut body = body.clone();
    body["stream"] = true.into();
    Reader::new(post(stack, &body, headers).await?).await
}

/// All frames of a streamed completion.
pub async fn frames(
    stack: &Stack,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<Vec<Frame>> {
    open(stack, body, headers).await?.collect().await
}

/// Reads up to the first chunk with content.
pub async fn until_content(reader: &mut Reader) -> anyhow::Result<Vec<Frame>> {
    reader
        .until(|frame| {
            let content = &frame.json()["choices"][0]["delta"]["content"];
            content.as_str().is_some_and(|content| !content.is_empty())
        })
        .await
}

/// What a client makes of a stream.
#[derive(Debug, Default, PartialEq)]
pub struct Put {
    pub id: String,
    pub content: String,
    pub reasoning: String,
    pub calls: Vec<Value>,
    pub finish: String,
    /// Of the finish chunk, or of the chunk without choices.
    pub usage: Value,
}

/// Puts a stream together, and checks its form on the way.
pub fn put_together(frames: &[Frame]) -> anyhow::Result<Put> {
    let mut put = Put::default();
    let (last, chunks) = frames.split_last().context("no frames")?;
    ensure!(last.is_done_mark(), "no end mark but {last:?}");
    for (index, frame) in chunks
        .iter()
        .filter(|frame| frame.event.is_none())
        .enumerate()
    {
        let chunk = frame.json();
        ensure!(chunk["object"] == "chat.completion.chunk", "{chunk}");
        let id = chunk["id"].as_str().context("no id")?;
        ensure!(index == 0 || id == put.id, "another id: {chunk}");
        id.clone_into(&mut put.id);
        if chunk["usage"].is_object() {
            put.usage = chunk["usage"].clone();
        }
        let Some(choice) = chunk["choices"].get(0) else {
            continue;
        };
        let delta = &choice["delta"];
        if index == 0 {
            ensure!(
                *delta == json!({"role": "assistant", "content": ""}),
                "{chunk}"
            );
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        put.content += &text(&delta["content"]);
        put.reasoning += &text(&delta["reasoning_content"]);
        put.finish += &text(&choice["finish_reason"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().context("no index")?)?;
            if index == put.calls.len() {
                put.calls.push(call.clone());
                continue;
            }
            let so_far = &mut put.calls[index]["function"]["arguments"];
            *so_far = (text(so_far) + &text(&call["function"]["arguments"])).into();
        }
    }
    Ok(put)
}

/// The context that the upstream was shown by its request number `n`, as `role: text` a line.
pub async fn shown(stack: &Stack, n: usize) -> anyhow::Result<String> {
    let body = stack.upstream.request(n).await?.body;
    let items = body.get("input").unwrap_or(&body["messages"]);
    let items = items.as_array().context("no context")?;
    let line = |item: &Value| {
        let content = &item["content"];
        let text = content.as_str().or_else(|| content[0]["text"].as_str());
        let text = text.unwrap_or_default();
        format!("{}: {text}", item["role"].as_str().unwrap_or("?"))
    };
    let lines: Vec<String> = items.iter().map(line).collect();
    let system = body["instructions"]
        .as_str()
        .map(|text| format!("system: {text}"));
    Ok(system
        .into_iter()
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n"))
}

/// The id of the response that a completion is.
pub fn response_id(completion_id: &str) -> String {
    completion_id.replace("chatcmpl-", "resp_")
}

/// A header of an answer, or the empty string.
pub fn header(answer: &reqwest::Response, name: &str) -> String {
    let value = answer.headers().get(name);
    let text = value.and_then(|value| value.to_str().ok());
    text.unwrap_or_default().to_owned()
}
