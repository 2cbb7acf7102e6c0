//! Sends requests to an upstream and reads what comes back, with a deadline on every wait.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Url};
use secrecy::ExposeSecret;
use talaria_proto::v1::ResponseError;
use talaria_runtime::clock;
use tokio::time::{Instant, timeout_at};

use super::retry_after::retry_after;
use super::{CallError, Error, Form, UpstreamConfig, Wait, lenient};

/// How much of a refusal's body is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// One upstream's connections.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
    total_timeout: Duration,
    unspeakable: Unspeakable,
}

/// The body of an answer, as it arrives.
#[derive(Debug)]
pub struct Body {
    /// Without the head of the response, which would keep hold of a whole buffer of the connection's.
    content: reqwest::Body,
    /// Until when the first byte must have come; `None` after it.
    first_byte: Option<Instant>,
    idle_timeout: Duration,
    total: Instant,
    /// A result that came while only bytes could be taken.
    postponed: Option<reqwest::Result<Option<Bytes>>>,
    unspeakable: Unspeakable,
}

/// The upstream's key and addresses, which no message may name.
#[derive(Clone)]
struct Unspeakable(Arc<[String]>);

impl Client {
    /// A client for `POST {base_url}/{path}` and what lies below it.
    pub fn new(config: &UpstreamConfig, path: &str) -> Result<Self, Error> {
        let name = || config.name.clone();
        let mut url = Url::parse(&config.base_url).map_err(|_| Error::BaseUrl { name: name() })?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Error::BaseUrl { name: name() });
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        let key = config.api_key.as_ref().map(ExposeSecret::expose_secret);
        let http = reqwest::Client::builder()
            .user_agent(concat!("talaria/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(key).ok_or_else(|| Error::ApiKey { name: name() })?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .connect_timeout(config.connect_timeout)
            .build()
            .map_err(|source| Error::Client {
                name: name(),
                source,
            })?;
        Ok(Self {
            http,
            first_byte_timeout: config.connect_timeout + config.first_byte_timeout,
            idle_timeout: config.idle_timeout,
            total_timeout: config.total_timeout,
            unspeakable: Unspeakable::new(key, &config.base_url, &url),
            url,
        })
    }

    /// Sends a JSON body and returns once the upstream has accepted it.
    pub async fn post(&self, body: String, form: Form) -> Result<Body, CallError> {
        let request = self.http.post(self.url.clone()).body(body);
        self.send(request, form).await
    }

    /// Sends a `POST` without a body to what lies at `path` below the client's own.
    pub async fn post_to(&self, path: &[&str]) -> Result<Body, CallError> {
        let request = self.http.post(self.below(path)).body("{}");
        self.send(request, Form::Whole).await
    }

    /// Asks for the stream at `path` below the client's own, which is read until `until`.
    pub async fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        until: Instant,
    ) -> Result<Body, CallError> {
        if until <= Instant::now() {
            return Err(CallError::timeout(Wait::Total));
        }
        let mut url = self.below(path);
        url.query_pairs_mut().extend_pairs(query);
        let mut body = self.send(self.http.get(url), Form::Stream).await?;
        body.total = body.total.min(until);
        Ok(body)
    }

    fn below(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        url
    }

