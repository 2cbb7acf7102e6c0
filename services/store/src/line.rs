//! A conversation's line: interrupting what is active, and beginning what is next.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use talaria_proto::v1::Wait;
use uuid::Uuid;

use crate::admit::Admit;
use crate::database::{Database, Error, query, query_in_tx};
use crate::orphans::Claimed;

/// Asks the active responses of the conversations that these runs interrupt to stop. Answers which runs come too late:
/// another response became active meanwhile, so the conversation has to be read again.
///
/// The conversations stay locked, so until the runs stand in line nobody's turn comes. Active responses are locked
/// first, as by everyone who ends one.
pub async fn interrupts_in_tx(
    transaction: &Transaction<'_>,
    runs: &[&Admit],
) -> Result<HashSet<Uuid>, Error> {
    // A run that is there already repeats its admission: what is active since then is not meant.
    const ASK: &str = "
        -- interrupts_ask
        UPDATE response r
        SET cancel_requested = true
        FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS run (id, tenant, conversation_id)
        JOIN conversation c ON c.id = run.conversation_id AND c.tenant = run.tenant
        WHERE r.id = c.active_response_id
          AND r.status IN (1, 2)
          AND (SELECT own.id FROM response own WHERE own.id = run.id) IS NULL
        RETURNING r.id";
    const LOCK: &str = "
        -- interrupts_lock
        SELECT id, active_response_id
        FROM conversation
        WHERE id = ANY ($1)
        ORDER BY id
        FOR UPDATE";
    let interrupting: Vec<(&Admit, Uuid)> = runs
        .iter()
        .filter(|run| run.wait() == Wait::Interrupting)
        .filter_map(|run| Some((*run, run.conversation.as_ref()?.id)))
        .collect();
    if interrupting.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = interrupting.iter().map(|(run, _)| run.id()).collect();
    let tenants: Vec<&str> = interrupting
        .iter()
        .map(|(run, _)| run.tenant.as_str())
        .collect();
    let conversations: Vec<Uuid> = interrupting.iter().map(|(_, id)| *id).collect();
    let asked = query_in_tx(transaction, ASK, &[&ids, &tenants, &conversations]).await?;
    let asked: HashSet<Uuid> = asked.iter().map(|row| row.get(0)).collect();
    let locked = query_in_tx(transaction, LOCK, &[&conversations]).await?;
    let active: HashMap<Uuid, Uuid> = locked
        .iter()
        .filter_map(|row| Some((row.get(0), row.get::<_, Option<Uuid>>(1)?)))
        .collect();
    let in_time = |run: &Admit, conversation: &Uuid| match active.get(conversation) {
        Some(active) => asked.contains(active) || *active == run.id(),
        None => true,
    };
    let too_late = interrupting
        .iter()
        .filter(|(run, conversation)| !in_time(run, conversation));
    Ok(too_late.map(|(run, _)| run.id()).collect())
}

/// Gives up to `limit` runs to `owner` that are the first in the line of a conversation without an active response.
/// Each becomes its conversation's active one, and continues from where the conversation stands. A run whose
/// conversation is gone begins without one.
pub async fn runs_begin(
    database: &Database,
    owner: Uuid,
    limit: i64,
) -> Result<Vec<Claimed>, Error> {
    database
        .trip(async {
            let free = lines_free(database, limit).await?;
            if free.is_empty() {
                return Ok(Vec::new());
            }
            let mut connection = database.connection().await?;
            let transaction = connection.transaction().await?;
            let begun = runs_begin_in_tx(&transaction, owner, &free).await?;
            transaction.commit().await?;
            Ok(begun)
        })
        .await
}

