//! The HTTP server: hyper by hand, because slow peers need deadlines that the stock one has not.

use std::time::Duration;

use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::Gateway;
use crate::front::{LocalAddress, router};

/// How long a connection may take to send a request's head.
const HEAD: Duration = Duration::from_secs(30);
/// How long connections may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until `stop`; then open streams end, and what is being answered is answered.
pub async fn serve(
    gateway: Gateway,
    listener: TcpListener,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let tasks = gateway.tasks.clone();
    let router = router(gateway);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(256);
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of descriptors, or a connection that was gone at once: the next one may be luckier.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Frames are whole when they are written; waiting to fill packets only delays them.
        let _ = socket.set_nodelay(true);
        let Ok(local) = socket.local_addr() else {
            continue;
        };
        // Not a layer: that would build every route anew for each connection.
        let service = router
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request
                    .extensions_mut()
                    .insert(ConnectInfo(LocalAddress(local)));
                request
            });
        let service = TowerToHyperService::new(service);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(socket), service);
        let connection = graceful.watch(connection.into_owned());
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection broke");
            }
        });
    }
    drop(listener);
    connections.close();
    let ended = async {
        graceful.shutdown().await;
        connections.wait().await;
        tasks.close();
        tasks.wait().await;
    };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::info!("some connections did not end in time");
    }
    Ok(())
}
