//! `POST /v1/chat/completions`: the same run and the same events as a response, in OpenAI's older words.

mod chunks;
mod completion;
mod ending;
#[cfg(test)]
mod example;
mod leave;
mod parts;
mod progress;
mod request;
mod stream;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use talaria_proto::v1::{
    self as pb, Approvals, Follow as FollowMode, GetResponseResponse, Idempotency, StartRunRequest,
    StartRunResponse,
};
use tonic::Streaming;

use self::chunks::{Chunks, Options};
use self::completion::Completion;
use self::ending::Trouble;
use self::leave::Leaving;
use self::request::{ChatRequest, chat_request};
use self::stream::chunk_stream;
use crate::calls::{Started, end_of, final_response, follow, start_run};
use crate::error::{ApiError, printable};
use crate::events::Events;
use crate::front::read_body;
use crate::session::{self, Session};
use crate::{ChatDisconnect, Gateway, Tenant, approvals, idempotency, sdk, tool_items};

/// `on` or `off`, for one request.
const TOOL_PROGRESS: HeaderName = HeaderName::from_static("x-talaria-tool-progress");

const COMPLETED: HeaderName = HeaderName::from_static("x-hermes-completed");
const PARTIAL: HeaderName = HeaderName::from_static("x-hermes-partial");
const ERROR: HeaderName = HeaderName::from_static("x-hermes-error");

/// Its routes.
pub fn routes() -> Router<Gateway> {
    Router::new().route("/v1/chat/completions", post(create_chat_completion))
}

async fn create_chat_completion(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let session = Session::from_headers(&headers)?;
    let idempotency = idempotency::read(&headers, "/v1/chat/completions", &body, &session)?;
    let mut request = chat_request(&body, &session, &tenant.0)?;
    let keeping = Keeping::of(
        gateway.config.chat_disconnect,
        &request,
        idempotency.as_ref(),
    )?;
    request.run.store = keeping != Keeping::Ephemeral;
    let tool_items = tool_items::from_headers(&headers)?;
    request.run.set_tool_items(tool_items);
    let approvals = approvals::from_headers(&headers, Approvals::Wait)?;
    request.run.set_approvals(approvals);
    let shown = Shown::of(&gateway, &request, &headers);
    let start = StartRunRequest {
        tenant: tenant.0.clone(),
        follow: shown.follow_mode().into(),
        run: Some(request.run),
        idempotency,
        attended: keeping == Keeping::Attended,
    };
    match start_run(&gateway, start).await.map_err(in_messages)? {
        Started::New { created, updates } => {
            show_new(&gateway, &tenant, shown, keeping, *created, updates).await
        }
        Started::Replayed { found } => {
            let mut answer = show_replayed(&gateway, &tenant, shown, *found).await?;
            idempotency::put_replayed(answer.headers_mut());
            Ok(answer)
        }
    }
}

/// What is kept of a completion, and what its client's leaving does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Nothing is kept; it ends with its client.
    Ephemeral,
    /// It is kept, and is cancelled when its client leaves.
    Attended,
    /// It is kept and goes on.
    Detached,
}

impl Keeping {
    fn of(
        disconnect: ChatDisconnect,
        request: &ChatRequest,
        idempotency: Option<&Idempotency>,
    ) -> Result<Self, ApiError> {
        let has_session = request.run.continues_session;
        let has_key = idempotency.is_some();
        let wanted = has_session || has_key || disconnect == ChatDisconnect::Detach;
        match (request.store.unwrap_or(wanted), has_key) {
            (false, true) => return Err(idempotency::requires_store()),
            (false, false) => return Ok(Self::Ephemeral),
            (true, _) => {}
        }
        Ok(match disconnect {
            ChatDisconnect::Detach => Self::Detached,
            // Who sends a key means to come back for the answer.
            ChatDisconnect::BySession if has_session || has_key => Self::Detached,
            ChatDisconnect::BySession | ChatDisconnect::Cancel => Self::Attended,
        })
    }
}

/// How a client wants to see its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Stream(Options),
    Whole { is_legacy: bool },
}

impl Shown {
    fn of(gateway: &Gateway, request: &ChatRequest, headers: &HeaderMap) -> Self {
        let is_legacy = request.is_legacy;
        if !request.run.stream {
            return Self::Whole { is_legacy };
        }
        Self::Stream(Options {
            usage: request.usage,
            shows_progress: gateway.config.tool_progress_events && wants_progress(headers),
            is_legacy,
        })
    }

    fn follow_mode(self) -> FollowMode {
        match self {
            Self::Stream(_) => FollowMode::Events,
            Self::Whole { .. } => FollowMode::End,
        }
    }
}

