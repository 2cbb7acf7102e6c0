//! `POST /v1/responses`: starts a run, or finds the one that its idempotency key names, and shows it.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use talaria_domain::run::has_ended;
use talaria_proto::v1::{
    self as pb, Approvals, Follow as FollowMode, GetResponseResponse, RunRequest, StartRunRequest,
    StartRunResponse,
};
use tonic::Streaming;

use super::request::create_request;
use super::{shown, sse, stored_events, with_session};
use crate::calls::{Started, end_of, final_response, follow, start_run};
use crate::error::ApiError;
use crate::events::Events;
use crate::front::read_body;
use crate::session::Session;
use crate::{Gateway, Tenant, approvals, idempotency, sdk, tool_items};

pub async fn create_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let session = Session::from_headers(&headers)?;
    let idempotency = idempotency::read(&headers, "/v1/responses", &body, &session)?;
    let mut run = create_request(&body)?;
    if idempotency.is_some() && !run.store {
        return Err(idempotency::requires_store());
    }
    put_session(&mut run, session)?;
    run.set_tool_items(tool_items::from_headers(&headers)?);
    run.set_approvals(approvals::from_headers(&headers, Approvals::InNextRequest)?);
    let view = View::of(&run);
    let start = StartRunRequest {
        tenant: tenant.0.clone(),
        follow: view.follow_mode().into(),
        run: Some(run),
        idempotency,
        attended: false,
    };
    match start_run(&gateway, start).await? {
        Started::New { created, updates } => {
            show_new(&gateway, &tenant, view, *created, updates).await
        }
        Started::Replayed { found } => {
            let is_sdk = sdk::is_strict(&headers);
            let mut answer = show_replayed(&gateway, &tenant, view, *found, is_sdk).await?;
            idempotency::put_replayed(answer.headers_mut());
            Ok(answer)
        }
    }
}

/// Adds what the headers say about the session to what the body says.
fn put_session(run: &mut RunRequest, session: Session) -> Result<(), ApiError> {
    if let Some(id) = session.id {
        if !run.session_id.is_empty() && run.session_id != id {
            let message = "Invalid 'session_id': the header X-Hermes-Session-Id names another.";
            return Err(ApiError::invalid("invalid_value", message).with_param("session_id"));
        }
        run.session_id = id;
    }
    run.session_key = session.key.unwrap_or_default();
    Ok(())
}

/// How a client wants to see the response that it creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Stream,
    /// As it is created.
    AtOnce,
    AtItsEnd,
}

impl View {
    fn of(run: &RunRequest) -> Self {
        match (run.stream, run.background) {
            (true, _) => Self::Stream,
            (false, true) => Self::AtOnce,
            (false, false) => Self::AtItsEnd,
        }
    }

    fn follow_mode(self) -> FollowMode {
        match self {
            Self::Stream => FollowMode::Events,
            Self::AtOnce => FollowMode::Nothing,
            Self::AtItsEnd => FollowMode::End,
        }
    }
}

async fn show_new(
    gateway: &Gateway,
    tenant: &Tenant,
    view: View,
    created: pb::Response,
    updates: Streaming<StartRunResponse>,
) -> Result<Response, ApiError> {
    Ok(match view {
        View::Stream => {
            let events = if created.store {
                let follow = follow(gateway, tenant, &created.id, None);
                stored_events(follow.started(updates))
            } else {
                Events::Ephemeral {
                    stream: Box::new(updates),
                    next_seq: 0,
                    ended: false,
                }
            };
            with_session(sse(gateway, events), &created)
        }
        View::AtOnce => shown(&created),
        View::AtItsEnd => shown(&final_response(gateway, tenant, created, updates).await?),
    })
}

/// Shows a response that an earlier request with the same key started.
async fn show_replayed(
    gateway: &Gateway,
    tenant: &Tenant,
    view: View,
    found: GetResponseResponse,
    is_sdk: bool,
) -> Result<Response, ApiError> {
    Ok(match view {
        View::Stream => {
            let (response, events) = replayed_events(gateway, tenant, found, is_sdk)?;
            with_session(sse(gateway, events), &response)
        }
        View::AtOnce => shown(&found.response.ok_or_else(ApiError::internal)?),
        View::AtItsEnd => shown(&end_of(gateway, tenant, found).await?),
    })
}

/// The first event of an active response is a snapshot, except for OpenAI's SDKs, which refuse any other first event
/// than `response.created`.
fn replayed_events(
    gateway: &Gateway,
    tenant: &Tenant,
    found: GetResponseResponse,
    is_sdk: bool,
) -> Result<(pb::Response, Events), ApiError> {
    let response = found.response.ok_or_else(ApiError::internal)?;
    let id = &response.id;
    let last = found.next_sequence_number.checked_sub(1);
    let events = match last {
        Some(last) if !has_ended(&response) && !is_sdk => Events::AfterSnapshot {
            snapshot: Some(Box::new(response.clone())),
            sequence_number: last,
            events: Box::new(stored_events(follow(gateway, tenant, id, Some(last)))),
        },
        _ => stored_events(follow(gateway, tenant, id, None)),
    };
    Ok((response, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: Option<&str>, key: Option<&str>) -> Session {
        Session {
            id: id.map(str::to_owned),
            key: key.map(str::to_owned),
        }
    }

    #[test]
    fn the_session_is_the_one_that_was_given_wherever_it_was_given() {
        for (body, header, expected) in [
            ("", None, Ok("")),
            ("a", None, Ok("a")),
            ("", Some("a"), Ok("a")),
            ("a", Some("a"), Ok("a")),
            ("a", Some("b"), Err(Some("session_id".to_owned()))),
        ] {
            let mut run = RunRequest {
                session_id: body.to_owned(),
                ..RunRequest::default()
            };
            let got = put_session(&mut run, session(header, Some("k")));
            let got = got.map(|()| run.session_id.as_str());
            assert_eq!(
                got.map_err(|error| error.param),
                expected,
                "{body:?} {header:?}"
            );
        }
    }

    #[test]
    fn a_stream_shows_a_background_response_as_it_runs() {
        let view = |stream, background| {
            View::of(&RunRequest {
                stream,
                background,
                ..RunRequest::default()
            })
        };
        assert_eq!(view(true, true), View::Stream);
        assert_eq!(view(true, false), View::Stream);
        assert_eq!(view(false, true), View::AtOnce);
        assert_eq!(view(false, false), View::AtItsEnd);
    }
}
