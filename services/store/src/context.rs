//! Reading what a new run starts from: parent turns and items named by id.

mod known;
mod turns;

pub use known::KnownTurns;
pub use turns::{Chain, Head, item_id, turn_chain};

use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_proto::v1::{LoadContextRequest, LoadContextResponse};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use self::turns::TurnRow;
use crate::database::{Database, Error, read};
use crate::response::decode;

const COMPLETED: i16 = 3;

/// Answers `LoadContext`.
pub async fn context_load(
    database: &Database,
    known: &KnownTurns,
    request: &LoadContextRequest,
) -> Result<LoadContextResponse, Status> {
    let tenant = request.tenant.as_str();
    let mut context = if let Some(id) = &request.previous_response_id {
        previous_response_context(database, known, request, id).await?
    } else if let Some(conversation) = &request.conversation {
        conversation_context(database, known, request, conversation).await?
    } else if let Some(session) = &request.session_id {
        session_context(database, known, tenant, session).await?
    } else {
        LoadContextResponse::default()
    };
    context.items = turns::items_find(database, tenant, &request.item_ids).await?;
    Ok(context)
}

async fn previous_response_context(
    database: &Database,
    known: &KnownTurns,
    request: &LoadContextRequest,
    id: &str,
) -> Result<LoadContextResponse, Status> {
    let tenant = request.tenant.as_str();
    let previous = previous_response(database, tenant, id, !request.without_turns).await?;
    let mut context = LoadContextResponse {
        session_id: Some(previous.session),
        ..Default::default()
    };
    if request.with_instructions {
        context.instructions = instructions(database, previous.id).await?;
    }
    if !request.without_turns {
        let chain = Chain {
            tenant,
            conversation: None,
            head: previous.turn.map_or(Head::Id(previous.id), Head::Row),
        };
        context.turns = turn_chain(database, known, chain).await?;
        context.parent_response_id = Some(ResponseId(previous.id).to_string());
    }
    Ok(context)
}

