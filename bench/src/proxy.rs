//! A proxy that only copies bytes: what standing in between costs on this machine at the least.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::serve;

/// Serves until the parent process ends.
pub async fn serve(upstream: SocketAddr) -> anyhow::Result<Infallible> {
    serve::connections("the proxy", |client| async move {
        if let Err(error) = between(client, upstream).await {
            eprintln!("the proxy: {error:#}");
        }
    })
    .await
}

/// Serves one client through a connection to the upstream of its own.
async fn between(client: TcpStream, upstream: SocketAddr) -> anyhow::Result<()> {
    let stream = TcpStream::connect(upstream)
        .await
        .context("connecting to the upstream")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    let (sender, to_upstream) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("greeting the upstream")?;

    let sender = Arc::new(Mutex::new(Some(sender)));
    let forward = service_fn(move |request| forwarded(Arc::clone(&sender), request));
    let to_client =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), forward);
    tokio::select! {
        // A client that goes away in the middle is none of our business.
        _ = to_client => Ok(()),
        ended = to_upstream => ended.context("speaking to the upstream"),
    }
}

/// Forwards one request. The sender is taken for as long as it waits, so no lock is held meanwhile.
async fn forwarded(
    slot: Arc<Mutex<Option<SendRequest<Incoming>>>>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Incoming>> {
    let mut sender = locked(&slot)
        .take()
        .context("a second request while the first is being sent")?;
    sender.ready().await.context("waiting for the upstream")?;
    let response = sender.send_request(request);
    *locked(&slot) = Some(sender);
    response.await.context("asking the upstream")
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
