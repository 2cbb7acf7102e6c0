//! `/v1/runs`: the same responses, as Hermes' clients know them.

mod event;
mod object;
mod request;
mod stream;

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use talaria_domain::ids::ResponseId;
use talaria_domain::run::has_ended;
use talaria_proto::v1::{
    self as pb, Approvals, DecideApprovalRequest, Follow as FollowMode, GetResponseResponse,
    ReadEventsRequest, RequestCancelRequest, StartRunRequest,
};
use talaria_runtime::error::Reason;
use tonic::Status;

use self::event::Translator;
use self::object::{
    Run, approval_json, listed, replayed_json, run_json, started_json, stopping_json,
};
use self::request::{approval, create_run_request, last_event_id, list_request, not_found, run_id};
use self::stream::{catch_up, run_stream};
use crate::calls::{Started, cancel_run, follow, get_response, of_store, shown_end, start_run};
use crate::error::ApiError;
use crate::events::Events;
use crate::follow::in_time;
use crate::front::read_body;
use crate::paging::envelope;
use crate::session::{self, Session};
use crate::{Gateway, Tenant, approvals, idempotency, tool_items};

/// How long a run that is stopped is pressed to; it stops by itself a little later.
const PRESS: Duration = Duration::from_millis(200);

/// Its routes.
pub fn routes() -> Router<Gateway> {
    Router::new()
        .route("/v1/runs", post(create_run).get(list_runs))
        .route("/v1/runs/{id}", get(retrieve_run))
        .route("/v1/runs/{id}/events", get(run_events))
        .route("/v1/runs/{id}/stop", post(stop_run))
        .route("/v1/runs/{id}/approval", post(approve_run))
}

/// `POST /v1/runs`
async fn create_run(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let session = Session::from_headers(&headers)?;
    let idempotency = idempotency::read(&headers, "/v1/runs", &body, &session)?;
    let mut run = create_run_request(&body, session)?;
    run.set_tool_items(tool_items::from_headers(&headers)?);
    run.set_approvals(approvals::from_headers(&headers, Approvals::Wait)?);
    let start = StartRunRequest {
        tenant: tenant.0.clone(),
        run: Some(run),
        follow: FollowMode::Nothing.into(),
        idempotency,
        attended: false,
    };
    match start_run(&gateway, start).await? {
        Started::New { created, .. } => {
            let run = started_json(&created);
            Ok(with_session(json(StatusCode::ACCEPTED, run), &created))
        }
        Started::Replayed { found } => {
            let found = Found::of(*found)?;
            let answer = json(StatusCode::ACCEPTED, replayed_json(&found.run));
            let mut answer = with_session(answer, &found.run.response);
            idempotency::put_replayed(answer.headers_mut());
            Ok(answer)
        }
    }
}

/// `GET /v1/runs`
async fn list_runs(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let Some(list) = list_request(&tenant.0, query.as_deref())? else {
        return Ok(json(StatusCode::OK, envelope(&[], false)));
    };
    let found = in_time(gateway.store.clone().list_responses(list))
        .await
        .map_err(of_store)?
        .into_inner();
    let runs: Vec<(String, Bytes)> = found
        .responses
        .iter()
        .map(|run| {
            let (id, json) = listed(run);
            (id, Bytes::from(json))
        })
        .collect();
    let runs: Vec<&(String, Bytes)> = runs.iter().collect();
    Ok(json(StatusCode::OK, envelope(&runs, found.has_more)))
}

/// `GET /v1/runs/{id}`
async fn retrieve_run(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (_, found) = find(&gateway, &tenant, &id).await?;
    Ok(shown(&found.run))
}

