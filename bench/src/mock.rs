//! A mock upstream: OpenAI's Responses and Chat Completions APIs with text of any length at any pace.

pub mod answer;
pub mod asked;
mod body;
mod chat;
pub mod responses;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use self::answer::{Answer, Text};
use self::asked::Asked;
use self::body::Streamed;

/// The API that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Api {
    Responses,
    ChatCompletions,
}

/// Every answer that was asked for, rendered once.
type Answers = Mutex<HashMap<(Api, Text), Arc<Answer>>>;

type Reply = Response<Either<Full<Bytes>, Streamed>>;

/// Serves until the parent process ends.
pub async fn serve() -> anyhow::Result<Infallible> {
    let answers = Arc::new(Answers::default());
    crate::serve::connections("the mock upstream", move |stream| {
        connection(stream, Arc::clone(&answers))
    })
    .await
}

async fn connection(stream: TcpStream, answers: Arc<Answers>) {
    let service = service_fn(move |request| reply(request, Arc::clone(&answers)));
    // A client that goes away in the middle is none of our business.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn reply(request: Request<Incoming>, answers: Arc<Answers>) -> anyhow::Result<Reply> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let api = match (&head.method, path) {
        (&Method::POST, "/v1/responses") => Api::Responses,
        (&Method::POST, "/v1/chat/completions") => Api::ChatCompletions,
        (&Method::GET, _) if path.starts_with("/v1/responses/") => {
            let asked = Asked::query(head.uri.query().unwrap_or_default());
            return answered(&answers, Api::Responses, &asked);
        }
        _ => return whole(StatusCode::NOT_FOUND, Bytes::from_static(b"{}")),
    };
    let body = body.collect().await.context("reading the request")?;
    let Some(asked) = Asked::read(&body.to_bytes()) else {
        return whole(StatusCode::BAD_REQUEST, Bytes::from_static(b"{}"));
    };

    answered(&answers, api, &asked)
}

fn answered(answers: &Answers, api: Api, asked: &Asked) -> anyhow::Result<Reply> {
    let answer = rendered(answers, api, asked.text);
    if !asked.stream {
        return whole(StatusCode::OK, answer.whole.clone());
    }
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream; charset=utf-8")
        .body(Either::Right(Streamed::new(answer, asked.pace)))
        .context("building the answer")
}

fn rendered(answers: &Answers, api: Api, text: Text) -> Arc<Answer> {
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = answers.entry((api, text)).or_insert_with(|| {
        Arc::new(match api {
            Api::Responses => responses::answer(text),
            Api::ChatCompletions => chat::answer(text),
        })
    });
    Arc::clone(answer)
}

fn whole(status: StatusCode, body: Bytes) -> anyhow::Result<Reply> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(Either::Left(Full::new(body)))
        .context("building the answer")
}
