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
    /// The answer ended without saying anything.
    Empty,
    /// The upstream said within its answer that it failed.
    Reported {
        transient: bool,
    },
    /// It failed too often of late to be asked, for this long.
    Unhealthy {
        retry_after: Duration,
    },
}

/// What was waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    FirstByte,
    Idle,
    Total,
}

impl CallError {
    /// Whether the upstream refuses to stream, and may answer otherwise.
    pub fn is_about_streaming(&self) -> bool {
        match self.kind {
            CallErrorKind::Protocol => true,
            CallErrorKind::Status { status, .. } => {
                let message = self.error.message.to_lowercase();
                let refuses = ["support", "not allowed", "disabled", "must be false"];
                matches!(status, 400 | 405 | 406 | 415 | 422 | 501)
                    && (self.error.param.as_deref() == Some("stream")
                        || (message.contains("stream")
                            && refuses.iter().any(|word| message.contains(word))))
            }
            CallErrorKind::Connect
            | CallErrorKind::Timeout(_)
            | CallErrorKind::Broken
            | CallErrorKind::Empty
            | CallErrorKind::Reported { .. }
            | CallErrorKind::Unhealthy { .. } => false,
        }
    }

    /// The failure that an upstream reported within its answer.
    pub fn reported(error: ResponseError) -> Self {
        let is_the_client_s = matches!(
            error.r#type.as_str(),
            "invalid_request_error"
                | "authentication_error"
                | "permission_error"
                | "not_found_error"
                | "insufficient_quota"
        );
        let is_the_server_s = matches!(error.code.as_str(), "server_error" | "rate_limit_exceeded");
        let transient = is_the_server_s && !is_the_client_s;
        Self {
            kind: CallErrorKind::Reported { transient },
            error: Box::new(error),
            source: None,
        }
    }

    /// An answer that ended before it began.
    pub fn empty() -> Self {
        let message = "The model ended its answer without saying anything.";
        Self::of(CallErrorKind::Empty, message, None)
    }

    /// An answer that ended in the middle of a call.
    pub fn cut_off() -> Self {
        let message = "The model ended its answer in the middle of a call.";
        Self::of(CallErrorKind::Broken, message, None)
    }

    /// An answer that ended before the model said that it does.
    pub fn cut_short() -> Self {
        let message = "The model's answer broke off.";
        Self::of(CallErrorKind::Broken, message, None)
    }

    /// A response of the upstream's that cannot be gone on with.
    pub fn lost() -> Self {
        let message = "The model's answer broke off and could not be gone on with.";
        Self::of(CallErrorKind::Broken, message, None)
    }

    /// An upstream that is not asked for the time being.
    pub fn unhealthy(retry_after: Duration) -> Self {
        let kind = CallErrorKind::Unhealthy { retry_after };
        Self::of(kind, "The upstream is not available right now.", None)
    }
}

impl CallErrorKind {
    /// Whether the same call may work a little later.
    pub fn is_transient(&self) -> bool {
        match *self {
            CallErrorKind::Connect
            | CallErrorKind::Broken
            | CallErrorKind::Empty
            | CallErrorKind::Unhealthy { .. }
            | CallErrorKind::Timeout(Wait::FirstByte | Wait::Idle) => true,
            CallErrorKind::Timeout(Wait::Total) | CallErrorKind::Protocol => false,
            CallErrorKind::Reported { transient } => transient,
            CallErrorKind::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..=599),
        }
    }

    /// Whether the upstream itself seems to be in trouble, rather than this call.
    pub fn is_trouble(&self) -> bool {
        match *self {
            Self::Connect | Self::Broken | Self::Timeout(_) => true,
            Self::Status { status, .. } => status >= 500,
            Self::Protocol | Self::Empty | Self::Reported { .. } | Self::Unhealthy { .. } => false,
        }
    }

    /// How long the upstream asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match *self {
            Self::Status { retry_after, .. } => retry_after,
            Self::Unhealthy { retry_after } => Some(retry_after),
            Self::Connect
            | Self::Broken
            | Self::Timeout(_)
            | Self::Protocol
            | Self::Empty
            | Self::Reported { .. } => None,
        }
    }
}

impl CallError {
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
