//! Responses that are too old, and those beyond the cap.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::database::{Database, Error, Object, query_in_tx, read};
use crate::delete::{responses_delete_rest_in_tx, turns_delete};

/// Responses that one transaction removes at most.
const BATCH: i64 = 200;

/// Removes responses that ended more than `age` ago, at most one batch; answers how many went.
///
/// Nothing is indexed by the time of the end, since every append would have to move such an entry. But what ended that
/// long ago was made before that, and ids are in the order in which responses were made.
pub async fn responses_expire(database: &Database, age: Duration) -> Result<usize, Error> {
    // No index is looked into for a time that passes while it is looked into, as `clock_timestamp()`.
    const SQL: &str = "
        -- responses_expire
        WITH old AS (
            SELECT id
            FROM response
            WHERE id < uuid_v7_floor(now() - $1 * interval '1 second')
              AND status >= 3
              AND (updated_at IS NULL OR updated_at < now() - $1 * interval '1 second')
            ORDER BY id
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM response
        WHERE id = ANY (ARRAY(SELECT id FROM old))
        RETURNING id, tenant, conversation_id";
    let age_s = age.as_secs_f64();
    database
        .trip(async {
            let mut connection = database.connection().await?;
            let transaction = connection.transaction().await?;
            let gone = query_in_tx(&transaction, SQL, &[&age_s, &BATCH]).await?;
            let gone = delete_rest(transaction, &gone).await?;
            delete_turns(&connection, gone).await
        })
        .await
}

/// Removes of each tenant the responses beyond the `max` that ended or were read last, at most a batch of each; answers
/// how many went.
///
/// Only what has ended counts, and only that goes. One replica at a time decides: two that counted the same surplus
/// would remove it twice.
pub async fn responses_evict(database: &Database, max: u64) -> Result<usize, Error> {
    let mut count = 0;
    for tenant in tenants_list(database).await? {
        count += responses_evict_of(database, &tenant, max).await?;
    }
    Ok(count)
}

async fn responses_evict_of(database: &Database, tenant: &str, max: u64) -> Result<usize, Error> {
    const LOCK: &str = "
        -- eviction_lock
        SELECT pg_try_advisory_xact_lock(hashtext('talaria eviction'))";
    // The last write of an imported response was the import, which is no use of it. Responses of the first version do not
    // say when they ended: the time in the id comes before that.
    const SQL: &str = "
        -- responses_evict
        WITH kept AS (
            SELECT id,
                   coalesce(
                       CASE WHEN id < '00010000-0000-0000-0000-000000000000' THEN used_at END,
                       greatest(updated_at, used_at),
                       to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
                   ) AS used_at
            FROM response
            WHERE tenant = $1 AND status >= 3
        ), surplus AS (
            SELECT id, used_at
            FROM kept
            ORDER BY used_at DESC, id DESC
            OFFSET $2
        ), oldest AS (
            SELECT id
            FROM surplus
            ORDER BY used_at, id
            LIMIT $3
        )
        DELETE FROM response
        WHERE id = ANY (ARRAY(SELECT id FROM oldest))
        RETURNING id, tenant, conversation_id";
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    database
        .trip(async {
            let mut connection = database.connection().await?;
            let transaction = connection.transaction().await?;
            let locked = query_in_tx(&transaction, LOCK, &[]).await?;
            if !locked.iter().any(|row| row.get(0)) {
                return Ok(0);
            }
            let gone = query_in_tx(&transaction, SQL, &[&tenant, &max, &BATCH]).await?;
            let gone = delete_rest(transaction, &gone).await?;
            delete_turns(&connection, gone).await
        })
        .await
}

/// Every tenant that has responses: one step through the index for each, however many responses it has.
async fn tenants_list(database: &Database) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        -- tenants_list
        WITH RECURSIVE tenant AS (
            (SELECT r.tenant AS name FROM response r ORDER BY r.tenant LIMIT 1)
            UNION ALL
            SELECT (SELECT r.tenant FROM response r WHERE r.tenant > tenant.name ORDER BY r.tenant LIMIT 1)
            FROM tenant
            WHERE tenant.name IS NOT NULL
        )
        SELECT name
        FROM tenant
        WHERE name IS NOT NULL";
    let rows = read(database, SQL, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A response whose row is gone, and whose turn may go too.
struct Gone {
    id: Uuid,
    tenant: String,
}

/// Removes what belonged to the deleted rows, and commits.
async fn delete_rest(transaction: Transaction<'_>, rows: &[Row]) -> Result<Vec<Gone>, Error> {
    let gone: Vec<Gone> = rows
        .iter()
        .map(|row| Gone {
            id: row.get(0),
            tenant: row.get(1),
        })
        .collect();
    if !gone.is_empty() {
        let ids: Vec<Uuid> = gone.iter().map(|gone| gone.id).collect();
        let mut conversations: Vec<Uuid> = rows.iter().filter_map(|row| row.get(2)).collect();
        conversations.sort_unstable();
        conversations.dedup();
        responses_delete_rest_in_tx(&transaction, &ids, &conversations).await?;
    }
    transaction.commit().await?;
    Ok(gone)
}

async fn delete_turns(connection: &Object, mut gone: Vec<Gone>) -> Result<usize, Error> {
    let count = gone.len();
    gone.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    for of_tenant in gone.chunk_by(|a, b| a.tenant == b.tenant) {
        let turns = of_tenant.iter().map(|gone| gone.id).collect();
        turns_delete(connection, &of_tenant[0].tenant, turns).await?;
    }
    Ok(count)
}
