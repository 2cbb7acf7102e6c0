//! Whole calls against a real server.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::Map;
use talaria_domain::model::{CallItem, Field, ItemKey, server_error};
use talaria_proto::v1::ResponseError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::breaker::Refusal;

const KEY: &str = "sk-secret-key";

/// A server on a free port that lives as long as the test.
struct Server {
    base_url: String,
    _task: JoinSet<()>,
}

/// Serves `answer` to every request.
async fn serve<F>(answer: F) -> Server
where
    F: Fn(Seen) -> Response + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let router = Router::new().fallback(async move |request: Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let path = parts.uri.path().to_owned();
        answer(Seen {
            path,
            headers: parts.headers,
            body,
        })
    });
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server {
        base_url,
        _task: task,
    }
}

/// A request that the server got.
#[derive(Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

fn config(kind: Kind, base_url: &str) -> UpstreamConfig {
    UpstreamConfig {
        name: "test".to_owned(),
        kind,
        base_url: base_url.to_owned(),
        api_key: Some(KEY.into()),
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(10),
        max_retries: 0,
        resumable: false,
    }
}

fn upstream(kind: Kind, server: &Server) -> Upstream {
    Upstream::new(config(kind, &server.base_url)).unwrap()
}

fn model_call() -> ModelCall {
    ModelCall {
        model: "m".to_owned(),
        instructions: None,
        context: vec![CallItem {
            json: Bytes::from_static(br#"{"role":"user","content":"Hi"}"#),
            upstream_id: None,
        }],
        parameters: Map::new(),
    }
}

/// Everything a call says, and how it ends.
async fn said(upstream: &Upstream) -> (Vec<ModelEvent>, Result<(), CallErrorKind>) {
    let mut events = Vec::new();
    let mut stream = match upstream.call(&model_call(), Form::Stream).await {
        Ok(stream) => stream,
        Err(error) => return (events, Err(error.kind)),
    };
    loop {
        match stream.next(&mut events).await {
            Ok(true) => {}
            Ok(false) => return (events, Ok(())),
            Err(error) => return (events, Err(error.kind)),
        }
    }
}

fn text(delta: &str, key: u64) -> ModelEvent {
    let (key, delta) = (ItemKey(key), delta.to_owned());
    ModelEvent::Delta {
        key,
        field: Field::Text,
        part: 0,
        delta,
        logprobs: Vec::new(),
    }
}

fn end(outcome: Outcome) -> ModelEvent {
    ModelEvent::Finished {
        outcome,
        usage: None,
        output: Vec::new(),
    }
}

type Piece = std::io::Result<&'static str>;

/// An answer that comes in these pieces and is then cut off.
fn cut_off(pieces: Vec<Piece>) -> BoxStream<'static, Piece> {
    let cut = async {
        // Waiting once makes the server send what it has.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    };
    stream::iter(pieces).chain(stream::once(cut)).boxed()
}

/// An answer that comes in these pieces and then stays silent.
fn silent(pieces: Vec<Piece>) -> BoxStream<'static, Piece> {
    stream::iter(pieces).chain(stream::pending()).boxed()
}

const DELTA: &str =
    "data: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"Hi\"}\n\n";
const COMPLETED: &str = "data: {\"type\":\"response.completed\"}\n\n";
const CHUNK: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

#[tokio::test]
async fn a_call_is_posted_with_its_key_and_its_stream_is_read() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&seen);
    let server = serve(move |request| {
        requests.lock().unwrap().push(request);
        let pieces: [Piece; 3] = [Ok(&DELTA[..9]), Ok(&DELTA[9..]), Ok(COMPLETED)];
        Body::from_stream(stream::iter(pieces)).into_response()
    })
    .await;

    let said = said(&upstream(Kind::Responses, &server)).await;

    assert_eq!(said, (vec![text("Hi", 0), end(Outcome::Completed)], Ok(())));
    let seen = seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.path, "/v1/responses");
    assert_eq!(seen.headers["authorization"], "Bearer sk-secret-key");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(
        seen.body,
        responses::request::body(&model_call(), Form::Stream)
    );
}

