//! The event log's days: made ahead, and dropped whole when nobody needs the exact replay any more.

use std::time::Duration;

use crate::database::{Database, Error, query, query_in_tx};

const DAYS_AHEAD: i32 = 7;
/// How long looking through the responses of a day may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(70);

/// Makes the partitions from yesterday to a week ahead that are not there. An advisory lock puts replicas in line.
pub async fn event_partitions_create(database: &Database) -> Result<(), Error> {
    const SQL: &str = "
        -- event_partitions_create
        SELECT event_chunk_partitions_create($1)";
    database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&DAYS_AHEAD]).await?;
            Ok(())
        })
        .await
}

/// Drops the days of the event log that hold nothing younger than `age`; answers which went.
///
/// A day stays while a response of it has not ended, or ended less than `age` ago. What has ended stays so, so this is
/// still true when the day is dropped. One that cannot be dropped now is tried again next time; the days after it are
/// not kept waiting.
pub async fn event_partitions_drop(
    database: &Database,
    age: Duration,
) -> Result<Vec<String>, Error> {
    let mut dropped = Vec::new();
    let mut failure = None;
    for partition in event_partitions_old(database, age).await? {
        match event_partition_drop_if_over(database, &partition, age).await {
            Ok(is_dropped) => dropped.extend(is_dropped.then_some(partition)),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if dropped.is_empty() => Err(error),
        _ => Ok(dropped),
    }
}

async fn event_partition_drop_if_over(
    database: &Database,
    partition: &str,
    age: Duration,
) -> Result<bool, Error> {
    let is_needed = tokio::time::timeout(LOOK_DEADLINE, is_needed(database, partition, age));
    if is_needed.await.unwrap_or(Err(Error::Deadline))? {
        return Ok(false);
    }
    database
        .trip(event_partition_drop(database, partition))
        .await
}

/// Days that were over `age` ago. Yesterday is never among them: it is made again as long as it may be written to.
async fn event_partitions_old(database: &Database, age: Duration) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        -- event_partitions_old
        SELECT c.relname::text
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'event_chunk'::regclass
          AND c.relname ~ '^event_chunk_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') + 1
              <= least(
                  (clock_timestamp() - $1 * interval '1 second') AT TIME ZONE 'UTC',
                  (clock_timestamp() AT TIME ZONE 'UTC')::date - 1
              )
        ORDER BY c.relname";
    let age_s = age.as_secs_f64();
    database
        .trip(async {
            let connection = database.connection().await?;
            let rows = query(&connection, SQL, &[&age_s]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
        .await
}

/// Whether a response of the partition's day has not ended, or ended less than `age` ago.
async fn is_needed(database: &Database, partition: &str, age: Duration) -> Result<bool, Error> {
    const SQL: &str = "
        -- event_partition_is_needed
        SELECT EXISTS (
            SELECT 1
            FROM response
            WHERE id >= uuid_v7_floor(to_date(right($1, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC')
              AND id < uuid_v7_floor((to_date(right($1, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC')
              AND (status <= 2 OR updated_at > clock_timestamp() - $2 * interval '1 second')
        )";
    let age_s = age.as_secs_f64();
    let mut connection = database.connection().await?;
    let transaction = connection.transaction().await?;
    // It looks at every response of the day, and nobody waits for it.
    transaction
        .batch_execute("SET LOCAL statement_timeout = '60s'")
        .await?;
    let rows = query_in_tx(&transaction, SQL, &[&partition, &age_s]).await?;
    transaction.commit().await?;
    Ok(rows.iter().any(|row| row.get(0)))
}

/// Drops a partition unless another replica is at it; answers whether it did.
///
/// Dropping one takes the whole log for a moment, and whoever comes while it waits for that stands behind it. So it
/// waits briefly.
async fn event_partition_drop(database: &Database, partition: &str) -> Result<bool, Error> {
    const LOCK: &str = "
        -- event_partition_lock
        SELECT pg_try_advisory_xact_lock(hashtext('talaria event_chunk partitions'))";
    let mut connection = database.connection().await?;
    let transaction = connection.transaction().await?;
    let locked = query_in_tx(&transaction, LOCK, &[]).await?;
    if !locked.iter().any(|row| row.get(0)) {
        return Ok(false);
    }
    // The name is of digits and letters only: it was matched.
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = '100ms'; DROP TABLE IF EXISTS {partition}"
        ))
        .await?;
    transaction.commit().await?;
    Ok(true)
}