/// Those who take every frame for a chunk have to ask for frames that are none.
fn wants_progress(headers: &HeaderMap) -> bool {
    let asked = headers.get(TOOL_PROGRESS).map(HeaderValue::as_bytes);
    match asked {
        Some(word) if word.eq_ignore_ascii_case(b"off") => false,
        Some(word) if word.eq_ignore_ascii_case(b"on") => true,
        _ => !sdk::is_strict(headers),
    }
}

async fn show_new(
    gateway: &Gateway,
    tenant: &Tenant,
    shown: Shown,
    keeping: Keeping,
    created: pb::Response,
    updates: Streaming<StartRunResponse>,
) -> Result<Response, ApiError> {
    let mut leaving = match keeping {
        Keeping::Attended => Leaving::cancels(gateway, tenant, &created),
        Keeping::Ephemeral | Keeping::Detached => Leaving::changes_nothing(gateway, tenant),
    };
    match shown {
        Shown::Stream(options) => {
            let events = if created.store {
                let follow = follow(gateway, tenant, &created.id, None);
                Events::Stored(Box::new(follow.started(updates)))
            } else {
                Events::Ephemeral {
                    stream: Box::new(updates),
                    next_seq: 0,
                    ended: false,
                }
            };
            Ok(streamed(gateway, options, &created, events, leaving))
        }
        Shown::Whole { is_legacy } => {
            let response = final_response(gateway, tenant, created, updates).await;
            leaving.stays();
            Ok(whole(&response?, is_legacy))
        }
    }
}

/// Shows a completion that an earlier request with the same key started. Whoever sees it again may leave.
async fn show_replayed(
    gateway: &Gateway,
    tenant: &Tenant,
    shown: Shown,
    found: GetResponseResponse,
) -> Result<Response, ApiError> {
    match shown {
        Shown::Stream(options) => {
            let response = found.response.ok_or_else(ApiError::internal)?;
            let events = follow(gateway, tenant, &response.id, None);
            let events = Events::Stored(Box::new(events));
            let leaving = Leaving::changes_nothing(gateway, tenant);
            Ok(streamed(gateway, options, &response, events, leaving))
        }
        Shown::Whole { is_legacy } => {
            let response = end_of(gateway, tenant, found).await?;
            Ok(whole(&response, is_legacy))
        }
    }
}

fn streamed(
    gateway: &Gateway,
    options: Options,
    response: &pb::Response,
    events: Events,
    leaving: Leaving,
) -> Response {
    let chunks = Chunks::new(response, options);
    let mut answer = chunk_stream(gateway, events, chunks, leaving);
    session::put_headers(answer.headers_mut(), response);
    answer
}

/// The answer to a request that did not stream, from the final response.
fn whole(response: &pb::Response, is_legacy: bool) -> Response {
    let (mut answer, trouble) = match Completion::of(response, is_legacy) {
        Completion::Answer { body, trouble } => (Json(body).into_response(), trouble),
        Completion::Nothing(trouble) => (nothing_said(&trouble), Some(trouble)),
    };
    let headers = answer.headers_mut();
    session::put_headers(headers, response);
    if let Some(trouble) = trouble {
        put_trouble(headers, &trouble);
    }
    answer
}

/// 502: the run failed and there is nothing to show.
fn nothing_said(trouble: &Trouble) -> Response {
    let Trouble {
        completed,
        partial,
        failed,
        ..
    } = trouble;
    let message = trouble.error.as_deref().unwrap_or("The run failed.");
    let body = json!({"error": {
        "message": message, "type": "server_error", "param": null, "code": "agent_incomplete",
        "hermes": {"completed": completed, "partial": partial, "failed": failed},
    }});
    (StatusCode::BAD_GATEWAY, Json(body)).into_response()
}

/// The longest error in a header, in characters.
const MAX_ERROR: usize = 200;

fn put_trouble(headers: &mut HeaderMap, trouble: &Trouble) {
    let word = |flag| HeaderValue::from_static(if flag { "true" } else { "false" });
    headers.insert(COMPLETED, word(trouble.completed));
    headers.insert(PARTIAL, word(trouble.partial));
    let error = trouble.error.as_deref().unwrap_or_default();
    session::put(headers, ERROR, &in_header(error));
}

/// Text that a header can hold.
fn in_header(text: &str) -> String {
    let characters: Vec<char> = text.chars().take(MAX_ERROR).collect();
    let pieces = characters
        .chunks(64)
        .map(|piece| printable(&piece.iter().collect::<String>()));
    pieces.collect()
}

/// What is wrong with a run's input is wrong with the messages that it was made from.
fn in_messages(mut error: ApiError) -> ApiError {
    if error
        .param
        .as_deref()
        .is_some_and(|param| param.starts_with("input"))
    {
        error.param = Some("messages".to_owned());
    }
    error
}

#[cfg(test)]
mod tests;
