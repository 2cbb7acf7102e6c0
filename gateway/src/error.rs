//! What goes wrong, in OpenAI's envelope: the only place that turns errors into HTTP answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use tonic_types::StatusExt as _;
use tracing::{error, warn};

use talaria_runtime::error::{Reason, is_unheard};

/// Tells OpenAI's SDKs whether to try again; without it they repeat every 409.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Seconds after which a client may come back when a service is away.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct ApiError {
    pub status: StatusCode,
    pub kind: Kind,
    pub code: Option<String>,
    /// The path of the parameter at fault: `input[0].content[1].image_url`.
    pub param: Option<String>,
    /// For the client to read. Never a key, SQL, a path or an upstream's address.
    pub message: String,
    /// Seconds.
    pub retry_after: Option<u32>,
    pub should_retry: Option<bool>,
}

/// The `type` of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    #[serde(rename = "invalid_request_error")]
    InvalidRequest,
    #[serde(rename = "rate_limit_error")]
    RateLimit,
    #[serde(rename = "server_error")]
    Server,
}

impl ApiError {
    /// 400, without code or parameter.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Kind::InvalidRequest, message)
    }

    /// 400 with `code`.
    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self::bad_request(message).with_code(code)
    }

    /// 401: the key is missing, malformed, unknown or revoked.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Kind::InvalidRequest, message)
            .with_code("invalid_api_key")
    }

    /// 404, without code or parameter.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Kind::InvalidRequest, message)
    }

    /// 404: `id` names no response of this tenant.
    pub fn response_not_found(id: &str) -> Self {
        Self::not_found(format!("Response not found: {}", printable(id)))
    }

    /// 409, not to be repeated as it is.
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, Kind::InvalidRequest, message).with_code(code)
    }

    /// 429: to be repeated later.
    pub fn rate_limited(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, Kind::RateLimit, message)
            .with_code("rate_limit_exceeded")
    }

    /// 500: what happened is for the log alone.
    pub fn internal() -> Self {
        let message = "The server had an error while processing your request.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Kind::Server, message)
    }

    /// 503: nothing was started, and a later try may succeed.
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Server, message).with_code(code)
    }

    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// An error of this status with the retry hints that go with it.
    pub fn new(status: StatusCode, kind: Kind, message: impl Into<String>) -> Self {
        let wait = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            retry_after: wait.then_some(RETRY_AFTER_SECONDS),
            should_retry: (status == StatusCode::CONFLICT).then_some(false),
        }
    }
}

/// The JSON of an error; all four keys are always there.
#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: Kind,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(retry) = self.should_retry {
            let retry = HeaderValue::from_static(if retry { "true" } else { "false" });
            headers.insert(X_SHOULD_RETRY, retry);
        }
        let envelope = Envelope {
            error: Body {
                message: &self.message,
                r#type: self.kind,
                param: self.param.as_deref(),
                code: self.code.as_deref(),
            },
        };
        (self.status, headers, Json(envelope)).into_response()
    }
}

const UNAVAILABLE: &str = "The server is not available right now. Please try again.";

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        let Some(reason) = Reason::of(&status) else {
            return without_reason(&status);
        };
        let error = of_reason(reason, &status);
        match status
            .get_details_error_info()
            .and_then(|mut info| info.metadata.remove("param"))
        {
            Some(param) => error.with_param(param),
            None => error,
        }
    }
}

/// What clients see of each reason that our services give.
fn of_reason(reason: Reason, status: &tonic::Status) -> ApiError {
    let message = status.message();
    match reason {
        Reason::ResponseNotFound | Reason::ConversationNotFound | Reason::ItemNotFound => {
            ApiError::not_found(message)
        }
        Reason::ModelNotFound => ApiError::not_found(message)
            .with_code("model_not_found")
            .with_param("model"),
        Reason::PreviousResponseNotFound => ApiError::not_found(message)
            .with_code("previous_response_not_found")
            .with_param("previous_response_id"),
        Reason::PreviousResponseNotCompleted => {
            ApiError::conflict("previous_response_not_completed", message)
                .with_param("previous_response_id")
        }
        Reason::ConversationResponseNotCompleted => {
            ApiError::conflict("conversation_response_not_completed", message)
                .with_param("conversation")
        }
        Reason::IdempotencyKeyConflict => ApiError::conflict("idempotency_key_conflict", message),
        Reason::ApprovalNotActive => ApiError::conflict("approval_not_active", message),
        Reason::ApprovalNotPending => ApiError::conflict("approval_not_pending", message),
        Reason::InvalidValue => ApiError::invalid("invalid_value", message),
        Reason::NoToolCall | Reason::NoToolOutput => {
            ApiError::bad_request(message).with_param("input")
        }
        Reason::RateLimitExceeded => ApiError::rate_limited(message),
        Reason::StoreUnavailable | Reason::StoreRefused => unavailable("store_unavailable", status),
        Reason::OrchestratorUnavailable => unavailable("orchestrator_unavailable", status),
        Reason::GatewayDraining => unavailable("gateway_draining", status),
        // Said between services; one that comes as far as this was not handled where it should be.
        Reason::ConversationChanged | Reason::RunNotHere | Reason::RunLost => internal(status),
    }
}

