//! Speaks HTTP with a server, and notes what went wrong in words that may be shown.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue};
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
    StreamableHttpPostResponse,
};
use secrecy::{ExposeSecret, SecretString};
use sse_stream::Sse;

use super::super::egress::{Egress, Guarded, Refusal, System};
use super::session;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one message of a stream; pictures come in one piece.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

type HttpError = StreamableHttpError<reqwest::Error>;

/// Why a server cannot be spoken with, without anything that it said or was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::tools) enum Trouble {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("a header for it is none that HTTP takes")]
    Header,
    #[error("it refuses the credentials that it is sent, or wants some")]
    Unauthorized,
    #[error("it cannot be reached")]
    Unreachable,
    #[error("it answered with {0}")]
    Answer(String),
}

/// An HTTP client for one server. Clones share what they note.
#[derive(Clone, Debug)]
pub(super) struct Client {
    inner: reqwest::Client,
    noted: Arc<Mutex<Option<Trouble>>>,
    /// Counts what says that another process may answer from then on: its tools may be others.
    changes: Arc<AtomicU64>,
}

impl Client {
    /// Prepares a client and the transport's configuration for a server; connects to nothing.
    pub(super) fn new(
        url: &str,
        headers: &[(String, SecretString)],
        egress: Option<&Arc<Egress>>,
        changes: Arc<AtomicU64>,
    ) -> Result<(Self, StreamableHttpClientTransportConfig), Trouble> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT);
        let mut url = url.to_owned();
        if let Some(egress) = egress {
            let checked = egress.check(&url)?;
            let resolver = Guarded::new(Arc::clone(egress), &checked, System);
            // A proxy would look names up itself, and what is packed small may be large.
            builder = builder.no_proxy().dns_resolver(Arc::new(resolver));
            builder = builder.no_gzip().no_brotli().no_zstd().no_deflate();
            url = checked.url;
        }
        let config = StreamableHttpClientTransportConfig::with_uri(url)
            .max_sse_event_size(MAX_EVENT_BYTES)
            .custom_headers(sensitive(headers)?);
        let client = Self {
            inner: builder.build().map_err(|_| Trouble::Unreachable)?,
            noted: Arc::default(),
            changes,
        };
        Ok((client, config))
    }

    /// What went wrong last.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.clone()
    }

    /// Notes why a message did not arrive.
    fn note<T>(&self, sent: Result<T, HttpError>) -> Result<T, HttpError> {
        sent.map_err(|error| {
            let (trouble, error) = told(error);
            if trouble.is_some() {
                let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
                *noted = trouble;
            }
            self.count(error)
        })
    }

    fn count(&self, error: HttpError) -> HttpError {
        if matches!(error, HttpError::SessionExpired | HttpError::Client(_)) {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        error
    }
}

/// An error without what the server said and without its URL, either of which may hold secrets; and what may be shown.
fn told(error: HttpError) -> (Option<Trouble>, HttpError) {
    match error {
        HttpError::Client(error) => {
            let trouble = match (refusal_in(&error), error.status()) {
                (Some(refusal), _) => Trouble::Refused(refusal),
                (None, Some(status)) => Trouble::Answer(format!("HTTP {status}")),
                (None, None) => Trouble::Unreachable,
            };
            (Some(trouble), HttpError::Client(error.without_url()))
        }
        HttpError::UnexpectedServerResponse(text) => {
            let status = match text.split_once(':') {
                Some((status, _)) if status.starts_with("HTTP ") => status.to_owned(),
                Some(_) | None => "what is no MCP".to_owned(),
            };
            let trouble = match status.get(..8) {
                Some("HTTP 401" | "HTTP 403") => Trouble::Unauthorized,
                Some(_) | None => Trouble::Answer(status.clone()),
            };
            (
                Some(trouble),
                HttpError::UnexpectedServerResponse(Cow::Owned(status)),
            )
        }
        HttpError::AuthRequired(_) | HttpError::InsufficientScope(_) => {
            let text = Cow::Borrowed("it refuses the credentials");
            (
                Some(Trouble::Unauthorized),
                HttpError::UnexpectedServerResponse(text),
            )
        }
        HttpError::HttpStatus(status) => (
            Some(Trouble::Answer(format!("HTTP {}", status.status))),
            HttpError::HttpStatus(status),
        ),
        HttpError::UnexpectedContentType(_) => {
            let trouble = Trouble::Answer("what is no MCP".to_owned());
            (Some(trouble), HttpError::UnexpectedContentType(None))
        }
        HttpError::ResponseBodyTooLarge { max_size } => {
            let trouble = Trouble::Answer("too much".to_owned());
            (Some(trouble), HttpError::ResponseBodyTooLarge { max_size })
        }
        other => (None, other),
    }
}

