//! Conversations as the Conversations API shows them: found by `conv_…` id or free name, made, changed, forgotten.

mod items;

pub use items::{item_delete, items_add, items_list};

use bytes::Bytes;
use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_proto::v1::{
    ContextItem, Conversation, CreateConversationRequest, DeleteConversationRequest,
    DeleteConversationResponse, GetConversationRequest, Turn, UpdateConversationRequest,
};
use talaria_runtime::error::Reason;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tonic::Status;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, Tries, query, read, write};
use crate::delete::turns_clear;

/// How often a change is tried again when the conversation moves under it.
const TRIES: usize = 5;

/// Makes a conversation, with a first turn of `items` where there are some, in one statement.
///
/// A conversation that is there already is answered with as it is: an earlier call's answer was lost.
pub async fn conversation_create(
    database: &Database,
    request: CreateConversationRequest,
) -> Result<Conversation, Status> {
    const SQL: &str = "
        -- conversation_create
        WITH made AS (
            INSERT INTO conversation (id, tenant, metadata, head_turn_id)
            VALUES ($1, $2, $3, $4)
            ON CONFLICT (id) DO NOTHING
            RETURNING id
        )
        INSERT INTO turn (id, tenant, body)
        SELECT $4, $2, $5
        FROM made
        WHERE $4 IS NOT NULL";
    let id = ConversationId::parse(&request.id).ok_or_else(|| invalid("id"))?;
    let metadata = pack_metadata(&request.metadata);
    let turn = if request.items.is_empty() {
        None
    } else {
        Some(parse_turn(&request.turn_id)?)
    };
    let body = turn.map(|_| pack_turn(&request.items));
    let params: [&(dyn ToSql + Sync); 5] = [&id.0, &request.tenant, &metadata, &turn, &body];
    write(database, SQL, &params).await?;
    Ok(found(database, &request.tenant, &request.id).await?.shown())
}

/// The conversation as it stands.
pub async fn conversation_get(
    database: &Database,
    request: GetConversationRequest,
) -> Result<Conversation, Status> {
    let found = found(database, &request.tenant, &request.conversation).await?;
    Ok(found.shown())
}

/// Sets the conversation's metadata.
pub async fn conversation_update(
    database: &Database,
    request: UpdateConversationRequest,
) -> Result<Conversation, Status> {
    const SQL: &str = "
        -- conversation_update
        UPDATE conversation
        SET metadata = $2
        WHERE id = $1";
    let UpdateConversationRequest {
        tenant,
        conversation,
        metadata,
    } = request;
    let mut found = found(database, &tenant, &conversation).await?;
    let packed = pack_metadata(&metadata);
    write(database, SQL, &[&found.id, &packed]).await?;
    found.metadata = metadata;
    Ok(found.shown())
}

/// Forgets the conversation with its marks of deleted items, and the turns that only it kept. Its responses stay.
pub async fn conversation_delete(
    database: &Database,
    request: DeleteConversationRequest,
) -> Result<DeleteConversationResponse, Status> {
    const SQL: &str = "
        -- conversation_delete
        DELETE FROM conversation c
        WHERE c.id = $1
          AND c.active_response_id IS NULL
          AND NOT EXISTS (SELECT 1 FROM response r WHERE r.conversation_id = c.id AND r.status = 0)
        RETURNING c.head_turn_id";
    let DeleteConversationRequest {
        tenant,
        conversation,
    } = request;
    let found = found(database, &tenant, &conversation).await?;
    let mut tries = Tries::default();
    let mut turns = Vec::new();
    let is_deleted = loop {
        let trip = database.trip(async {
            let connection = database.connection().await?;
            let rows = query(&connection, SQL, &[&found.id]).await?;
            let Some(row) = rows.first() else {
                return Ok(false);
            };
            let head: Option<Uuid> = row.get(0);
            turns.extend(head);
            Ok(true)
        });
        match trip.await {
            Err(error) if tries.go_on(&error) => {}
            Ok(false) if tries.maybe_stored => {
                break !conversation_exists(database, found.id).await?;
            }
            outcome => break outcome?,
        }
    };
    if !is_deleted {
        return Err(not_completed());
    }
    turns_clear(database, &tenant, turns).await;
    Ok(DeleteConversationResponse {
        id: ConversationId(found.id).to_string(),
    })
}