/// What clients see of a failure that was not meant for them.
fn without_reason(status: &tonic::Status) -> ApiError {
    if is_unheard(status) {
        unavailable("orchestrator_unavailable", status)
    } else {
        internal(status)
    }
}

fn unavailable(code: &str, status: &tonic::Status) -> ApiError {
    warn!(error = %status, "a service was not available");
    ApiError::unavailable(code, UNAVAILABLE)
}

fn internal(status: &tonic::Status) -> ApiError {
    error!(error = %status, "a service failed");
    ApiError::internal()
}

/// The first 64 characters, with `?` for what is not printable ASCII.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic::Status;

    use super::*;

    async fn shown(error: ApiError) -> String {
        let response = error.into_response();
        let mut lines = vec![response.status().to_string()];
        for (name, value) in response.headers() {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        lines.push(String::from_utf8(body.to_vec()).unwrap());
        lines.join("\n")
    }

    #[tokio::test]
    async fn the_envelope_has_all_four_keys() {
        insta::assert_snapshot!(shown(ApiError::response_not_found("resp_x\r\né")).await, @r#"
        404 Not Found
        content-type: application/json
        {"error":{"message":"Response not found: resp_x???","type":"invalid_request_error","param":null,"code":null}}
        "#);
    }

    #[tokio::test]
    async fn a_conflict_is_not_to_be_repeated() {
        let refused =
            Reason::PreviousResponseNotCompleted.status("Response resp_1 is not completed.");

        insta::assert_snapshot!(shown(refused.into()).await, @r#"
        409 Conflict
        content-type: application/json
        x-should-retry: false
        {"error":{"message":"Response resp_1 is not completed.","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_completed"}}
        "#);
    }

    #[test]
    fn a_connection_that_breaks_in_mid_call_is_no_failure_of_ours() {
        let mut broken = Status::internal("h2 protocol error: http2 error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("http2 error")));

        assert_eq!(
            ApiError::from(broken).status,
            StatusCode::SERVICE_UNAVAILABLE
        );
        let failed = ApiError::from(Status::internal("The store failed."));
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn a_full_server_says_when_to_come_back() {
        let full = Reason::RateLimitExceeded.status("Too many concurrent runs (max 2)");

        insta::assert_snapshot!(shown(full.into()).await, @r#"
        429 Too Many Requests
        content-type: application/json
        retry-after: 1
        {"error":{"message":"Too many concurrent runs (max 2)","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}
        "#);
    }

    #[test]
    fn the_metadata_names_the_parameter() {
        let error: ApiError = Reason::ItemNotFound
            .status_at("input[3]", "No such item.")
            .into();

        assert_eq!(
            error,
            ApiError::not_found("No such item.").with_param("input[3]")
        );
    }

    #[test]
    fn what_was_not_meant_for_clients_is_not_shown() {
        let secret = "connect to postgres://talaria:pw@10.0.0.1 failed";
        let away = || ApiError::unavailable("orchestrator_unavailable", UNAVAILABLE);
        for (status, expected) in [
            (Status::unavailable(secret), away()),
            (Status::deadline_exceeded(secret), away()),
            (Status::internal(secret), ApiError::internal()),
            // What a broken connection looks like.
            (Status::unknown(secret), away()),
            (Status::not_found(secret), ApiError::internal()),
            (Reason::RunLost.status(secret), ApiError::internal()),
            (
                Reason::StoreUnavailable.status(secret),
                ApiError::unavailable("store_unavailable", UNAVAILABLE),
            ),
        ] {
            assert_eq!(ApiError::from(status), expected);
        }
    }
}