/// `GET /v1/runs/{id}/events`
async fn run_events(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (response_id, found) = find(&gateway, &tenant, &id).await?;
    let (response, next_seq) = (found.run.response, found.next_seq);
    // The id of a frame is one more than the number of its event, so it is the number that is wanted next. Beyond the
    // end of the log there is nothing that anybody could have seen.
    let wanted = last_event_id(&headers, query.as_deref());
    let has_ended = has_ended(&response);
    let end = if has_ended && wanted >= next_seq {
        let end = shown_end(&gateway, &tenant, &response.id, next_seq).await;
        end.map_err(|status| run_error(&id, status))?
    } else {
        next_seq
    };
    let wanted = wanted.min(end);
    let mut translator = Translator::new(&response);
    let events = if has_ended && wanted == end {
        Events::Ended
    } else {
        let read = ReadEventsRequest {
            tenant: tenant.0.clone(),
            response_id: response_id.to_string(),
            starting_after: None,
        };
        if wanted > 0 {
            let caught_up = catch_up(&gateway, &mut translator, read, wanted).await;
            caught_up
                .map_err(of_store)
                .map_err(|status| run_error(&id, status))?;
        }
        let starting_after = wanted.checked_sub(1);
        let id = response_id.to_string();
        let follow = follow(&gateway, &tenant, &id, starting_after);
        Events::Stored(Box::new(follow))
    };
    let stop = gateway.stop.clone();
    let stream = run_stream(events, translator, gateway.config.keepalive, stop);
    Ok(with_session(stream, &response))
}

/// `POST /v1/runs/{id}/stop`: answers at once, the run ends a moment later. Stopping one that has ended shows it.
async fn stop_run(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (response_id, found) = find(&gateway, &tenant, &id).await?;
    if has_ended(&found.run.response) {
        return Ok(shown(&found.run));
    }
    let cancel = RequestCancelRequest {
        tenant: tenant.0.clone(),
        response_id: response_id.to_string(),
    };
    match in_time(gateway.store.clone().request_cancel(cancel)).await {
        Ok(_) => {
            // What is written down is found within a second; its orchestrator need not wait for that.
            let pressing = cancel_run(&gateway, &tenant, &found.run.response.id);
            let _ = tokio::time::timeout(PRESS, pressing).await;
            let answer = json(StatusCode::OK, stopping_json(response_id));
            Ok(with_session(answer, &found.run.response))
        }
        Err(status) if Reason::of(&status) == Some(Reason::RunNotHere) => {
            let (_, found) = find(&gateway, &tenant, &id).await?;
            Ok(shown(&found.run))
        }
        Err(status) => Err(run_error(&id, of_store(status))),
    }
}

/// `POST /v1/runs/{id}/approval`: decides about calls that the run waits for a person with.
async fn approve_run(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let response_id = run_id(&id)?;
    let approval = match approval(&body) {
        Ok(approval) => approval,
        // An unknown run is unknown, whatever is said about it.
        Err(error) => {
            find(&gateway, &tenant, &id).await?;
            return Err(error);
        }
    };
    let choice = approval.choice;
    let decide = DecideApprovalRequest {
        tenant: tenant.0.clone(),
        response_id: response_id.to_string(),
        request_id: approval.request_id,
        all: approval.all,
        choice: choice.into(),
        reason: approval.reason,
        decided_by: approval.decided_by,
        agent: String::new(),
    };
    let decided = in_time(gateway.orchestrators.any().decide_approval(decide))
        .await
        .map_err(|status| run_error(&id, status))?
        .into_inner();
    let answer = approval_json(response_id, choice, &decided.request_ids);
    Ok(json(StatusCode::OK, answer))
}

/// A run, and where its log ends.
struct Found {
    run: Run,
    next_seq: u64,
}

impl Found {
    fn of(found: GetResponseResponse) -> Result<Self, ApiError> {
        let run = Run {
            response: found.response.ok_or_else(ApiError::internal)?,
            updated_at_ms: found.updated_at_ms,
            stops: found.cancel_requested,
            pending: found.pending_approvals,
        };
        let next_seq = found.next_sequence_number;
        Ok(Self { run, next_seq })
    }
}

/// The run as it stands.
async fn find(
    gateway: &Gateway,
    tenant: &Tenant,
    id: &str,
) -> Result<(ResponseId, Found), ApiError> {
    let response_id = run_id(id)?;
    let found = get_response(gateway, tenant, &response_id.to_string()).await;
    let found = found.map_err(|status| run_error(id, status))?;
    Ok((response_id, Found::of(found)?))
}

fn shown(run: &Run) -> Response {
    with_session(json(StatusCode::OK, run_json(run)), &run.response)
}

/// What a client sees of a failed call about the run `id`.
fn run_error(id: &str, status: Status) -> ApiError {
    if Reason::of(&status) == Some(Reason::ResponseNotFound) {
        return not_found(id);
    }
    status.into()
}

fn with_session(mut answer: Response, response: &pb::Response) -> Response {
    session::put_headers(answer.headers_mut(), response);
    answer
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