/// The instructions that a finished response was made with.
async fn instructions(database: &Database, response: Uuid) -> Result<Option<String>, Error> {
    const SQL: &str = "
        -- response_final_get
        SELECT body
        FROM response_final
        WHERE response_id = $1";
    #[derive(serde::Deserialize)]
    struct Settings {
        instructions: Option<String>,
    }
    let rows = read(database, SQL, &[&response]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let response: talaria_proto::v1::Response = decode("response_final", response, row.get(0))?;
    // Settings of another shape hold no instructions that anybody could take over.
    let settings: Option<Settings> = serde_json::from_slice(&response.settings).ok();
    Ok(settings.and_then(|settings| settings.instructions))
}

async fn conversation_context(
    database: &Database,
    known: &KnownTurns,
    request: &LoadContextRequest,
    conversation: &str,
) -> Result<LoadContextResponse, Status> {
    let tenant = request.tenant.as_str();
    let Some(found) = conversation_find(database, tenant, conversation).await? else {
        return Ok(LoadContextResponse::default());
    };
    let busy = found.active.is_some() || found.waiting > 0;
    if busy && !request.may_wait {
        return Err(Reason::ConversationResponseNotCompleted.status_at(
            "conversation",
            "The conversation's active response is not completed yet.",
        ));
    }
    // What a run that waits will continue from is known when its turn comes.
    let head = found.head.filter(|_| !busy);
    let parent_response_id = head.as_ref().map(|head| ResponseId(head.id).to_string());
    let turns = match head {
        Some(head) => {
            let chain = Chain {
                tenant,
                conversation: Some(found.id),
                head: Head::Row(head),
            };
            turn_chain(database, known, chain).await?
        }
        None => Vec::new(),
    };
    let instructions = match found.latest {
        Some(latest) if request.with_instructions => instructions(database, latest).await?,
        Some(_) | None => None,
    };
    Ok(LoadContextResponse {
        turns,
        instructions,
        parent_response_id,
        conversation_id: Some(ConversationId(found.id).to_string()),
        session_id: found.session,
        busy,
        active_response_id: found.active.map(|active| ResponseId(active).to_string()),
        waiting: u32::try_from(found.waiting).unwrap_or(u32::MAX),
        ..Default::default()
    })
}

async fn session_context(
    database: &Database,
    known: &KnownTurns,
    tenant: &str,
    session: &str,
) -> Result<LoadContextResponse, Status> {
    let Some(head) = session_head(database, tenant, session).await? else {
        return Ok(LoadContextResponse::default());
    };
    let parent_response_id = Some(ResponseId(head.id).to_string());
    let chain = Chain {
        tenant,
        conversation: None,
        head: Head::Row(head),
    };
    Ok(LoadContextResponse {
        turns: turn_chain(database, known, chain).await?,
        parent_response_id,
        session_id: Some(session.to_owned()),
        ..Default::default()
    })
}

struct Previous {
    id: Uuid,
    session: String,
    turn: Option<TurnRow>,
}

/// A completed response, with its turn if that is wanted.
async fn previous_response(
    database: &Database,
    tenant: &str,
    id: &str,
    with_turn: bool,
) -> Result<Previous, Status> {
    const SQL: &str = "
        -- previous_response
        SELECT r.status, coalesce(r.session_id, r.id::text), t.id, t.parent_id, t.body
        FROM response r
        LEFT JOIN turn t ON t.id = r.id AND t.tenant = r.tenant AND $3
        WHERE r.id = $1 AND r.tenant = $2";
    let not_found = || {
        Reason::PreviousResponseNotFound.status_at(
            "previous_response_id",
            format!("Previous response not found: {id}"),
        )
    };
    let response = ResponseId::parse(id).ok_or_else(not_found)?.0;
    let rows = read(database, SQL, &[&response, &tenant, &with_turn]).await?;
    let row = rows.first().ok_or_else(not_found)?;
    if row.get::<_, i16>(0) != COMPLETED {
        return Err(Reason::PreviousResponseNotCompleted.status_at(
            "previous_response_id",
            format!("Previous response is not completed: {id}"),
        ));
    }
    Ok(Previous {
        id: response,
        session: row.get(1),
        turn: TurnRow::at(row, 2),
    })
}

struct FoundConversation {
    id: Uuid,
    head: Option<TurnRow>,
    active: Option<Uuid>,
    latest: Option<Uuid>,
    /// Of the latest completed response; of the active one where none has completed.
    session: Option<String>,
    waiting: i64,
}

/// Where a conversation stands; none for a free name that is not in use.
async fn conversation_find(
    database: &Database,
    tenant: &str,
    conversation: &str,
) -> Result<Option<FoundConversation>, Status> {
    const SQL: &str = "
        -- conversation_find
        SELECT c.id,
               c.active_response_id,
               (SELECT coalesce(r.session_id, r.id::text)
                FROM response r
                WHERE r.id = coalesce(c.latest_completed_response_id, c.active_response_id)),
               (SELECT count(*) FROM response w WHERE w.conversation_id = c.id AND w.status = 0),
               c.latest_completed_response_id,
               t.id,
               t.parent_id,
               t.body
        FROM conversation c
        LEFT JOIN LATERAL (
            SELECT *
            FROM turn
            WHERE turn.id = c.head_turn_id AND turn.tenant = c.tenant
            OFFSET 0
        ) t ON c.active_response_id IS NULL
        WHERE c.tenant = $1 AND (c.id = $2 OR c.name = $3)
        LIMIT 1";
    let is_id = conversation.starts_with("conv_");
    let id = ConversationId::parse(conversation).map(|id| id.0);
    let name = (!is_id).then_some(conversation);
    let rows = read(database, SQL, &[&tenant, &id, &name]).await?;
    if rows.is_empty() && is_id {
        return Err(Reason::ConversationNotFound.status_at(
            "conversation",
            format!("Conversation not found: {conversation}"),
        ));
    }
    Ok(rows.first().map(|row| FoundConversation {
        id: row.get(0),
        active: row.get(1),
        session: row.get(2),
        waiting: row.get(3),
        latest: row.get(4),
        head: TurnRow::at(row, 5),
    }))
}

/// The newest completed turn of a session; none for a session that has none.
///
/// A turn that outlived its response is kept for those that continue from it, and for nobody else. The response that
/// names a session is its oldest, also where ids tell nothing about time, as imported ones.
async fn session_head(
    database: &Database,
    tenant: &str,
    session: &str,
) -> Result<Option<TurnRow>, Error> {
    const SQL: &str = "
        -- session_head
        SELECT turn.id, turn.parent_id, turn.body
        FROM (
            (SELECT t.id, false AS names_it
             FROM turn t
             WHERE t.tenant = $1
               AND t.session_id = $2
               AND (SELECT r.id FROM response r WHERE r.id = t.id) IS NOT NULL
             ORDER BY t.id DESC
             LIMIT 1)
            UNION ALL
            SELECT r.id, true
            FROM response r
            WHERE r.id = $3 AND r.tenant = $1 AND r.session_id IS NULL AND r.status = 3
            ORDER BY names_it
            LIMIT 1
        ) head
        CROSS JOIN LATERAL (
            SELECT *
            FROM turn
            WHERE turn.id = head.id AND turn.tenant = $1
            OFFSET 0
        ) turn";
    // A response's own session is its id in this very spelling.
    let own = Uuid::try_parse(session)
        .ok()
        .filter(|id| id.to_string() == session);
    let rows = read(database, SQL, &[&tenant, &session, &own]).await?;
    Ok(rows.first().and_then(|row| TurnRow::at(row, 0)))
}
