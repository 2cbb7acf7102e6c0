//! Forgetting responses, and the turns that nothing continues from any more.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::database::{Database, Error, Object, Tries, error_chain, query};

/// Ancestors that one delete clears away behind itself at most; what is left goes with a sweep.
const ANCESTORS: usize = 1000;
/// How long clearing turns away may keep whoever deletes.
const CLEARING: Duration = Duration::from_secs(2);

/// Removes the response, its log, its request and its final object, and with its row its idempotency key; clears what
/// points at it. Its turn goes too unless another continues from it, and so do turns before it that were only kept for
/// it. Answers whether there was one.
///
/// An active run that still writes finds its row gone, and itself lost.
pub async fn response_delete(database: &Database, tenant: &str, id: Uuid) -> Result<bool, Error> {
    let mut tries = Tries::default();
    let mut was_there = false;
    let is_deleted = loop {
        let trip = database.trip(async {
            let mut connection = database.connection().await?;
            response_delete_once(&mut connection, tenant, id, &mut was_there).await
        });
        match trip.await {
            Err(error) if tries.go_on(&error) => {}
            // An earlier try deleted it, and nobody heard so.
            Ok(false) if tries.maybe_stored => break was_there,
            outcome => break outcome?,
        }
    };
    if is_deleted {
        turns_clear(database, tenant, vec![id]).await;
    }
    Ok(is_deleted)
}

/// Deletes what nothing needs of these turns after what kept them is gone. That is done and told, whatever becomes of
/// this: what it leaves goes with a sweep.
pub async fn turns_clear(database: &Database, tenant: &str, turns: Vec<Uuid>) {
    if turns.is_empty() {
        return;
    }
    let clearing = database.trip(async {
        let connection = database.connection().await?;
        turns_delete(&connection, tenant, turns).await
    });
    let cleared = tokio::time::timeout(CLEARING, clearing).await;
    if let Err(error) = cleared.unwrap_or(Err(Error::Deadline)) {
        let cause = error_chain(&error);
        tracing::warn!(
            error = cause,
            "turns of what was deleted are left to a sweep"
        );
    }
}

async fn response_delete_once(
    connection: &mut Object,
    tenant: &str,
    id: Uuid,
    was_there: &mut bool,
) -> Result<bool, Error> {
    const SQL: &str = "
        -- response_delete
        DELETE FROM response
        WHERE id = $1 AND tenant = $2
        RETURNING conversation_id";
    let transaction = connection.transaction().await?;
    let statement = transaction.prepare_cached(SQL).await?;
    let Some(row) = transaction.query_opt(&statement, &[&id, &tenant]).await? else {
        return Ok(false);
    };
    *was_there = true;
    let conversation: Option<Uuid> = row.get(0);
    let conversations: Vec<Uuid> = conversation.into_iter().collect();
    responses_delete_rest_in_tx(&transaction, &[id], &conversations).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Deletes what was written under responses whose rows this transaction deleted, and clears what points at them in
/// their conversations.
///
/// A statement of its own: a writer that held such a row until it was deleted is seen by this one, not by the one that
/// deleted it. A conversation that is known by a free name begins afresh; one that was made by its id keeps its items.
pub async fn responses_delete_rest_in_tx(
    transaction: &deadpool_postgres::Transaction<'_>,
    ids: &[Uuid],
    conversations: &[Uuid],
) -> Result<(), Error> {
    const SQL: &str = "
        -- responses_delete_rest
        WITH events_gone AS (
            DELETE FROM event_chunk
            WHERE response_id = ANY ($1)
        ), request_gone AS (
            DELETE FROM run_request
            WHERE response_id = ANY ($1)
        ), final_gone AS (
            DELETE FROM response_final
            WHERE response_id = ANY ($1)
        )
        UPDATE conversation c
        SET active_response_id = CASE
                WHEN c.active_response_id = ANY ($1) THEN NULL ELSE c.active_response_id END,
            latest_completed_response_id = CASE
                WHEN c.latest_completed_response_id = ANY ($1) THEN NULL ELSE c.latest_completed_response_id END,
            head_turn_id = CASE
                WHEN c.name IS NULL THEN c.head_turn_id
                WHEN c.head_turn_id = ANY ($1) OR c.latest_completed_response_id = ANY ($1) THEN NULL
                ELSE c.head_turn_id END
        WHERE c.id = ANY ($2)
          AND (c.active_response_id = ANY ($1)
              OR c.latest_completed_response_id = ANY ($1)
              OR c.head_turn_id = ANY ($1))";
    let statement = transaction.prepare_cached(SQL).await?;
    transaction
        .execute(&statement, &[&ids, &conversations])
        .await?;
    Ok(())
}

/// Deletes those of the turns that have no response and that nothing continues from, and those before them that were
/// only kept for them; answers how many went.
pub async fn turns_delete(
    connection: &Object,
    tenant: &str,
    turns: Vec<Uuid>,
) -> Result<usize, Error> {
    let mut count = 0;
    let mut unused = turns;
    for _ in 0..ANCESTORS {
        if unused.is_empty() {
            break;
        }
        let gone = match turns_delete_once(connection, tenant, &unused).await {
            Err(Error::Query(error)) if is_still_needed(&error) => {
                let mut gone = Vec::new();
                for turn in unused {
                    match turns_delete_once(connection, tenant, &[turn]).await {
                        Err(Error::Query(error)) if is_still_needed(&error) => {}
                        alone => gone.extend(alone?),
                    }
                }
                gone
            }
            gone => gone?,
        };
        count += gone.len();
        unused = gone.into_iter().flatten().collect();
    }
    Ok(count)
}

/// Answers with the parent, if it had one, of each turn that was deleted.
///
/// A run that begins to continue from one at this very moment keeps it, by the reference from its row.
async fn turns_delete_once(
    connection: &Object,
    tenant: &str,
    turns: &[Uuid],
) -> Result<Vec<Option<Uuid>>, Error> {
    const SQL: &str = "
        -- turns_delete
        DELETE FROM turn t
        WHERE t.id = ANY ($1)
          AND t.tenant = $2
          AND NOT EXISTS (SELECT 1 FROM turn child WHERE child.parent_id = t.id)
          AND NOT EXISTS (SELECT 1 FROM response r WHERE r.parent_turn_id = t.id)
          AND NOT EXISTS (SELECT 1 FROM response r WHERE r.id = t.id)
          AND NOT EXISTS (SELECT 1 FROM conversation c WHERE c.head_turn_id = t.id)
        RETURNING t.parent_id";
    let rows = query(connection, SQL, &[&turns, &tenant]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn is_still_needed(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
}