#[tokio::test]
async fn chat_is_asked_at_its_own_path() {
    let server = serve(|request| {
        let known = request.path == "/v1/chat/completions";
        if known {
            [CHUNK, STOP].concat()
        } else {
            String::new()
        }
        .into_response()
    })
    .await;

    let said = said(&upstream(Kind::ChatCompletions, &server)).await;

    assert_eq!(said, (vec![text("Hi", 1), end(Outcome::Completed)], Ok(())));
}

#[tokio::test]
async fn a_whole_answer_in_place_of_a_stream_is_read() {
    let server = serve(|request| {
        let body = match request.path.as_str() {
            "/v1/responses" => " \n{\"status\":\"completed\",\"output\":[]}",
            _ => "{\"choices\":[{\"message\":{\"content\":\"Hi\"}}]}",
        };
        body.into_response()
    })
    .await;

    let responses = said(&upstream(Kind::Responses, &server)).await;
    let chat = said(&upstream(Kind::ChatCompletions, &server)).await;

    assert_eq!(responses, (vec![end(Outcome::Completed)], Ok(())));
    assert_eq!(chat, (vec![text("Hi", 1), end(Outcome::Completed)], Ok(())));
}

#[tokio::test]
async fn a_stream_may_end_without_an_end() {
    let server = serve(|_| DELTA.into_response()).await;

    assert_eq!(
        said(&upstream(Kind::Responses, &server)).await,
        (vec![text("Hi", 0)], Ok(()))
    );
}

#[tokio::test]
async fn what_came_before_a_cut_is_not_lost() {
    let server = serve(|_| Body::from_stream(cut_off(vec![Ok(DELTA)])).into_response()).await;

    let said = said(&upstream(Kind::Responses, &server)).await;

    assert_eq!(said, (vec![text("Hi", 0)], Err(CallErrorKind::Broken)));
}

#[tokio::test]
async fn a_cut_after_the_model_was_done_is_no_error() {
    let server =
        serve(|_| Body::from_stream(cut_off(vec![Ok(CHUNK), Ok(STOP)])).into_response()).await;

    let said = said(&upstream(Kind::ChatCompletions, &server)).await;

    assert_eq!(said, (vec![text("Hi", 1), end(Outcome::Completed)], Ok(())));
}

/// REQ-100
#[tokio::test]
async fn every_wait_has_its_deadline() {
    let server = serve(|request| {
        let pieces = if request.path == "/v1/responses" {
            vec![]
        } else {
            vec![Ok(CHUNK)]
        };
        Body::from_stream(silent(pieces)).into_response()
    })
    .await;
    let short = Duration::from_millis(20);
    let base = |kind| UpstreamConfig {
        connect_timeout: short,
        ..config(kind, &server.base_url)
    };
    let first_byte = UpstreamConfig {
        first_byte_timeout: short,
        ..base(Kind::Responses)
    };
    let idle = UpstreamConfig {
        idle_timeout: short,
        ..base(Kind::ChatCompletions)
    };
    let total = UpstreamConfig {
        total_timeout: short,
        ..base(Kind::ChatCompletions)
    };

    for (config, wait) in [
        (first_byte, Wait::FirstByte),
        (idle, Wait::Idle),
        (total, Wait::Total),
    ] {
        let (_, end) = said(&Upstream::new(config).unwrap()).await;
        assert_eq!(end, Err(CallErrorKind::Timeout(wait)));
    }
}

#[tokio::test]
async fn an_upstream_that_answers_and_says_nothing_yet_keeps_nobody_away() {
    let server = serve(|_| Body::from_stream(silent(vec![])).into_response()).await;
    let upstream = upstream(Kind::ChatCompletions, &server);
    let before = Instant::now().checked_sub(Duration::from_secs(16)).unwrap();
    for _ in 0..5 {
        upstream.health.send_modify(|breaker| {
            let call = breaker.admit(before, Duration::ZERO).unwrap();
            breaker.failed(&call, before);
        });
    }
    let _probe = upstream.turn().unwrap();
    assert!(matches!(upstream.turn(), Err(Refusal::Probing(_))));

    let _stream = upstream.call(&model_call(), Form::Stream).await.unwrap();

    assert!(upstream.turn().is_ok());
}

