//! `/v1/conversations`: the Conversations API.

mod object;
mod request;

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use talaria_domain::ids::ConversationId;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    AddConversationItemsRequest, ContextItem, CreateConversationRequest,
    DeleteConversationItemRequest, DeleteConversationRequest, GetConversationRequest,
    ListConversationItemsRequest, UpdateConversationRequest,
};
use talaria_runtime::error::{Reason, is_unheard};
use talaria_runtime::ids;
use talaria_runtime::link::Link;
use tonic::Status;

use self::object::{conversation_json, deleted_json};
use self::request::{
    changed_metadata, conversation_key, item_id, item_not_found, new_conversation, new_items,
    not_found,
};
use crate::calls::of_store;
use crate::error::ApiError;
use crate::follow::in_time;
use crate::front::read_body;
use crate::paging::{Order, Page, envelope, list_json};
use crate::render::listed_items;
use crate::{Gateway, Tenant};

/// How often a call whose answer was lost is made again: it changes nothing the second time.
const TRIES: u32 = 3;
/// How often a call is made again when the conversation moved under it, with growing pauses.
const TRIES_WHEN_MOVED: u32 = 30;

/// Its routes.
pub fn routes() -> Router<Gateway> {
    Router::new()
        .route("/v1/conversations", post(create_conversation))
        .route(
            "/v1/conversations/{id}",
            get(retrieve_conversation)
                .post(update_conversation)
                .delete(delete_conversation),
        )
        .route(
            "/v1/conversations/{id}/items",
            get(list_items).post(create_items),
        )
        .route(
            "/v1/conversations/{id}/items/{item_id}",
            get(retrieve_item).delete(delete_item),
        )
}

/// `POST /v1/conversations`
async fn create_conversation(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let has_no_body = body.is_end_stream() && !headers.contains_key(header::CONTENT_TYPE);
    let body = if has_no_body {
        Bytes::new()
    } else {
        read_body(&headers, body, gateway.config.max_body_bytes).await?
    };
    let turn = ids::new_id();
    let new = new_conversation(&body, turn)?;
    let create = CreateConversationRequest {
        tenant: tenant.0,
        id: ConversationId(ids::new_id()).to_string(),
        metadata: new.metadata.into(),
        items: new.items,
        turn_id: turn.to_string(),
    };
    let call = |mut store: Store| {
        let create = create.clone();
        async move { store.create_conversation(create).await }
    };
    let conversation = repeated(&gateway, call).await.map_err(of_store)?;
    Ok(json(conversation_json(&conversation)))
}

/// `GET /v1/conversations/{id}`
async fn retrieve_conversation(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let retrieve = GetConversationRequest {
        tenant: tenant.0,
        conversation: conversation_key(&id)?,
    };
    let conversation = in_time(gateway.store.clone().get_conversation(retrieve)).await;
    let conversation = conversation.map_err(|status| refusal(&id, status))?;
    Ok(json(conversation_json(conversation.get_ref())))
}

/// `POST /v1/conversations/{id}`
async fn update_conversation(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let update = UpdateConversationRequest {
        tenant: tenant.0,
        metadata: changed_metadata(&body)?.into(),
        conversation: conversation_key(&id)?,
    };
    let call = |mut store: Store| {
        let update = update.clone();
        async move { store.update_conversation(update).await }
    };
    let conversation = repeated(&gateway, call).await;
    let conversation = conversation.map_err(|status| refusal(&id, status))?;
    Ok(json(conversation_json(&conversation)))
}

/// `DELETE /v1/conversations/{id}`: the container alone; its responses stay.
async fn delete_conversation(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let delete = DeleteConversationRequest {
        tenant: tenant.0,
        conversation: conversation_key(&id)?,
    };
    let deleted = in_time(gateway.store.clone().delete_conversation(delete)).await;
    let deleted = deleted.map_err(|status| refusal(&id, status))?;
    Ok(json(deleted_json(&deleted.get_ref().id)))
}

