//! Turns as a context: the chain that ends with one, and single items of any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use talaria_domain::ids::{ItemPlace, Side};
use talaria_proto::v1::{ContextItem, Turn};
use talaria_runtime::error::Reason;
use tokio_postgres::Row;
use tonic::Status;
use uuid::Uuid;

use super::known::{KnownTurns, ReadTurn};
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

/// The last turn of a chain, which is in the database, or was a moment ago.
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

/// Reads those turns that are not known.
async fn turns_read(
    database: &Database,
    known: &KnownTurns,
    Chain { tenant, head, .. }: Chain<'_>,
) -> Result<Vec<Turn>, Error> {
    let mut newest_first = Vec::new();
    let mut next = match head {
        Head::Row(row) if known.get(tenant, row.id).is_none() => {
            let head = [unpacked(tenant, row)?];
            known.keep(&head);
            let [(_, turn)] = head;
            let parent = turn.parent;
            newest_first.push(turn);
            parent
        }
        Head::Row(TurnRow { id, .. }) | Head::Id(id) => Some(id),
    };
    while let Some(turn) = next.and_then(|id| known.get(tenant, id)) {
        next = turn.parent;
        newest_first.push(turn);
    }
    if let Some(head) = next {
        let unknown = chain_read(database, tenant, head).await?;
        known.keep(&unknown);
        newest_first.extend(unknown.into_iter().map(|(_, turn)| turn));
    }
    let turn = |turn: &Arc<ReadTurn>| turn.turn.clone();
    Ok(newest_first.iter().rev().map(turn).collect())
}

/// The turns from `head` back to the first.
async fn chain_read(
    database: &Database,
    tenant: &str,
    head: Uuid,
) -> Result<Vec<(Uuid, Arc<ReadTurn>)>, Error> {
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
        SELECT id, parent_id, body
        FROM chain
        ORDER BY depth";
    let rows = read(database, SQL, &[&head, &tenant]).await?;
    rows.iter()
        .filter_map(|row| TurnRow::at(row, 0))
        .map(|row| unpacked(tenant, row))
        .collect()
}

fn unpacked(tenant: &str, row: TurnRow) -> Result<(Uuid, Arc<ReadTurn>), Error> {
    let TurnRow { id, parent, body } = row;
    let turn = ReadTurn {
        tenant: tenant.to_owned(),
        parent,
        turn: decode("turn", id, &body)?,
    };
    Ok((id, Arc::new(turn)))
}
