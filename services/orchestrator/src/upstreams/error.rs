//! How calling an upstream goes wrong.

use std::fmt;
use std::time::Duration;

use talaria_domain::model::server_error;
use talaria_proto::v1::ResponseError;

use super::{lenient, sse};

/// Settings of an upstream that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the base URL of upstream '{name}' is no http(s) URL")]
    BaseUrl { name: String },
    #[error("the API key of upstream '{name}' has characters that no header may have")]
    ApiKey { name: String },
    #[error("preparing the HTTP client of upstream '{name}'")]
    Client {
        name: String,
        source: reqwest::Error,
    },
}

/// A model call that did not work. Its `Display` may be shown to clients.
#[derive(Debug)]
pub struct CallError {
    pub kind: CallErrorKind,
    /// What a client may read: no address, no key.
    pub error: Box<ResponseError>,
    source: Option<reqwest::Error>,
}

/// What went wrong, as far as it decides what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// No connection; the upstream has seen nothing.
    Connect,
    Timeout(Wait),
    /// The upstream refused; `retry_after` is how long it asks to wait.
    Status {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// The connection broke.
    Broken,
    /// The answer is neither an event stream nor JSON, or has no bounds.
    Protocol,
}

/// What was waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    FirstByte,
    Idle,
    Total,
}

impl CallError {
    /// Whether the same call may work a little later.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            CallErrorKind::Connect
            | CallErrorKind::Broken
            | CallErrorKind::Timeout(Wait::FirstByte | Wait::Idle) => true,
            CallErrorKind::Timeout(Wait::Total) | CallErrorKind::Protocol => false,
            CallErrorKind::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..=599),
        }
    }

    pub(super) fn connect(source: reqwest::Error) -> Self {
        Self::of(
            CallErrorKind::Connect,
            "The upstream could not be reached.",
            Some(source),
        )
    }

    pub(super) fn broken(source: reqwest::Error) -> Self {
        Self::of(
            CallErrorKind::Broken,
            "The connection to the upstream broke.",
            Some(source),
        )
    }

    pub(super) fn timeout(wait: Wait) -> Self {
        let message = match wait {
            Wait::FirstByte => "The upstream did not begin to answer in time.",
            Wait::Idle => "The upstream stopped answering.",
            Wait::Total => "The upstream did not finish its answer in time.",
        };
        Self::of(CallErrorKind::Timeout(wait), message, None)
    }

    pub(super) fn protocol(message: &str) -> Self {
        Self::of(CallErrorKind::Protocol, message, None)
    }

    /// A refusal with what the upstream said about it, if it said so in JSON.
    pub(super) fn status(status: u16, retry_after: Option<Duration>, body: &str) -> Self {
        let fallback = format!("The upstream answered with status {status}.");
        let mut error = match lenient::object(body) {
            // What it says then is about our key.
            Some(_) if matches!(status, 401 | 403) => {
                server_error("The upstream refused the server's credentials.")
            }
            Some(body) => lenient::error_or(body, &fallback),
            None => server_error(fallback),
        };
        if status == 429 {
            "rate_limit_exceeded".clone_into(&mut error.code);
        }
        Self {
            kind: CallErrorKind::Status {
                status,
                retry_after,
            },
            error: Box::new(error),
            source: None,
        }
    }

    fn of(kind: CallErrorKind, message: &str, source: Option<reqwest::Error>) -> Self {
        let source = source.map(reqwest::Error::without_url);
        Self {
            kind,
            error: Box::new(server_error(message)),
            source,
        }
    }
}

impl From<sse::TooLong> for CallError {
    fn from(_: sse::TooLong) -> Self {
        Self::protocol("The upstream sent an event that is too long.")
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error.message)
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
