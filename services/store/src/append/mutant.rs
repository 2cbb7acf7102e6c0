//! An append as it must not be: a bug for tests to find.

use crate::database::Object;
use talaria_runtime::failpoint;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::database::{Error, query_in_tx};

/// Looks whether the writer still owns the run, and then writes: between the two, and before the commit, any amount of
/// time may pass.
pub async fn events_append(
    connection: &mut Object,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    const INSERT: &str = "
        WITH chunk AS (
            SELECT *
            FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[])
                AS t (response_id, epoch, first_seq, last_seq, body)
        )
        INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
        SELECT response_id, first_seq, last_seq, epoch, body
        FROM chunk
        WHERE EXISTS (
            SELECT 1
            FROM response r
            WHERE r.id = chunk.response_id AND r.epoch = chunk.epoch AND r.status <= 2
        )
        ON CONFLICT DO NOTHING
        RETURNING response_id, epoch, last_seq";
    const MOVE: &str = "
        UPDATE response r
        SET next_seq = greatest(r.next_seq, t.last_seq + 1)
        FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[])
            AS t (response_id, epoch, first_seq, last_seq, body)
        WHERE r.id = t.response_id AND r.epoch = t.epoch";
    let transaction = connection.transaction().await?;
    let rows = query_in_tx(&transaction, INSERT, params).await?;
    failpoint::hit("append.after_sql_before_commit").await;
    query_in_tx(&transaction, MOVE, params).await?;
    transaction.commit().await?;
    Ok(rows)
}