async fn conversation_exists(database: &Database, id: Uuid) -> Result<bool, Error> {
    const SQL: &str = "
        -- conversation_exists
        SELECT 1
        FROM conversation
        WHERE id = $1";
    Ok(!read(database, SQL, &[&id]).await?.is_empty())
}

/// A conversation's row.
struct Found {
    id: Uuid,
    name: Option<String>,
    created_at: i64,
    metadata: Bytes,
    latest_completed: Option<Uuid>,
    active: Option<Uuid>,
    head_turn: Option<Uuid>,
    /// Runs wait in its line.
    has_waiting: bool,
}

impl Found {
    fn of(row: &Row) -> Result<Self, Error> {
        let id = row.get(0);
        let metadata: Option<&[u8]> = row.get(3);
        let metadata = metadata.map_or(Ok(Bytes::from_static(b"{}")), codec::unpack);
        let metadata = metadata.map_err(|reason| Error::BrokenRow {
            table: "conversation",
            id,
            reason,
        })?;
        Ok(Self {
            id,
            name: row.get(1),
            created_at: row.get(2),
            metadata,
            latest_completed: row.get(4),
            active: row.get(5),
            head_turn: row.get(6),
            has_waiting: row.get(7),
        })
    }

    /// Refuses what must not happen while a response of the conversation is active or waits.
    fn refuse_if_busy(&self) -> Result<(), Status> {
        if self.active.is_some() || self.has_waiting {
            return Err(not_completed());
        }
        Ok(())
    }

    fn shown(self) -> Conversation {
        let response_id = |id: Uuid| ResponseId(id).to_string();
        Conversation {
            id: ConversationId(self.id).to_string(),
            created_at: self.created_at,
            metadata: self.metadata,
            name: self.name,
            latest_completed_response_id: self.latest_completed.map(response_id),
            active_response_id: self.active.map(response_id),
        }
    }
}

/// The conversation of this id or free name.
async fn found(database: &Database, tenant: &str, conversation: &str) -> Result<Found, Status> {
    const SQL: &str = "
        -- conversation_find
        SELECT c.id,
               c.name,
               extract(epoch FROM c.created_at)::bigint,
               c.metadata,
               c.latest_completed_response_id,
               c.active_response_id,
               c.head_turn_id,
               EXISTS (SELECT 1 FROM response r WHERE r.conversation_id = c.id AND r.status = 0)
        FROM conversation c
        WHERE c.tenant = $1 AND (c.id = $2 OR c.name = $3)
        LIMIT 1";
    let id = ConversationId::parse(conversation).map(|id| id.0);
    let name = (!conversation.starts_with("conv_")).then_some(conversation);
    let rows = read(database, SQL, &[&tenant, &id, &name]).await?;
    let not_found = || {
        Reason::ConversationNotFound.status_at(
            "conversation_id",
            format!("Conversation not found: {conversation}"),
        )
    };
    Ok(Found::of(rows.first().ok_or_else(not_found)?)?)
}

fn not_completed() -> Status {
    Reason::ConversationResponseNotCompleted.status_at(
        "conversation_id",
        "The conversation's active response is not completed yet.",
    )
}

fn invalid(name: &'static str) -> Status {
    Reason::InvalidValue.status_at(name, format!("{name} is no id"))
}

fn parse_turn(id: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(id).map_err(|_| invalid("turn_id"))
}

fn pack_turn(items: &[ContextItem]) -> Vec<u8> {
    let turn = Turn {
        input: items.to_vec(),
        output: Vec::new(),
    };
    codec::pack(&prost::Message::encode_to_vec(&turn))
}

/// No metadata is kept as none.
fn pack_metadata(metadata: &Bytes) -> Option<Vec<u8>> {
    (!metadata.is_empty() && *metadata != b"{}"[..]).then(|| codec::pack(metadata))
}