/// `GET /v1/conversations/{id}/items`
async fn list_items(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let page = Page::parse(query.as_deref(), Order::NewestFirst)?;
    let items = items(&gateway, tenant, &id).await?;
    Ok(json(list_json(&listed_items(&items), &page)?))
}

/// `POST /v1/conversations/{id}/items`: answers with the new items, in the order in which they came.
async fn create_items(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(&headers, body, gateway.config.max_body_bytes).await?;
    let conversation = conversation_key(&id)?;
    let turn = ids::new_id();
    let items = new_items(&body, turn)?;
    let add = AddConversationItemsRequest {
        tenant: tenant.0,
        conversation,
        items,
        turn_id: turn.to_string(),
    };
    let call = |mut store: Store| {
        let add = add.clone();
        async move { store.add_conversation_items(add).await }
    };
    let added = repeated(&gateway, call).await;
    let added = listed_items(&added.map_err(|status| refusal(&id, status))?.items);
    let added: Vec<&(String, Bytes)> = added.iter().collect();
    Ok(json(envelope(&added, false)))
}

/// `GET /v1/conversations/{id}/items/{item_id}`
async fn retrieve_item(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path((id, wanted)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let items = items(&gateway, tenant, &id).await?;
    let is_it = |item: &&ContextItem| item_id(item).as_deref() == Some(wanted.as_str());
    let found: Vec<ContextItem> = items.iter().filter(is_it).take(1).cloned().collect();
    let (_, item) = listed_items(&found)
        .pop()
        .ok_or_else(|| item_not_found(&wanted))?;
    Ok(json(item))
}

/// `DELETE /v1/conversations/{id}/items/{item_id}`: answers with the conversation.
async fn delete_item(
    State(gateway): State<Gateway>,
    Extension(tenant): Extension<Tenant>,
    Path((id, item)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let delete = DeleteConversationItemRequest {
        tenant: tenant.0,
        conversation: conversation_key(&id)?,
        // What cannot be an id is not looked for: Postgres keeps no such text.
        item_id: conversation_key(&item).map_err(|_| item_not_found(&item))?,
    };
    let left = in_time(gateway.store.clone().delete_conversation_item(delete)).await;
    let left = left.map_err(|status| match Reason::of(&status) {
        Some(Reason::ItemNotFound) => item_not_found(&item),
        _ => refusal(&id, status),
    })?;
    Ok(json(conversation_json(left.get_ref())))
}

type Store = StoreServiceClient<Link>;

/// All items of a conversation, oldest first.
async fn items(gateway: &Gateway, tenant: Tenant, id: &str) -> Result<Vec<ContextItem>, ApiError> {
    let list = ListConversationItemsRequest {
        tenant: tenant.0,
        conversation: conversation_key(id)?,
    };
    let found = in_time(gateway.store.clone().list_conversation_items(list)).await;
    let found = found.map_err(|status| refusal(id, status))?;
    Ok(found.into_inner().items)
}

/// Makes a call that may be repeated until it is answered.
async fn repeated<T, F>(gateway: &Gateway, call: impl Fn(Store) -> F) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match in_time(call(gateway.store.clone())).await {
            Err(status) if is_silence(&status) && tries < TRIES => {}
            Err(status) if has_moved(&status) && tries < TRIES_WHEN_MOVED => {
                tokio::time::sleep(Duration::from_millis(tries.into())).await;
            }
            answer => return answer.map(tonic::Response::into_inner),
        }
    }
}

/// Whether nothing is known about what became of a call.
fn is_silence(status: &Status) -> bool {
    is_unheard(status) || Reason::of(status) == Some(Reason::StoreUnavailable)
}

/// Whether others changed the conversation at the same moment, so that nothing was done.
fn has_moved(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::ConversationChanged)
}

/// What a client sees of a failed call about the conversation `id`.
fn refusal(id: &str, status: Status) -> ApiError {
    if Reason::of(&status) == Some(Reason::ConversationNotFound) {
        return not_found(id);
    }
    if has_moved(&status) {
        let message = "Too many requests change the conversation at the same time.";
        return ApiError::rate_limited(message);
    }
    of_store(status).into()
}

fn json(body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, headers, body.into()).into_response()
}
