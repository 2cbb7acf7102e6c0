//! The HTTP side of the scripted server: connections, and scripts played on them.
//!
//! hyper rather than a web framework, because a service that fails is how a connection is cut before its head.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::record::{Ending, EndingTeller, record};
use super::{Request, Script, Shared, Step, lock};

/// Why a connection broke: because the script said so.
#[derive(Debug)]
struct CutByScript;

impl std::fmt::Display for CutByScript {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the script cut the connection")
    }
}

impl std::error::Error for CutByScript {}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, CutByScript>>>;

/// Serves connections until it is dropped.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Without it a small frame may wait for the client's acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, shared.clone()));
            // How it ended is in the records.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: http::Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, CutByScript> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| CutByScript)?.to_bytes();
    let (request, teller) = record(&parts, &body);
    // The script is taken before the request shows, so that requests and scripts are numbered alike.
    let script = choose_script(&request, &shared);
    shared
        .requests
        .send_modify(|requests| requests.push(request));

    let mut gates = shared.open_gates.subscribe();
    for step in &script.before_head {
        if let Err(cut) = play(step, &mut gates).await {
            teller.tell(Ending::Cut);
            return Err(cut);
        }
    }
    let mut response = Response::builder().status(script.status);
    for (name, value) in &script.headers {
        response = response.header(name, value);
    }
    let body = StreamBody::new(play_body(script.steps.into(), gates, teller).boxed());
    response.body(body).map_err(|_| CutByScript)
}

fn choose_script(request: &Request, shared: &Shared) -> Script {
    let chosen = lock(&shared.chooser)
        .as_ref()
        .and_then(|chooser| chooser(request));
    if let Some(script) = chosen {
        return script;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let is_generation = path.ends_with("/responses") || path.ends_with("/chat/completions");
    if request.method != Method::POST || !is_generation {
        return Script::error(
            404,
            "not_found",
            "the scripted upstream does not know this path",
        );
    }
    lock(&shared.scripts).pop_front().unwrap_or_else(|| {
        Script::error(500, "no_script", "the scripted upstream has no script left")
    })
}

fn play_body(
    steps: VecDeque<Step>,
    gates: watch::Receiver<HashSet<String>>,
    teller: EndingTeller,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, CutByScript>> + Send + 'static {
    stream::unfold(
        (steps, gates, teller),
        |(mut steps, mut gates, teller)| async move {
            // hyper flushes what it has when a body has nothing ready, so every step begins with that: frames leave one
            // by one, and a cut takes nothing along that was sent before it.
            tokio::task::yield_now().await;
            loop {
                let Some(step) = steps.pop_front() else {
                    teller.tell(Ending::Completed);
                    return None;
                };
                match play(&step, &mut gates).await {
                    Ok(Some(bytes)) => {
                        return Some((Ok(Frame::data(bytes)), (steps, gates, teller)));
                    }
                    Ok(None) => {}
                    Err(cut) => {
                        teller.tell(Ending::Cut);
                        return Some((Err(cut), (steps, gates, teller)));
                    }
                }
            }
        },
    )
}

/// Does one step; returns what it sends.
async fn play(
    step: &Step,
    gates: &mut watch::Receiver<HashSet<String>>,
) -> Result<Option<Bytes>, CutByScript> {
    match step {
        Step::Send(bytes) => return Ok(Some(bytes.clone())),
        Step::Pause(duration) => tokio::time::sleep(*duration).await,
        // A test that is over opens nothing any more; its server is about to be dropped.
        Step::Gate(name) => drop(gates.wait_for(|open| open.contains(name)).await),
        Step::Cut => return Err(CutByScript),
    }
    Ok(None)
}