/// The egress rule that kept a request from being sent, if one did.
pub(in crate::tools) fn refusal_in(error: &reqwest::Error) -> Option<Refusal> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.clone());
        }
        cause = error.source();
    }
    None
}

/// The headers, marked so that nobody prints their values.
fn sensitive(
    headers: &[(String, SecretString)],
) -> Result<HashMap<HeaderName, HeaderValue>, Trouble> {
    let header = |(name, value): &(String, SecretString)| {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| Trouble::Header)?;
        let mut value =
            HeaderValue::from_str(value.expose_secret()).map_err(|_| Trouble::Header)?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    headers.iter().map(header).collect()
}

impl StreamableHttpClient for Client {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        self.post_message_with_max_sse_event_size(
            uri,
            message,
            session,
            auth,
            headers,
            MAX_EVENT_BYTES,
        )
        .await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
        max_bytes: usize,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        let asked = session::asked(&message, session.is_some());
        let sent = self
            .inner
            .post_message_with_max_sse_event_size(uri, message, session, auth, headers, max_bytes)
            .await;
        self.note(session::understood(asked, sent))
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), HttpError> {
        let deleted = self.inner.delete_session(uri, session, auth, headers).await;
        deleted.map_err(|error| told(error).1)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, HttpError> {
        self.get_stream_with_max_sse_event_size(
            uri,
            session,
            last_event_id,
            auth,
            headers,
            MAX_EVENT_BYTES,
        )
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
        max_bytes: usize,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, HttpError> {
        let opened = self.inner.get_stream_with_max_sse_event_size(
            uri,
            session,
            last_event_id,
            auth,
            headers,
            max_bytes,
        );
        // Servers need not have such a stream, so that one which is refused is no trouble.
        opened.await.map_err(|error| self.count(told(error).1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_shown_of_an_error_holds_nothing_that_the_server_said() {
        let answer = |text: &str| HttpError::UnexpectedServerResponse(text.to_owned().into());
        for (error, expected) in [
            (
                answer("HTTP 500 Internal Server Error: hidden"),
                Some("it answered with HTTP 500 Internal Server Error"),
            ),
            (
                answer("HTTP 401 Unauthorized: hidden"),
                Some("it refuses the credentials that it is sent, or wants some"),
            ),
            (
                answer("could not parse JSON response: hidden"),
                Some("it answered with what is no MCP"),
            ),
            (answer("hidden"), Some("it answered with what is no MCP")),
            (
                HttpError::UnexpectedContentType(Some("hidden".to_owned())),
                Some("it answered with what is no MCP"),
            ),
            (
                HttpError::ResponseBodyTooLarge { max_size: 1 },
                Some("it answered with too much"),
            ),
            (HttpError::SessionExpired, None),
        ] {
            let (trouble, error) = told(error);
            assert_eq!(
                trouble.map(|trouble| trouble.to_string()).as_deref(),
                expected
            );
            assert!(
                !format!("{error} {error:?}").contains("hidden"),
                "{error:?}"
            );
        }
    }
}
