//! Turns as a context: the chain that ends with one, and single items of any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use talaria_domain::ids::{ItemPlace, Side};
use talaria_proto::v1::{ContextItem, Turn};
use talaria_runtime::error::Reason;
use tokio_postgres::Row;
use tonic::Status;
use uuid::Uuid;

use super::known::{KnownTurns, ReadTurn, Turns};
use crate::database::{Database, Error, read};
use crate::response::decode;

/// The turns that end with one.
#[derive(Debug)]
pub struct Chain<'a> {
    pub tenant: &'a str,
    /// What they are read for, if it is one.
    pub conversation: Option<Uuid>,
    pub head: Head,
}

/// The last turn of a chain, which is in the database, or was a moment ago, and is the tenant's.
#[derive(Debug)]
pub enum Head {
    Id(Uuid),
    Row(TurnRow),
}

/// A turn as it is stored.
#[derive(Debug)]
pub struct TurnRow {
    pub id: Uuid,
    parent: Option<Uuid>,
    body: Vec<u8>,
}

impl TurnRow {
    /// From columns `id`, `parent_id` and `body`, the first of which is this one; none where there was no turn.
    pub fn at(row: &Row, column: usize) -> Option<Self> {
        Some(Self {
            id: row.get::<_, Option<Uuid>>(column)?,
            parent: row.get(column + 1),
            body: row.get(column + 2),
        })
    }
}

/// The turns from the first to the last, as a conversation that they are read for shows them: without the items that
/// were taken out of it.
pub async fn turn_chain(
    database: &Database,
    known: &KnownTurns,
    chain: Chain<'_>,
) -> Result<Vec<Turn>, Error> {
    let conversation = chain.conversation;
    let mut turns = turns_read(database, known, chain).await?;
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

/// Takes what is known, and reads the rest.
///
/// A chain whose last turn came as a row is what somebody continues from, and likely to be continued from again.
async fn turns_read(
    database: &Database,
    known: &KnownTurns,
    Chain { tenant, head, .. }: Chain<'_>,
) -> Result<Vec<Turn>, Error> {
    let row = match head {
        Head::Id(id) => {
            let turns = match known.get(tenant, id) {
                Some(turns) => turns,
                None => chain_read(database, tenant, id).await?,
            };
            return Ok(turns.shown());
        }
        Head::Row(row) => row,
    };
    if let Some(turns) = known.get(tenant, row.id) {
        return Ok(turns.shown());
    }
    let head = Arc::new(ReadTurn::new(decode("turn", row.id, &row.body)?));
    let mut turns = match row.parent {
        None => Turns::default(),
        Some(parent) => match known.get(tenant, parent) {
            Some(turns) => turns,
            None => chain_read(database, tenant, parent).await?,
        },
    };
    turns.push(head);
    known.keep(tenant, row.id, &turns);
    Ok(turns.shown())
}

/// The turns from the first to `head`.
async fn chain_read(database: &Database, tenant: &str, head: Uuid) -> Result<Turns, Error> {
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
    let mut turns = Turns::default();
    for row in rows {
        let turn = decode("turn", row.get(0), row.get(1))?;
        turns.push(Arc::new(ReadTurn::new(turn)));
    }
    Ok(turns)
}