#[tokio::test]
async fn a_refusal_says_why_without_key_or_address() {
    let server = serve(|request| {
        let host = request.headers["host"].to_str().unwrap();
        let body = format!(
            r#"{{"error":{{"message":"{KEY} at http://{host}/v1 is too fast","code":"x","param":"p"}}}}"#
        );
        let headers = [("retry-after", "1.5"), ("content-type", "application/json")];
        (StatusCode::TOO_MANY_REQUESTS, headers, body).into_response()
    })
    .await;

    let error = upstream(Kind::Responses, &server)
        .call(&model_call(), Form::Stream)
        .await
        .unwrap_err();

    let retry_after = Some(Duration::from_millis(1500));
    assert_eq!(
        error.kind,
        CallErrorKind::Status {
            status: 429,
            retry_after
        }
    );
    assert!(error.kind.is_transient());
    let expected = ResponseError {
        code: "rate_limit_exceeded".to_owned(),
        param: Some("p".to_owned()),
        ..server_error("… at http://…/v1 is too fast")
    };
    assert_eq!(*error.error, expected);
}

#[tokio::test]
async fn refusals_without_words_get_some() {
    let cases = [
        (
            StatusCode::BAD_GATEWAY,
            "<html>",
            "The upstream answered with status 502.",
        ),
        (
            StatusCode::NOT_FOUND,
            "{}",
            "The upstream answered with status 404.",
        ),
        (
            StatusCode::FOUND,
            "",
            "The upstream answered with status 302.",
        ),
        (
            StatusCode::UNAUTHORIZED,
            r#"{"error":{"message":"Incorrect API key: sk-s***"}}"#,
            "The upstream refused the server's credentials.",
        ),
    ];
    for (status, body, message) in cases {
        let server = serve(move |_| (status, [("location", "/x")], body).into_response()).await;

        let error = upstream(Kind::Responses, &server)
            .call(&model_call(), Form::Stream)
            .await
            .unwrap_err();

        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind.is_transient(), status == StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test]
async fn a_web_page_is_no_answer() {
    let server = serve(|_| "<!doctype html>".into_response()).await;

    assert_eq!(
        said(&upstream(Kind::Responses, &server)).await,
        (vec![], Err(CallErrorKind::Protocol))
    );
}

#[tokio::test]
async fn an_upstream_that_is_not_there_cannot_be_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let upstream = Upstream::new(config(Kind::Responses, &base_url)).unwrap();

    assert_eq!(said(&upstream).await, (vec![], Err(CallErrorKind::Connect)));
}