/// Conversations in which runs wait and no response is active: tenants take turns; of each, whose first has waited
/// longest comes first.
async fn lines_free(database: &Database, limit: i64) -> Result<Vec<Uuid>, Error> {
    // One step through the index for each line, however long it is.
    const SQL: &str = "
        -- lines_free
        WITH RECURSIVE line AS (
            (SELECT conversation_id
             FROM response
             WHERE status = 0
             ORDER BY conversation_id
             LIMIT 1)
            UNION ALL
            SELECT (SELECT w.conversation_id
                    FROM response w
                    WHERE w.status = 0 AND w.conversation_id > line.conversation_id
                    ORDER BY w.conversation_id
                    LIMIT 1)
            FROM line
            WHERE line.conversation_id IS NOT NULL
        ), first AS (
            SELECT line.conversation_id, w.tenant, w.place_in_line
            FROM line
            CROSS JOIN LATERAL (
                SELECT w.tenant, w.place_in_line
                FROM response w
                WHERE w.status = 0 AND w.conversation_id = line.conversation_id
                ORDER BY w.place_in_line
                LIMIT 1
            ) AS w
            WHERE line.conversation_id IS NOT NULL
              AND (SELECT c.active_response_id FROM conversation c WHERE c.id = line.conversation_id) IS NULL
        )
        SELECT conversation_id
        FROM first
        ORDER BY row_number() OVER (PARTITION BY tenant ORDER BY place_in_line), place_in_line
        LIMIT $1";
    let connection = database.connection().await?;
    let rows = query(&connection, SQL, &[&limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Locks the conversations before it looks for who is first: whoever interrupts holds the lock until it stands in line.
async fn runs_begin_in_tx(
    transaction: &Transaction<'_>,
    owner: Uuid,
    conversations: &[Uuid],
) -> Result<Vec<Claimed>, Error> {
    const LOCK: &str = "
        -- lines_lock
        SELECT id
        FROM conversation
        WHERE id = ANY ($1)
        ORDER BY id
        FOR UPDATE SKIP LOCKED";
    // The first in line is taken or nobody is: a row that somebody holds is not stepped over.
    const BEGIN: &str = "
        -- runs_begin
        WITH first AS (
            SELECT line.conversation_id,
                   (SELECT w.id
                    FROM response w
                    WHERE w.conversation_id = line.conversation_id AND w.status = 0 AND NOT w.cancel_requested
                    ORDER BY w.place_in_line
                    LIMIT 1) AS id
            FROM unnest($2::uuid[]) AS line (conversation_id)
        ), next AS (
            SELECT r.id, c.id AS conversation_id, c.head_turn_id
            FROM first
            JOIN response r ON r.id = first.id
            LEFT JOIN conversation c ON c.id = first.conversation_id
            WHERE CASE
                  WHEN c.id IS NULL THEN true
                  ELSE c.id = ANY ($3) AND c.active_response_id IS NULL
              END
            FOR UPDATE OF r SKIP LOCKED
        ), begun AS (
            UPDATE response r
            SET status = 1,
                owner = $1,
                epoch = r.epoch + 1,
                conversation_id = next.conversation_id,
                parent_turn_id = next.head_turn_id,
                updated_at = now()
            FROM next
            WHERE r.id = next.id AND r.status = 0
            RETURNING r.id, r.tenant, r.epoch, r.attempt, r.parent_turn_id, r.conversation_id
        ), conversation_taken AS (
            UPDATE conversation c
            SET active_response_id = begun.id
            FROM begun
            WHERE c.id = begun.conversation_id
        )
        SELECT b.id, b.tenant, b.epoch, b.attempt, b.parent_turn_id, b.conversation_id, false, q.body
        FROM begun b
        JOIN run_request q ON q.response_id = b.id
        ORDER BY b.id";
    let locked = query_in_tx(transaction, LOCK, &[&conversations]).await?;
    let locked: Vec<Uuid> = locked.iter().map(|row| row.get(0)).collect();
    let rows = query_in_tx(transaction, BEGIN, &[&owner, &conversations, &locked]).await?;
    Ok(rows.iter().map(|row| Claimed::of(row, true)).collect())
}
