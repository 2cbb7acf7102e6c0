//! `/v1/responses`.

pub mod query;
pub mod request;

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use talaria_domain::run::has_ended;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{
    self as pb, CancelRunRequest, DeleteResponseRequest, Follow as FollowMode, GetResponseRequest,
    GetResponseResponse, StartRunRequest, StartRunResponse,
};
use talaria_runtime::error::Reason;
use tonic::{Code, Status, Streaming};

use crate::error::ApiError;
use crate::events::{Events, event_stream};
use crate::follow::{Follow, in_time};
use crate::front::read_body;
use crate::render::response_json;
use crate::{Gateway, Tenant};

/// How long an admission may take.
const ADMISSION: Duration = Duration::from_secs(20);
/// How long a run that is deleted may take to stop.
const CANCEL: Duration = Duration::from_secs(25);
/// How often a response whose live end got lost is looked at.
const POLL: Duration = Duration::from_millis(250);

/// `POST /v1/responses`
pub async fn create_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let run = request::create_request(&body)?;
    let (stream, store, background) = (run.stream, run.store, run.background);
    let follow = match (stream, background) {
        (true, _) => FollowMode::Events,
        (false, true) => FollowMode::Nothing,
        (false, false) => FollowMode::End,
    };
    let start = StartRunRequest {
        tenant: tenant.0.clone(),
        run: Some(run),
        follow: follow.into(),
    };
    let (created, mut updates) = start_run(&gateway, start).await?;
    if stream {
        let events = if store {
            let Gateway { runs, store, .. } = gateway.clone();
            Events::Stored(Box::new(
                Follow::new(tenant.0, created.id, None, runs, store).started(updates),
            ))
        } else {
            Events::Ephemeral {
                stream: Box::new(updates),
                next_seq: 0,
                ended: false,
            }
        };
        return Ok(event_stream(
            events,
            gateway.config.keepalive,
            gateway.stop.clone(),
        ));
    }
    if background {
        return Ok(json(response_json(&created)));
    }
    let last = tokio::select! {
        last = updates.message() => last,
        () = gateway.stop.cancelled() => Err(Status::unavailable("stopping")),
    };
    match last.map(|last| last.and_then(|last| last.message)) {
        Ok(Some(Message::Final(response))) => Ok(json(response_json(&response))),
        _ if store => wait_for_end(&gateway, &tenant, created.id).await,
        _ => Err(ApiError::unavailable(
            "orchestrator_unavailable",
            "The run was lost with the server that executed it.",
        )),
    }
}

/// `GET /v1/responses/{id}`
pub async fn retrieve_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    query::response_id(&id)?;
    let query = query::parse(query.as_deref())?;
    let found = get_response(&gateway, &tenant, &id).await?;
    let response = found.response.ok_or_else(ApiError::internal)?;
    if !query.stream {
        return Ok(json(response_json(&response)));
    }
    let next_seq = query.starting_after.map_or(0, |seq| seq.saturating_add(1));
    if next_seq > found.next_sequence_number {
        let last = found.next_sequence_number.saturating_sub(1);
        let message = format!("Invalid 'starting_after': the last event so far is {last}.");
        return Err(ApiError::invalid("invalid_value", message).with_param("starting_after"));
    }
    let events = if has_ended(&response) && next_seq == found.next_sequence_number {
        Events::Ended
    } else {
        let Gateway { runs, store, .. } = gateway.clone();
        Events::Stored(Box::new(Follow::new(
            tenant.0,
            id,
            query.starting_after,
            runs,
            store,
        )))
    };
    Ok(event_stream(
        events,
        gateway.config.keepalive,
        gateway.stop.clone(),
    ))
}

/// `DELETE /v1/responses/{id}`: cancels an active run first.
pub async fn delete_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    query::response_id(&id)?;
    let cancel = CancelRunRequest {
        tenant: tenant.0.clone(),
        response_id: id.clone(),
    };
    let cancelling = gateway
        .runs
        .clone()
        .cancel_run(cancel)
        .await_for(CANCEL)
        .await;
    if let Err(status) = cancelling
        && Reason::of(&status) != Some(Reason::RunNotHere)
    {
        // The row goes all the same, and a run that still writes to it finds itself lost.
        tracing::warn!(response.id = id, code = ?status.code(), "deleting without having cancelled");
    }
    let delete = DeleteResponseRequest {
        tenant: tenant.0,
        response_id: id.clone(),
    };
    in_time(gateway.store.clone().delete_response(delete))
        .await
        .map_err(of_store)?;
    let deleted = serde_json::json!({"id": id, "object": "response", "deleted": true});
    Ok(json(deleted.to_string()))
}

/// Starts a run and waits until it is admitted.
async fn start_run(
    gateway: &Gateway,
    request: StartRunRequest,
) -> Result<(pb::Response, Streaming<StartRunResponse>), ApiError> {
    let mut runs = gateway.runs.clone();
    let admission = async {
        let mut updates = runs.start_run(request).await?.into_inner();
        let first = updates.message().await?.and_then(|first| first.message);
        let Some(Message::Admitted(pb::Admitted {
            response: Some(created),
        })) = first
        else {
            return Err(Status::internal("a run began without its admission"));
        };
        Ok((created, updates))
    };
    Ok(admission.await_for(ADMISSION).await?)
}

async fn get_response(
    gateway: &Gateway,
    tenant: &Tenant,
    id: &str,
) -> Result<GetResponseResponse, Status> {
    let request = GetResponseRequest {
        tenant: tenant.0.clone(),
        response_id: id.to_owned(),
    };
    in_time(gateway.store.clone().get_response(request))
        .await
        .map(tonic::Response::into_inner)
        .map_err(of_store)
}

/// A failed call to the store; one that did not answer says so itself.
fn of_store(status: Status) -> Status {
    let silent = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unknown,
    ];
    if Reason::of(&status).is_none() && silent.contains(&status.code()) {
        return Reason::StoreUnavailable.status(status.message());
    }
    status
}

/// Waits for the end of a stored run whose live answer got lost.
async fn wait_for_end(
    gateway: &Gateway,
    tenant: &Tenant,
    id: String,
) -> Result<Response, ApiError> {
    loop {
        if gateway.stop.is_cancelled() {
            let message = "The server is stopping; the run goes on.";
            return Err(ApiError::unavailable("gateway_draining", message));
        }
        match get_response(gateway, tenant, &id).await {
            Ok(GetResponseResponse {
                response: Some(response),
                ..
            }) if has_ended(&response) => {
                return Ok(json(response_json(&response)));
            }
            Err(status) if status.code() == Code::NotFound => return Err(status.into()),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn json(body: String) -> Response {
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}

/// Bounds a call by a time of its own.
trait AwaitFor<T>: Future<Output = Result<T, Status>> + Sized {
    async fn await_for(self, longest: Duration) -> Result<T, Status> {
        let late = || Err(Status::unavailable("a service did not answer in time"));
        tokio::time::timeout(longest, self)
            .await
            .unwrap_or_else(|_| late())
    }
}

impl<T, F: Future<Output = Result<T, Status>>> AwaitFor<T> for F {}