    async fn send(&self, request: RequestBuilder, form: Form) -> Result<Body, CallError> {
        let now = Instant::now();
        let total = now + self.total_timeout;
        let first_byte = match form {
            Form::Stream | Form::Kept => now + self.first_byte_timeout,
            // Nothing comes before everything does.
            Form::Whole => total,
        };
        let response = match timeout_at(first_byte.min(total), request.send()).await {
            Err(_) => return Err(CallError::timeout(Wait::FirstByte)),
            Ok(Err(error)) if error.is_connect() => return Err(CallError::connect(error)),
            Ok(Err(error)) => return Err(CallError::broken(error)),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let retry_after = if status.is_success() {
            None
        } else {
            let now = UNIX_EPOCH + Duration::from_millis(clock::unix_millis().unsigned_abs());
            retry_after(response.headers(), now)
        };
        let mut body = Body {
            content: response.into(),
            first_byte: Some(first_byte),
            idle_timeout: self.idle_timeout,
            total,
            postponed: None,
            unspeakable: self.unspeakable.clone(),
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(body.refusal(status.as_u16(), retry_after).await)
    }
}

fn headers(key: Option<&str>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        ACCEPT,
        HeaderValue::from_static("text/event-stream, application/json"),
    );
    if let Some(key) = key {
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).ok()?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Some(headers)
}

impl Body {
    /// The next bytes, or `None` at the end. Waits no longer than `at_most`, if given. Cancel-safe.
    pub async fn next(&mut self, at_most: Option<Duration>) -> Result<Option<Bytes>, CallError> {
        let read = if let Some(read) = self.postponed.take() {
            read
        } else {
            let (deadline, wait) = self.deadline(at_most);
            let read = timeout_at(deadline, self.chunk()).await;
            read.map_err(|_| CallError::timeout(wait))?
        };
        self.first_byte = None;
        read.map_err(CallError::broken)
    }

    /// Bytes that have arrived already.
    pub fn next_ready(&mut self) -> Option<Bytes> {
        if self.postponed.is_some() {
            return None;
        }
        match self.chunk().now_or_never()? {
            Ok(Some(bytes)) => Some(bytes),
            other => {
                self.postponed = Some(other);
                None
            }
        }
    }

    /// The next bytes, or `None` at the end. Cancel-safe.
    async fn chunk(&mut self) -> reqwest::Result<Option<Bytes>> {
        while let Some(frame) = self.content.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads up to the end and drops what comes.
    pub async fn drain(&mut self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        while let Ok(Ok(Some(_))) = timeout_at(deadline, self.next(None)).await {}
    }

    /// Takes the upstream's key and addresses out of what its error says, and then cuts that to what can be shown.
    pub fn redact(&self, error: &mut ResponseError) {
        let texts = [&mut error.message, &mut error.r#type];
        for text in texts.into_iter().chain(&mut error.param) {
            *text = lenient::shortened(self.unspeakable.redacted(text));
        }
    }

    fn deadline(&self, at_most: Option<Duration>) -> (Instant, Wait) {
        let (silence, wait) = match self.first_byte {
            Some(first_byte) => (first_byte, Wait::FirstByte),
            None => (Instant::now() + self.idle_timeout, Wait::Idle),
        };
        let silence = match at_most {
            Some(at_most) => silence.min(Instant::now() + at_most),
            None => silence,
        };
        if self.total < silence {
            (self.total, Wait::Total)
        } else {
            (silence, wait)
        }
    }

    /// What an answer that is no success means. A body that breaks off or does not come says what it says so far.
    async fn refusal(&mut self, status: u16, retry_after: Option<Duration>) -> CallError {
        let mut body = Vec::new();
        while let Ok(Some(bytes)) = self.next(None).await {
            let room = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if body.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        let mut error = CallError::status(status, retry_after, &String::from_utf8_lossy(&body));
        self.redact(&mut error.error);
        error
    }
}

impl Unspeakable {
    fn new(key: Option<&str>, base_url: &str, url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let address = url.port().map(|port| format!("{host}:{port}"));
        let strings = [
            key.map(str::to_owned),
            Some(base_url.to_owned()),
            address,
            Some(host.to_owned()),
        ];
        Self(
            strings
                .into_iter()
                .flatten()
                .filter(|text| !text.is_empty())
                .collect(),
        )
    }

    fn redacted(&self, message: &str) -> String {
        self.0.iter().fold(message.to_owned(), |message, text| {
            message.replace(text.as_str(), "…")
        })
    }
}

impl std::fmt::Debug for Unspeakable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unspeakable")
    }
}
