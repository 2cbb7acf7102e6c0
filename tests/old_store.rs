//! A new orchestrator on a store of the version before, as there is for a while when one after the other is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use prost::Message as _;
use serde_json::{Value, json};
use talaria_proto::v1::FinishRunRequest;
use talaria_testkit::check;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::sse::Reader;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tower::ServiceExt as _;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const WORDS: usize = 100;
/// Of a gRPC message: a byte that says whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A real store, behind something that hides from it what stores did not know then.
struct OldStore {
    url: String,
    hidden: Arc<Hidden>,
    _server: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
}

/// How often.
#[derive(Debug, Default)]
struct Hidden {
    /// Calls that it did not have.
    calls: AtomicUsize,
    /// Fields that it would not read.
    fields: AtomicUsize,
}

impl OldStore {
    async fn start(real: String) -> anyhow::Result<Self> {
        let hidden = Arc::<Hidden>::default();
        let real = Endpoint::from_shared(real)?.connect_lazy();
        let state = (real, Arc::clone(&hidden));
        let router = Router::new().fallback(forward).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = Server::builder()
            .add_routes(Routes::from(router))
            .serve_with_incoming(TcpIncoming::from(listener));
        let server: JoinHandle<_> = {
            #[expect(
                clippy::disallowed_methods,
                reason = "it is aborted when it is dropped"
            )]
            tokio::spawn(server)
        };
        Ok(Self {
            url,
            hidden,
            _server: AbortOnDropHandle::new(server),
        })
    }
}

async fn forward(
    State((real, hidden)): State<(Channel, Arc<Hidden>)>,
    request: Request,
) -> Response {
    match try_forward(real, &hidden, request).await {
        Ok(answer) => answer,
        Err(error) => Status::internal(format!("{error:#}")).into_http(),
    }
}

async fn try_forward(real: Channel, hidden: &Hidden, request: Request) -> anyhow::Result<Response> {
    let (mut head, mut body) = request.into_parts();
    // It may change.
    head.headers.remove(CONTENT_LENGTH);
    if head.uri.path().ends_with("/AppendBatch") {
        hidden.calls.fetch_add(1, Ordering::Relaxed);
        return Ok(Status::new(Code::Unimplemented, "").into_http());
    }
    if head.uri.path().ends_with("/FinishRun") {
        let bytes = to_bytes(body, usize::MAX).await?;
        body = without_admission(&bytes, hidden)?.into();
    }
    let body = tonic::body::Body::new(body);
    let answer = real.oneshot(Request::from_parts(head, body)).await?;
    Ok(answer.map(Body::new))
}

fn without_admission(framed: &[u8], hidden: &Hidden) -> anyhow::Result<Bytes> {
    let (prefix, message) = framed
        .split_at_checked(PREFIX_BYTES)
        .context("no gRPC message")?;
    ensure!(prefix[0] == 0, "it is compressed");
    let mut finish = FinishRunRequest::decode(message)?;
    if finish.admission.take().is_some() {
        hidden.fields.fetch_add(1, Ordering::Relaxed);
    }
    let mut framed = BytesMut::from([0].as_slice());
    framed.put_u32(u32::try_from(finish.encoded_len())?);
    finish.encode(&mut framed)?;
    Ok(framed.freeze())
}

/// A stack with a gateway before a new orchestrator, before an old store.
async fn stack() -> anyhow::Result<(Stack, OldStore)> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    let store = OldStore::start(stack.url_of(0)?).await?;
    let orchestrator = stack.start_orchestrator(&store.url, "127.0.0.1:0").await?;
    let gateway = stack
        .start_gateway(&store.url, &orchestrator, "127.0.0.1:0")
        .await?;
    stack.gateways = vec![gateway];
    Ok((stack, store))
}

async fn replay(stack: &Stack, id: &Value) -> anyhow::Result<check::Summary> {
    let id = id.as_str().context("no id")?;
    let url = stack.url(&format!("/v1/responses/{id}?stream=true"));
    let frames = Reader::new(stack.http.get(url).send().await?).await?;
    check::stream(&frames.collect().await?).map_err(anyhow::Error::msg)
}

/// A run that ends in a moment is written at once; on a busy machine not every one does.
#[tokio::test]
async fn a_run_that_an_old_store_cannot_write_at_once_is_admitted_and_finished()
-> anyhow::Result<()> {
    let (stack, store) = stack().await?;
    let script = || ResponsesStream::new().text(&["one ", "two"]).completed();
    stack.upstream.choose(move |_| Some(script()));
    let runs = async {
        let mut runs = 0;
        while store.hidden.fields.load(Ordering::Relaxed) == 0 {
            let answer = stack.create(&json!({"input": "x"})).await?;
            let response: Value = answer.error_for_status()?.json().await?;
            let seen = replay(&stack, &response["id"]).await?;
            assert_eq!((seen.text.as_str(), &seen.response), ("one two", &response));
            assert_eq!(seen.status, "completed");
            runs += 1;
        }
        anyhow::Ok(runs)
    };

    let runs =
        within_duration("a run that ends in a moment", Duration::from_mins(1), runs).await??;

    assert_eq!(stack.upstream.requests().len(), runs);
    Ok(())
}

#[tokio::test]
async fn events_that_an_old_store_cannot_take_together_are_appended_one_by_one()
-> anyhow::Result<()> {
    let (stack, store) = stack().await?;
    // Those that come soon after others go to the store together.
    let script = ResponsesStream::new()
        .open_text()
        .pace(Duration::from_millis(5))
        .deltas(&["word "; WORDS])
        .close()
        .completed();
    stack.upstream.push(script);

    let reader = stack.stream(&json!({"input": "x"})).await?;
    let frames = reader.collect().await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.text, "word ".repeat(WORDS));
    assert_eq!(replay(&stack, &seen.response["id"]).await?, seen);
    assert!(store.hidden.calls.load(Ordering::Relaxed) > 0);
    Ok(())
}