#[tokio::test]
async fn an_error_in_the_stream_does_not_name_the_key() {
    let server = serve(|_| {
        let frame = format!(r#"data: {{"type":"error","message":"bad key {KEY}"}}"#);
        frame.into_response()
    })
    .await;

    let said = said(&upstream(Kind::Responses, &server)).await;

    assert_eq!(
        said,
        (
            vec![end(Outcome::Failed(server_error("bad key …")))],
            Ok(())
        )
    );
}

#[tokio::test]
async fn no_part_of_an_error_names_the_key_nor_a_piece_of_it() {
    // The key stands where the message is cut.
    let before = "x".repeat(1_000 - KEY.len() / 2);
    let error = format!(r#"{{"message":"{before}{KEY}","type":"of {KEY}","param":"p {KEY}"}}"#);
    let (refused, told) = (error.clone(), format!(r#"data: {{"error":{error}}}"#));
    let refusing = serve(move |_| (StatusCode::BAD_REQUEST, refused.clone()).into_response()).await;
    let telling = serve(move |_| told.clone().into_response()).await;
    let refusal = upstream(Kind::Responses, &refusing)
        .call(&model_call(), Form::Stream)
        .await
        .unwrap_err();
    let (mut said, _) = said(&upstream(Kind::ChatCompletions, &telling)).await;

    let expected = ResponseError {
        r#type: "of …".to_owned(),
        param: Some("p …".to_owned()),
        ..server_error(format!("{before}…"))
    };
    assert_eq!(said.pop(), Some(end(Outcome::Failed(expected.clone()))));
    assert_eq!(*refusal.error, expected);
}

/// Tells when the body of an answer is dropped.
struct DropTold(Option<oneshot::Sender<()>>);

impl Drop for DropTold {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            let _ = told.send(());
        }
    }
}

#[tokio::test]
async fn dropping_the_stream_ends_the_request() {
    let (told, dropped) = oneshot::channel();
    let told = Arc::new(Mutex::new(Some(told)));
    let server = serve(move |_| {
        let guard = DropTold(told.lock().unwrap().take());
        let body = silent(vec![Ok(DELTA)]).map(move |piece| {
            let _alive = &guard;
            piece
        });
        Body::from_stream(body).into_response()
    })
    .await;
    let mut stream = upstream(Kind::Responses, &server)
        .call(&model_call(), Form::Stream)
        .await
        .unwrap();
    let mut events = Vec::new();
    assert!(stream.next(&mut events).await.unwrap());

    drop(stream);

    dropped.await.unwrap();
}

#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again() {
    let (send, receive) = mpsc::channel::<Piece>(1);
    let receive = Arc::new(Mutex::new(Some(receive)));
    let server = serve(move |_| {
        let mut receive = receive.lock().unwrap().take().unwrap();
        Body::from_stream(stream::poll_fn(move |context| receive.poll_recv(context)))
            .into_response()
    })
    .await;
    let mut stream = upstream(Kind::Responses, &server)
        .call(&model_call(), Form::Stream)
        .await
        .unwrap();
    let mut events = Vec::new();
    assert!(futures::FutureExt::now_or_never(stream.next(&mut events)).is_none());

    send.send(Ok(DELTA)).await.unwrap();
    send.send(Ok(COMPLETED)).await.unwrap();
    while stream.next(&mut events).await.unwrap() {}

    assert_eq!(events, vec![text("Hi", 0), end(Outcome::Completed)]);
}

#[tokio::test]
async fn a_drained_connection_serves_the_next_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&peers);
    let router = Router::new().fallback(
        async move |axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<
            std::net::SocketAddr,
        >| {
            seen.lock().unwrap().push(peer);
            let pieces: [Piece; 2] = [Ok(COMPLETED), Ok("data: [DONE]\n\n")];
            Body::from_stream(stream::iter(pieces))
        },
    );
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, service).await.unwrap() });
    let upstream = Upstream::new(config(Kind::Responses, &base_url)).unwrap();

    for _ in 0..2 {
        let mut stream = upstream.call(&model_call(), Form::Stream).await.unwrap();
        let mut events = Vec::new();
        while stream.next(&mut events).await.unwrap() {}
        stream.drain().await;
    }

    let peers = peers.lock().unwrap();
    assert_eq!(peers[0], peers[1]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let with = |base_url: &str, key: &str| {
        let config = UpstreamConfig {
            api_key: Some(key.into()),
            ..config(Kind::Responses, base_url)
        };
        Upstream::new(config)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };

    let base_url = "the base URL of upstream 'test' is no http(s) URL";
    assert_eq!(with("nowhere", KEY), Err(base_url.to_owned()));
    assert_eq!(with("ftp://a/v1", KEY), Err(base_url.to_owned()));
    let api_key = "the API key of upstream 'test' has characters that no header may have";
    assert_eq!(with("http://a/v1", "a\nb"), Err(api_key.to_owned()));
    assert_eq!(with("https://a/v1", KEY), Ok(()));
}

#[tokio::test]
async fn the_demo_answers_without_a_network() {
    let (events, end) = said(&Upstream::demo("demo", Duration::ZERO)).await;

    assert_eq!(end, Ok(()));
    assert!(matches!(
        events.last(),
        Some(ModelEvent::Finished {
            outcome: Outcome::Completed,
            ..
        })
    ));
}
