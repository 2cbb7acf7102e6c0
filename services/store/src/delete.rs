//! Forgetting a response.

use uuid::Uuid;

use crate::database::{Database, Error, query, within_deadline};

/// Removes the response, its log, its request and its final object; clears what points at it. Its turn goes too unless
/// another continues from it. Answers whether there was one.
///
/// An active run that still writes finds its row gone, and itself lost.
pub async fn response_delete(database: &Database, tenant: &str, id: Uuid) -> Result<bool, Error> {
    const SQL: &str = "
        -- response_delete
        WITH gone AS (
            DELETE FROM response
            WHERE id = $1 AND tenant = $2
            RETURNING id, conversation_id
        ), events_gone AS (
            DELETE FROM event_chunk e
            USING gone
            WHERE e.response_id = $1 AND gone.id = $1
        ), request_gone AS (
            DELETE FROM run_request q
            USING gone
            WHERE q.response_id = gone.id
        ), final_gone AS (
            DELETE FROM response_final f
            USING gone
            WHERE f.response_id = gone.id
        ), turn_gone AS (
            DELETE FROM turn t
            USING gone
            WHERE t.id = gone.id
              AND NOT EXISTS (SELECT 1 FROM turn child WHERE child.parent_id = t.id)
              AND NOT EXISTS (SELECT 1 FROM response r WHERE r.parent_turn_id = t.id AND r.status IN (1, 2))
        ), conversation_cleared AS (
            UPDATE conversation c
            SET active_response_id = nullif(c.active_response_id, gone.id),
                latest_completed_response_id = nullif(c.latest_completed_response_id, gone.id),
                head_turn_id = nullif(c.head_turn_id, gone.id)
            FROM gone
            WHERE c.id = gone.conversation_id
        )
        SELECT id
        FROM gone";
    within_deadline(async {
        let connection = database.connection().await?;
        Ok(!query(&connection, SQL, &[&id, &tenant]).await?.is_empty())
    })
    .await
}
