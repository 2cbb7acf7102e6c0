//! The runs API as a client of Hermes uses it.

use anyhow::{Context, ensure};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::Stack;

/// An answer: its status, its headers, its JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> anyhow::Result<Self> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The code of an error.
    pub fn refusal(&self) -> (u16, &Value) {
        (self.status, &self.body["error"]["code"])
    }

    /// The body with `0` for every time that it shows.
    pub fn timeless(&self) -> Value {
        let mut body = self.body.clone();
        for name in ["created_at", "updated_at"] {
            assert!(body[name].is_f64(), "{body}");
            body[name] = json!(0);
        }
        body
    }
}

pub async fn post(
    stack: &Stack,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    let mut request = stack.http.post(stack.url(path)).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

pub async fn get(stack: &Stack, path: &str) -> anyhow::Result<Answer> {
    Answer::of(stack.http.get(stack.url(path))).await
}

/// `POST /v1/runs`: the id of the run.
pub async fn start(stack: &Stack, body: &Value) -> anyhow::Result<String> {
    started(&post(stack, "/v1/runs", body, &[]).await?)
}

pub fn started(answer: &Answer) -> anyhow::Result<String> {
    ensure!(answer.status == 202, "{answer:?}");
    let id = answer.body["run_id"].as_str().context("no run_id")?;
    Ok(id.to_owned())
}

pub async fn status(stack: &Stack, id: &str) -> anyhow::Result<Answer> {
    get(stack, &format!("/v1/runs/{id}")).await
}

/// Waits for the end of a run: the run object.
pub async fn ended(stack: &Stack, id: &str) -> anyhow::Result<Value> {
    events(stack, &stack.gateways[0], id, None)
        .await?
        .collect()
        .await?;
    Ok(status(stack, id).await?.body)
}

/// `GET /v1/runs/{id}/events` at a façade, after the frame of this id.
pub async fn events(
    stack: &Stack,
    gateway: &str,
    id: &str,
    after: Option<u64>,
) -> anyhow::Result<Reader> {
    let mut request = stack.http.get(format!("{gateway}/v1/runs/{id}/events"));
    if let Some(after) = after {
        request = request.header("Last-Event-ID", after.to_string());
    }
    Reader::new(request.send().await?).await
}

/// The id of a frame.
pub fn id_of(frame: &Frame) -> anyhow::Result<u64> {
    let text = std::str::from_utf8(&frame.raw)?;
    let id = text
        .strip_prefix("id: ")
        .and_then(|rest| rest.split('\n').next());
    Ok(id.context("a frame without an id")?.parse()?)
}

/// What the frames say, without ids and times.
pub fn told(frames: &[Frame]) -> Vec<Value> {
    let told = |frame: &Frame| {
        let mut data = frame.json();
        if let Some(data) = data.as_object_mut() {
            data.shift_remove("run_id");
            data.shift_remove("timestamp");
        }
        data
    };
    frames.iter().map(told).collect()
}
