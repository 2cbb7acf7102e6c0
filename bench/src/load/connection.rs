//! One keep-alive HTTP/1.1 connection, driven by the task that uses it.

use std::net::SocketAddr;
use std::pin::{Pin, pin};

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What does the connection's I/O.
type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

/// A connection to one server.
///
/// A task of its own for the connection's I/O would cost a wake-up for each piece that is read, so whoever waits
/// here does that work meanwhile.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once the server has closed the connection.
    driver: Option<Driver>,
    host: String,
}

/// An answer whose head has come.
pub struct Answer<'a> {
    pub status: StatusCode,
    /// Whether it says when to ask again.
    pub retry_after: bool,
    connection: &'a mut Connection,
    body: Incoming,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .context("opening the connection")?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
            host: address.to_string(),
        })
    }

    /// Sends a request and waits for the head of its answer, whose status must be 200.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer<'_>> {
        let mut answer = self.exchange(method, path, body).await?;
        if answer.status != StatusCode::OK {
            let said = answer.whole().await.unwrap_or_default();
            anyhow::bail!(
                "answered {}: {}",
                answer.status,
                String::from_utf8_lossy(&said)
            );
        }
        Ok(answer)
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer<'_>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("building the request")?;
        let Self { sender, driver, .. } = self;
        let response = driving(driver, async {
            sender.ready().await?;
            sender.send_request(request).await
        })
        .await
        .context("sending the request")?;

        Ok(Answer {
            status: response.status(),
            retry_after: response.headers().contains_key(RETRY_AFTER),
            connection: self,
            body: response.into_body(),
        })
    }
}

impl Answer<'_> {
    /// The next bytes, or `None` at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let frame = driving(&mut self.connection.driver, self.body.frame()).await;
            match frame.transpose().context("reading the answer")? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Everything up to the end.
    pub async fn whole(&mut self) -> anyhow::Result<Bytes> {
        let body = driving(&mut self.connection.driver, (&mut self.body).collect()).await;
        Ok(body.context("reading the answer")?.to_bytes())
    }
}

/// Waits for `what` and does the connection's work meanwhile.
async fn driving<T>(driver: &mut Option<Driver>, what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    if let Some(open) = driver {
        tokio::select! {
            biased;
            result = &mut what => return result,
            // Why it ended is told by what was waited for.
            _ = open => *driver = None,
        }
    }
    what.await
}
