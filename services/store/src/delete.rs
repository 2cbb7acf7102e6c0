//! Forgetting a response.

use deadpool_postgres::Object;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::database::{Database, Error, query, within_deadline};

/// Ancestors that one delete clears away behind itself at most; what is left goes with a later one.
const ANCESTORS: usize = 1000;

/// Removes the response, its log, its request and its final object; clears what points at it. Its turn goes too unless
/// another continues from it, and so do turns before it that were only kept for it. Answers whether there was one.
///
/// An active run that still writes finds its row gone, and itself lost.
pub async fn response_delete(database: &Database, tenant: &str, id: Uuid) -> Result<bool, Error> {
    within_deadline(async {
        let mut connection = database.connection().await?;
        if !row_delete(&mut connection, tenant, id).await? {
            return Ok(false);
        }
        let mut turn = Some(id);
        for _ in 0..ANCESTORS {
            let Some(unused) = turn else { break };
            turn = turn_delete(&connection, tenant, unused).await?;
        }
        Ok(true)
    })
    .await
}

/// Deletes the row, and then, in a statement of its own, what was written under it: a writer that held the row until now
/// is seen by the second statement, not by the first.
async fn row_delete(connection: &mut Object, tenant: &str, id: Uuid) -> Result<bool, Error> {
    const ROW: &str = "
        -- response_delete
        DELETE FROM response
        WHERE id = $1 AND tenant = $2
        RETURNING conversation_id";
    const REST: &str = "
        -- response_delete_rest
        WITH events_gone AS (
            DELETE FROM event_chunk
            WHERE response_id = $1
        ), request_gone AS (
            DELETE FROM run_request
            WHERE response_id = $1
        ), final_gone AS (
            DELETE FROM response_final
            WHERE response_id = $1
        )
        UPDATE conversation
        SET active_response_id = nullif(active_response_id, $1),
            latest_completed_response_id = nullif(latest_completed_response_id, $1),
            head_turn_id = nullif(head_turn_id, $1)
        WHERE id = $2";
    let transaction = connection.transaction().await?;
    let row = transaction.prepare_cached(ROW).await?;
    let Some(row) = transaction.query_opt(&row, &[&id, &tenant]).await? else {
        return Ok(false);
    };
    let conversation: Option<Uuid> = row.get(0);
    let rest = transaction.prepare_cached(REST).await?;
    transaction.execute(&rest, &[&id, &conversation]).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Deletes a turn without a response if nothing continues from it; answers with the turn before it if it was deleted.
///
/// A run that begins to continue from it at this very moment keeps it, by the reference from its row.
async fn turn_delete(connection: &Object, tenant: &str, id: Uuid) -> Result<Option<Uuid>, Error> {
    const SQL: &str = "
        -- turn_delete
        DELETE FROM turn t
        WHERE t.id = $1
          AND t.tenant = $2
          AND NOT EXISTS (SELECT 1 FROM turn child WHERE child.parent_id = t.id)
          AND NOT EXISTS (SELECT 1 FROM response r WHERE r.parent_turn_id = t.id)
          AND NOT EXISTS (SELECT 1 FROM response r WHERE r.id = t.id)
        RETURNING t.parent_id";
    match query(connection, SQL, &[&id, &tenant]).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.get(0))),
        Err(Error::Query(error)) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
