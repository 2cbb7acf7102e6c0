//! Requests and whole answers, each written down.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::timeout;

use super::{Client, PATIENCE};
use crate::history::{Action, Order, What};

/// How long the end of a run is waited for in one request.
const LONG_PATIENCE: Duration = Duration::from_secs(45);

/// A request and what it is about.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
    pub headers: Vec<(&'static str, String)>,
    pub action: Action,
    pub response: Option<String>,
    pub run: Option<String>,
    pub key: Option<String>,
    pub order: Option<Order>,
}

impl Request {
    /// A request about nothing yet.
    pub fn bare(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body: None,
            headers: Vec::new(),
            action: Action::Get,
            response: None,
            run: None,
            key: None,
            order: None,
        }
    }
}

impl Client {
    /// Sends a request; its number, and the head of its answer if there was one in time.
    pub(super) async fn send(
        &mut self,
        gateway: usize,
        request: Request,
    ) -> (u64, Option<reqwest::Response>) {
        let op = self.history.op();
        let url = format!("{}{}", self.cluster.gateways[gateway], request.path);
        let mut call = self.cluster.http.request(request.method, url);
        for (name, value) in request.headers {
            call = call.header(name, value);
        }
        if let Some(body) = &request.body {
            call = call.json(body);
        }
        let patience = match request.action {
            Action::Wait | Action::Chat => LONG_PATIENCE,
            Action::Stream
            | Action::Background
            | Action::Attach { .. }
            | Action::Get
            | Action::Cancel
            | Action::Delete => PATIENCE,
        };
        let sent = What::Sent {
            op,
            gateway,
            action: request.action,
            response: request.response,
            run: request.run,
            key: request.key,
            order: request.order,
        };
        self.history.note(self.index, sent);
        let why = match timeout(patience, call.send()).await {
            Ok(Ok(answer)) => return (op, Some(answer)),
            Ok(Err(error)) => format!("{error:?}"),
            Err(_) => format!("no head within {patience:?}"),
        };
        self.history.note(self.index, What::Broken { op, why });
        (op, None)
    }

    /// Reads an answer that is no stream of interest; nothing if it broke off.
    pub(super) async fn read_whole(&mut self, op: u64, answer: reqwest::Response) -> Option<Value> {
        let status = answer.status().as_u16();
        let retry_after = answer.headers().contains_key("retry-after");
        let why = match timeout(PATIENCE * 3, answer.text()).await {
            Ok(Ok(text)) => {
                let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
                let answered = What::Answered {
                    op,
                    status,
                    retry_after,
                    body: body.clone(),
                };
                self.history.note(self.index, answered);
                return Some(body);
            }
            Ok(Err(error)) => format!("{error:?}"),
            Err(_) => "the body did not end".to_owned(),
        };
        self.history.note(self.index, What::Broken { op, why });
        None
    }
}
