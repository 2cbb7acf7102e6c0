//! The items of a conversation: listed, added, taken out.

use std::collections::HashSet;

use talaria_proto::v1::{
    AddConversationItemsRequest, AddConversationItemsResponse, ContextItem, Conversation,
    DeleteConversationItemRequest, ListConversationItemsRequest, ListConversationItemsResponse,
};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use super::{Found, TRIES, found, not_completed, pack_turn, parse_turn};
use crate::context::{Chain, Head, KnownTurns, item_id};
use crate::database::{Database, Error, Tries, query, read, write};
use crate::items::items_of;

/// The conversation's items, oldest first, each once, without those that were taken out.
pub async fn items_list(
    database: &Database,
    known: &KnownTurns,
    request: ListConversationItemsRequest,
) -> Result<ListConversationItemsResponse, Status> {
    let found = found(database, &request.tenant, &request.conversation).await?;
    let mut items = items_shown(database, known, &request.tenant, &found).await?;
    // A later turn that refers to an item of an earlier one holds it too.
    let mut seen = HashSet::new();
    items.retain(|item| item_id(item).is_none_or(|id| seen.insert(id)));
    Ok(ListConversationItemsResponse { items })
}

/// Adds a turn of its own behind the conversation's head, and moves the head to it.
///
/// A turn that is there already was added by an earlier call whose answer was lost.
pub async fn items_add(
    database: &Database,
    request: AddConversationItemsRequest,
) -> Result<AddConversationItemsResponse, Status> {
    let AddConversationItemsRequest {
        tenant,
        conversation,
        items,
        turn_id,
    } = request;
    let turn = parse_turn(&turn_id)?;
    let body = pack_turn(&items);
    let mut tries = Tries::default();
    for _ in 0..TRIES {
        let found = found(database, &tenant, &conversation).await?;
        let is_done = items.is_empty() || turn_exists(database, &tenant, turn).await?;
        if !is_done {
            found.refuse_if_busy()?;
        }
        if is_done {
            return Ok(AddConversationItemsResponse { items });
        }
        match turn_add(database, &tenant, &found, turn, &body).await {
            Ok(true) => return Ok(AddConversationItemsResponse { items }),
            Ok(false) => {}
            Err(error) if tries.go_on(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Reason::ConversationChanged.status("The conversation changed at the same moment."))
}

/// Marks an item as taken out. The turn that holds it is never rewritten: others may continue from it.
pub async fn item_delete(
    database: &Database,
    known: &KnownTurns,
    request: DeleteConversationItemRequest,
) -> Result<Conversation, Status> {
    const SQL: &str = "
        -- conversation_item_delete
        WITH free AS (
            SELECT c.id
            FROM conversation c
            WHERE c.id = $1
              AND c.active_response_id IS NULL
              AND NOT EXISTS (SELECT 1 FROM response r WHERE r.conversation_id = c.id AND r.status = 0)
            FOR UPDATE OF c
        )
        INSERT INTO conversation_item_deleted (conversation_id, item_id)
        SELECT id, $2
        FROM free
        ON CONFLICT (conversation_id, item_id) DO UPDATE
        SET item_id = excluded.item_id
        RETURNING item_id";
    let DeleteConversationItemRequest {
        tenant,
        conversation,
        item_id: id,
    } = request;
    let found = found(database, &tenant, &conversation).await?;
    let items = items_shown(database, known, &tenant, &found).await?;
    if !items
        .iter()
        .any(|item| item_id(item).is_some_and(|of| of == id))
    {
        let message = format!("Item with id '{id}' not found.");
        return Err(Reason::ItemNotFound.status_at("item_id", message));
    }
    found.refuse_if_busy()?;
    let rows = write(database, SQL, &[&found.id, &id]).await?;
    if rows.is_empty() {
        return Err(not_completed());
    }
    Ok(found.shown())
}

async fn items_shown(
    database: &Database,
    known: &KnownTurns,
    tenant: &str,
    found: &Found,
) -> Result<Vec<ContextItem>, Status> {
    let Some(head_turn) = found.head_turn else {
        return Ok(Vec::new());
    };
    let chain = Chain {
        tenant,
        conversation: Some(found.id),
        head: Head::Id(head_turn),
    };
    Ok(items_of(database, known, chain).await?)
}

async fn turn_exists(database: &Database, tenant: &str, id: Uuid) -> Result<bool, Error> {
    const SQL: &str = "
        -- turn_exists
        SELECT 1
        FROM turn
        WHERE id = $1 AND tenant = $2";
    Ok(!read(database, SQL, &[&id, &tenant]).await?.is_empty())
}

/// Writes the turn if the conversation is still free and stands where it was found; answers whether it did.
async fn turn_add(
    database: &Database,
    tenant: &str,
    found: &Found,
    turn: Uuid,
    body: &[u8],
) -> Result<bool, Error> {
    const SQL: &str = "
        -- conversation_items_add
        WITH moved AS (
            UPDATE conversation c
            SET head_turn_id = $2
            WHERE c.id = $1
              AND c.active_response_id IS NULL
              AND c.head_turn_id IS NOT DISTINCT FROM $3
              AND NOT EXISTS (SELECT 1 FROM response r WHERE r.conversation_id = c.id AND r.status = 0)
            RETURNING c.tenant
        )
        INSERT INTO turn (id, tenant, parent_id, body)
        SELECT $2, $4, $3, $5
        FROM moved
        RETURNING id";
    database
        .trip(async {
            let connection = database.connection().await?;
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&found.id, &turn, &found.head_turn, &tenant, &body];
            Ok(!query(&connection, SQL, &params).await?.is_empty())
        })
        .await
}
