//! The HTTP server: hyper by hand, because slow peers need deadlines that the stock one has not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::Gateway;
use crate::front::{LocalAddress, router};

/// How long a connection may take to say what it speaks, and then to send a request's head.
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
    let protocols = Arc::new(Protocols::new());
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
        let (protocols, stop) = (Arc::clone(&protocols), stop.clone());
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let spoken = protocols.spoken(&socket);
            let spoken = tokio::time::timeout(HEAD, stop.run_until_cancelled(spoken));
            let Ok(Some(Ok(protocol))) = spoken.await else {
                return;
            };
            let connection = protocol.serve_connection(TokioIo::new(socket), service);
            if let Err(error) = watcher.watch(connection).await {
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

/// What connections may speak.
struct Protocols {
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

/// What every connection of HTTP/2 begins with that was not agreed upon before. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks that begins with these bytes; not known while they are part of what HTTP/2 begins with.
fn version(first: &[u8]) -> Option<Version> {
    if first.is_empty() || !PREFACE.starts_with(first) {
        Some(Version::HTTP_11)
    } else if first.len() == PREFACE.len() {
        Some(Version::HTTP_2)
    } else {
        None
    }
}

impl Protocols {
    fn new() -> Self {
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
        Self {
            http1: server.clone().http1_only(),
            http2: server.http2_only(),
        }
    }

    /// What the connection speaks, once its first bytes are there.
    ///
    /// hyper finds that out, too, but without a deadline; and then it has read the first bytes by themselves, so that its
    /// buffer is twice as large for as long as the connection lasts.
    async fn spoken(&self, socket: &TcpStream) -> std::io::Result<&auto::Builder<TokioExecutor>> {
        let mut first = [0; PREFACE.len()];
        let mut pause = Duration::from_millis(5);
        loop {
            let length = socket.peek(&mut first).await?;
            match version(&first[..length]) {
                Some(Version::HTTP_2) => return Ok(&self.http2),
                Some(_) => return Ok(&self.http1),
                // Peeking returns at once while there is something: there is no waiting for more of it.
                None => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_known_once_enough_has_come() {
        let table: [(&[u8], Option<Version>); 7] = [
            (b"", Some(Version::HTTP_11)),
            (b"G", Some(Version::HTTP_11)),
            (b"P", None),
            (b"PO", Some(Version::HTTP_11)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/1.1\r\nhost: x\r\n", Some(Version::HTTP_11)),
            (PREFACE, Some(Version::HTTP_2)),
        ];
        for (first, expected) in table {
            assert_eq!(version(first), expected, "{first:?}");
        }
    }
}
