//! Reading what a new run starts from: parent turns and items named by id.

use std::collections::HashMap;

use talaria_domain::ids::{ConversationId, ItemPlace, ResponseId, Side};
use talaria_proto::v1::{ContextItem, LoadContextRequest, LoadContextResponse, Turn};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use crate::database::{Database, Error, read};
use crate::response::decode;

const COMPLETED: i16 = 3;

/// Answers `LoadContext`.
pub async fn context_load(
    database: &Database,
    request: &LoadContextRequest,
) -> Result<LoadContextResponse, Status> {
    let tenant = request.tenant.as_str();
    let mut context = LoadContextResponse::default();
    let head = if let Some(id) = &request.previous_response_id {
        Some(previous_response(database, tenant, id).await?)
    } else if let Some(conversation) = &request.conversation {
        let found = conversation_head(database, tenant, conversation).await?;
        context.conversation_id = found
            .as_ref()
            .map(|found| ConversationId(found.id).to_string());
        found.and_then(|found| found.head_turn)
    } else {
        None
    };
    if let Some(head) = head {
        context.turns = turn_chain(database, tenant, head).await?;
        context.parent_response_id = Some(ResponseId(head).to_string());
    }
    context.items = items_find(database, tenant, &request.item_ids).await?;
    Ok(context)
}

/// The turn of a completed response.
async fn previous_response(database: &Database, tenant: &str, id: &str) -> Result<Uuid, Status> {
    const SQL: &str = "
        -- previous_response
        SELECT status
        FROM response
        WHERE id = $1 AND tenant = $2";
    let not_found = || {
        Reason::PreviousResponseNotFound.status_at(
            "previous_response_id",
            format!("Previous response not found: {id}"),
        )
    };
    let response = ResponseId::parse(id).ok_or_else(not_found)?.0;
    let rows = read(database, SQL, &[&response, &tenant]).await?;
    match rows.first().map(|row| row.get::<_, i16>(0)) {
        Some(COMPLETED) => Ok(response),
        Some(_) => Err(Reason::PreviousResponseNotCompleted.status_at(
            "previous_response_id",
            format!("Previous response is not completed: {id}"),
        )),
        None => Err(not_found()),
    }
}

struct ConversationHead {
    id: Uuid,
    head_turn: Option<Uuid>,
}

/// Where a conversation stands; none for a free name that is not in use.
async fn conversation_head(
    database: &Database,
    tenant: &str,
    conversation: &str,
) -> Result<Option<ConversationHead>, Status> {
    const SQL: &str = "
        -- conversation_head
        SELECT id, head_turn_id, active_response_id
        FROM conversation
        WHERE tenant = $1 AND (id = $2 OR name = $3)
        LIMIT 1";
    let is_id = conversation.starts_with("conv_");
    let id = ConversationId::parse(conversation).map(|id| id.0);
    let name = (!is_id).then_some(conversation);
    let rows = read(database, SQL, &[&tenant, &id, &name]).await?;
    let Some(row) = rows.first() else {
        return if is_id {
            Err(Reason::ConversationNotFound.status_at(
                "conversation",
                format!("Conversation not found: {conversation}"),
            ))
        } else {
            Ok(None)
        };
    };
    if row.get::<_, Option<Uuid>>(2).is_some() {
        return Err(Reason::ConversationResponseNotCompleted.status_at(
            "conversation",
            "The conversation's active response is not completed yet.",
        ));
    }
    Ok(Some(ConversationHead {
        id: row.get(0),
        head_turn: row.get(1),
    }))
}

/// The turns from the first to `head`.
pub async fn turn_chain(database: &Database, tenant: &str, head: Uuid) -> Result<Vec<Turn>, Error> {
    const SQL: &str = "
        -- turn_chain
        WITH RECURSIVE chain AS (
            SELECT id, parent_id, body, 0 AS depth
            FROM turn
            WHERE id = $1 AND tenant = $2
            UNION ALL
            SELECT t.id, t.parent_id, t.body, chain.depth + 1
            FROM chain
            JOIN turn t ON t.id = chain.parent_id
        )
        SELECT id, body
        FROM chain
        ORDER BY depth DESC";
    let rows = read(database, SQL, &[&head, &tenant]).await?;
    rows.iter()
        .map(|row| decode("turn", row.get(0), row.get(1)))
        .collect()
}

/// The items of these ids, in their order. Ids name the response and the place, so no index is needed.
async fn items_find(
    database: &Database,
    tenant: &str,
    ids: &[String],
) -> Result<Vec<ContextItem>, Status> {
    const SQL: &str = "
        -- items_find
        SELECT id, body
        FROM turn
        WHERE tenant = $1 AND id = ANY ($2)";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<Option<ItemPlace>> = ids.iter().map(|id| ItemPlace::parse(id)).collect();
    let responses: Vec<Uuid> = places
        .iter()
        .flatten()
        .map(|place| place.response)
        .collect();
    let rows = read(database, SQL, &[&tenant, &responses]).await?;
    let mut turns: HashMap<Uuid, Turn> = HashMap::new();
    for row in rows {
        let id = row.get(0);
        turns.insert(id, decode("turn", id, row.get(1))?);
    }
    let find = |(id, place): (&String, &Option<ItemPlace>)| {
        let turn = place.and_then(|place| Some((turns.get(&place.response)?, place)));
        let item = turn.and_then(|(turn, place)| {
            let side = match place.side {
                Side::Input => &turn.input,
                Side::Output => &turn.output,
            };
            side.get(place.index as usize)
        });
        // The prefix is part of the id.
        let same_id = |item: &&ContextItem| {
            serde_json::from_slice::<Id>(&item.item).is_ok_and(|head| head.id == *id)
        };
        item.filter(same_id).cloned().ok_or_else(|| {
            Reason::ItemNotFound.status_at("input", format!("Item with id '{id}' not found."))
        })
    };
    ids.iter().zip(&places).map(find).collect()
}

#[derive(serde::Deserialize)]
struct Id {
    id: String,
}
