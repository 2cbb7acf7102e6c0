//! `/v1/responses`: create, retrieve, cancel, delete, input items.

mod create;
pub mod query;
pub mod request;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{StatusCode, header};
use talaria_domain::run::has_ended;
use talaria_proto::v1::{self as pb, DeleteResponseRequest, ListInputItemsRequest, Status};
use tonic::Code;

use crate::calls::{cancel_run, follow, get_response, of_store, shown_end, wait_for_end};
use crate::error::ApiError;
use crate::events::{Events, event_stream};
use crate::follow::{Follow, in_time};
use crate::paging::{Order, Page, list_json};
use crate::render::{listed_items, response_json};
use crate::{Gateway, Tenant, session};

/// Its routes.
pub fn routes() -> Router<Gateway> {
    Router::new()
        .route("/v1/responses", post(create::create_response))
        .route(
            "/v1/responses/{id}",
            get(retrieve_response).delete(delete_response),
        )
        .route("/v1/responses/{id}/cancel", post(cancel_response))
        .route("/v1/responses/{id}/input_items", get(list_input_items))
}

/// `GET /v1/responses/{id}`
async fn retrieve_response(
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
        return Ok(shown(&response));
    }
    let next_seq = query.starting_after.map_or(0, |seq| seq.saturating_add(1));
    let has_ended = has_ended(&response);
    let mut end = found.next_sequence_number;
    if has_ended && next_seq >= end {
        end = shown_end(&gateway, &tenant, &id, end).await?;
    }
    if next_seq > end {
        let last = end.saturating_sub(1);
        let message = format!("Invalid 'starting_after': the last event so far is {last}.");
        return Err(ApiError::invalid("invalid_value", message).with_param("starting_after"));
    }
    let events = if has_ended && next_seq == end {
        Events::Ended
    } else {
        stored_events(follow(&gateway, &tenant, &id, query.starting_after))
    };
    Ok(with_session(sse(&gateway, events), &response))
}

/// `DELETE /v1/responses/{id}`: cancels an active run first.
async fn delete_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    query::response_id(&id)?;
    if let Err(status) = cancel_run(&gateway, &tenant, &id).await
        && status.code() != Code::NotFound
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

/// `POST /v1/responses/{id}/cancel`: of any stored response that has not ended. A cancelled one may be cancelled again.
async fn cancel_response(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    query::response_id(&id)?;
    let found = get_response(&gateway, &tenant, &id).await?;
    let mut response = found.response.ok_or_else(ApiError::internal)?;
    if !has_ended(&response) {
        cancel_run(&gateway, &tenant, &id).await?;
        response = wait_for_end(&gateway, &tenant, id).await?;
    }
    match why_not_cancelled(response.status()) {
        None => Ok(shown(&response)),
        Some(why) => Err(ApiError::bad_request(why)),
    }
}

/// Why a response that has ended is not a cancelled one. Source of the words: Azure's Responses API.
fn why_not_cancelled(status: Status) -> Option<&'static str> {
    match status {
        Status::Cancelled => None,
        Status::Completed => Some("Cannot cancel a completed response."),
        Status::Failed => Some("Cannot cancel a failed response."),
        Status::Incomplete | Status::Queued | Status::InProgress | Status::Unspecified => {
            Some("Cannot cancel a response in terminal state.")
        }
    }
}

/// `GET /v1/responses/{id}/input_items`: what it was made from, with the turns before it.
async fn list_input_items(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    query::response_id(&id)?;
    let page = Page::parse(query.as_deref(), Order::NewestFirst)?;
    let list = ListInputItemsRequest {
        tenant: tenant.0,
        response_id: id,
    };
    let found = in_time(gateway.store.clone().list_input_items(list))
        .await
        .map_err(of_store)?;
    let items = listed_items(&found.into_inner().items);
    Ok(json(list_json(&items, &page)?))
}

fn stored_events(follow: Follow) -> Events {
    Events::Stored(Box::new(follow))
}

fn sse(gateway: &Gateway, events: Events) -> Response {
    event_stream(events, gateway.config.keepalive, gateway.stop.clone())
}

/// The response as an answer.
fn shown(response: &pb::Response) -> Response {
    with_session(json(response_json(response)), response)
}

fn with_session(mut answer: Response, response: &pb::Response) -> Response {
    session::put_headers(answer.headers_mut(), response);
    answer
}

fn json(body: String) -> Response {
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}
