//! Requests that were answered before their body was read: the connection is made fit for the next one, or given up.
//!
//! hyper closes a connection whose request it could not read to the end, without a word. A client that keeps its
//! connections would then send its next request into the void.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use tokio::sync::oneshot;

/// The most that is read in vain.
const SMALL: u64 = 64 * 1024;
/// How long it may take.
const SOON: Duration = Duration::from_secs(5);

/// Reads what is left of a small body before the answer goes out; after a large one, the answer says `Connection: close`.
pub async fn settle_body(request: Request, next: Next) -> Response {
    if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Such a client sends no body before it is asked to, and reading would ask it to.
    let waits = request.headers().contains_key(header::EXPECT);
    let (unread, mut returned) = oneshot::channel();
    let lend = |body| Lent {
        body,
        has_ended: false,
        unread: Some(unread),
    };
    let mut response = next.run(request.map(|body| Body::new(lend(body)))).await;
    if let Ok(body) = returned.try_recv()
        && (waits || !is_read(body).await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Whether `body` was small and came to its end.
async fn is_read(body: Body) -> bool {
    if body.size_hint().lower() > SMALL {
        return false;
    }
    let mut body = Limited::new(body, usize::try_from(SMALL).unwrap_or(usize::MAX));
    let to_the_end = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(SOON, to_the_end).await == Ok(true)
}

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Body,
    has_ended: bool,
    unread: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.has_ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.has_ended || self.body.is_end_stream() {
            return;
        }
        if let Some(unread) = self.unread.take() {
            let _ = unread.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use http::StatusCode;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinSet;

    use super::*;

    const NEXT: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    /// A connection to a server that refuses everything without a look at the body.
    fn connect(tasks: &mut JoinSet<()>) -> DuplexStream {
        let refuse = async |_: Request| StatusCode::UNAUTHORIZED;
        let router = Router::new().fallback(refuse).layer(from_fn(settle_body));
        let (client, server) = tokio::io::duplex(4096);
        tasks.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(router);
            // It is the client that looks how the connection ends.
            let _ = builder
                .serve_connection(TokioIo::new(server), service)
                .await;
        });
        client
    }

    /// The status lines and the `connection` headers of all answers until the server closes.
    async fn answers(mut client: DuplexStream) -> std::io::Result<Vec<String>> {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let told = |line: &&str| line.starts_with("HTTP/") || line.starts_with("connection:");
        Ok(text.lines().filter(told).map(str::to_owned).collect())
    }

    #[tokio::test]
    async fn a_connection_serves_on_after_a_refusal_that_came_before_the_body()
    -> std::io::Result<()> {
        for framing in ["content-length: 7", "transfer-encoding: chunked"] {
            let mut tasks = JoinSet::new();
            let mut client = connect(&mut tasks);
            let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n");
            client.write_all(head.as_bytes()).await?;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let body = if framing.ends_with('7') {
                "{\"a\":1}"
            } else {
                "2\r\n{}\r\n0\r\n\r\n"
            };
            client.write_all(body.as_bytes()).await?;
            client.write_all(NEXT.as_bytes()).await?;

            let expected = [
                "HTTP/1.1 401 Unauthorized",
                "HTTP/1.1 401 Unauthorized",
                "connection: close",
            ];
            assert_eq!(answers(client).await?, expected, "{framing}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_refusal_of_a_body_that_is_not_worth_reading_ends_the_connection_and_says_so()
    -> std::io::Result<()> {
        for head in [
            "content-length: 1000000",
            "content-length: 2\r\nexpect: 100-continue",
        ] {
            let mut tasks = JoinSet::new();
            let mut client = connect(&mut tasks);
            let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n");
            client.write_all(head.as_bytes()).await?;

            let expected = ["HTTP/1.1 401 Unauthorized", "connection: close"];
            assert_eq!(answers(client).await?, expected, "{head}");
        }
        Ok(())
    }
}
