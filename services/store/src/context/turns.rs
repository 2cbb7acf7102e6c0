//! Turns as a context: the chain that ends with one, and single items of any.

use std::collections::{HashMap, HashSet};

use talaria_domain::ids::{ItemPlace, Side};
use talaria_proto::v1::{ContextItem, Turn};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use crate::database::{Database, Error, read};
use crate::response::decode;

/// The turns from the first to `head`, as a conversation that they are read for shows them: without the items that were
/// taken out of it.
pub async fn turn_chain(
    database: &Database,
    tenant: &str,
    conversation: Option<Uuid>,
    head: Uuid,
) -> Result<Vec<Turn>, Error> {
    let mut turns = turns_read(database, tenant, head).await?;
    if let Some(conversation) = conversation {
        let deleted = items_deleted(database, conversation).await?;
        if !deleted.is_empty() {
            let kept =
                |item: &ContextItem| item_id(item).is_none_or(|id| !deleted.contains(id.as_str()));
            for turn in &mut turns {
                turn.input.retain(kept);
                turn.output.retain(kept);
            }
        }
    }
    Ok(turns)
}

/// The items of these ids, in their order. Ids name the response and the place, so no index is needed.
pub async fn items_find(
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
        let same_id = |item: &&ContextItem| item_id(item).is_some_and(|of_item| of_item == *id);
        item.filter(same_id).cloned().ok_or_else(|| {
            Reason::ItemNotFound.status_at("input", format!("Item with id '{id}' not found."))
        })
    };
    ids.iter().zip(&places).map(find).collect()
}

pub fn item_id(item: &ContextItem) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_slice::<Id>(&item.item)
        .ok()
        .map(|head| head.id)
}

/// Ids of the items that were taken out of a conversation.
async fn items_deleted(database: &Database, conversation: Uuid) -> Result<HashSet<String>, Error> {
    const SQL: &str = "
        -- items_deleted
        SELECT item_id
        FROM conversation_item_deleted
        WHERE conversation_id = $1";
    let rows = read(database, SQL, &[&conversation]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn turns_read(database: &Database, tenant: &str, head: Uuid) -> Result<Vec<Turn>, Error> {
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
