//! `events_append`: the statement that everything rests on.

#[cfg(feature = "failpoints")]
mod mutant;

use std::collections::HashSet;

use talaria_proto::v1::EventChunk;
use talaria_runtime::failpoint;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, Object, query, query_before};
use crate::lane::{Job, Outcome};

/// Events for the end of one response's log.
#[derive(Debug)]
pub struct Append {
    pub response: Uuid,
    pub epoch: i32,
    /// Where the log has to end.
    pub first_seq: i64,
    pub event_count: i64,
    pub events: EventChunk,
}

impl Append {
    pub fn last_seq(&self) -> i64 {
        self.first_seq + self.event_count - 1
    }
}

impl Job for Append {
    type Outcome = Outcome;

    fn size_bytes(&self) -> usize {
        self.events.encoded().len() + 64
    }

    async fn run(database: &Database, batch: &[Self]) -> Result<Vec<Outcome>, Error> {
        events_append(database, batch).await
    }
}

/// Appends each chunk to its response's log.
///
/// One statement checks that the log ends where the chunk begins, under the writer's epoch, while the response is
/// active, and stores the chunk: no interleaving of writers can lose, repeat or reorder any. What does not fit stores
/// nothing. A chunk that is already there as it is counts as stored, so an append whose answer was lost is repeated.
async fn events_append(database: &Database, batch: &[Append]) -> Result<Vec<Outcome>, Error> {
    const SQL: &str = "
        -- events_append
        WITH chunk AS (
            SELECT *
            FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[])
                AS t (response_id, epoch, first_seq, last_seq, body)
        ), own AS (
            UPDATE response r
            SET next_seq = chunk.last_seq + 1,
                updated_at = now()
            FROM chunk
            WHERE r.id = chunk.response_id
              AND r.epoch = chunk.epoch
              AND r.next_seq = chunk.first_seq
              AND r.status <= 2
            RETURNING chunk.*
        )
        INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
        SELECT response_id, first_seq, last_seq, epoch, body
        FROM own
        RETURNING response_id, epoch, last_seq";
    let ids: Vec<Uuid> = batch.iter().map(|append| append.response).collect();
    let epochs: Vec<i32> = batch.iter().map(|append| append.epoch).collect();
    let firsts: Vec<i64> = batch.iter().map(|append| append.first_seq).collect();
    let lasts: Vec<i64> = batch.iter().map(Append::last_seq).collect();
    let bodies: Vec<Vec<u8>> = batch
        .iter()
        .map(|a| codec::pack(a.events.encoded()))
        .collect();
    let mut connection = database.connection().await?;
    let params: [&(dyn ToSql + Sync); 5] = [&ids, &epochs, &firsts, &lasts, &bodies];
    let rows = append(&mut connection, SQL, &params).await?;
    if failpoint::hit("append.after_commit_before_reply").await {
        return Err(Error::Deadline.after_commit());
    }
    outcomes(&connection, &rows, batch.iter())
        .await
        .map_err(Error::after_commit)
}

async fn append(
    connection: &mut Object,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    #[cfg(feature = "failpoints")]
    if failpoint::has(failpoint::Bug::FenceExists) {
        return mutant::events_append(connection, params).await;
    }
    query_before("append.after_sql_before_commit", connection, sql, params).await
}

/// What became of each append, given the chunks that the statement stored: response, epoch, last number.
///
/// The epoch counts: an owner and the one that it took over from may stand in one batch, for the same numbers.
pub async fn outcomes<'a>(
    connection: &Object,
    stored: &[Row],
    appends: impl Iterator<Item = &'a Append>,
) -> Result<Vec<Outcome>, Error> {
    let stored: HashSet<(Uuid, i32, i64)> = stored
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let mut outcomes = Vec::with_capacity(appends.size_hint().0);
    let (mut places, mut others) = (Vec::new(), Vec::new());
    for (place, append) in appends.enumerate() {
        if stored.contains(&(append.response, append.epoch, append.last_seq())) {
            outcomes.push(Outcome::Stored);
        } else {
            outcomes.push(Outcome::Refused);
            places.push(place);
            others.push(append);
        }
    }
    for found in event_chunks_compare(connection, &others).await? {
        outcomes[places[found]] = Outcome::Stored;
    }
    Ok(outcomes)
}

/// Which of these the log already holds, each this very chunk, written under this very epoch: their indexes.
///
/// What is found may have been committed on this server alone, when its connection or the server itself was killed while
/// it waited for a standby. Locking the rows is a write, so its commit waits for the standby to have all. It is one
/// commit, however many there are, and locks are taken in one order.
async fn event_chunks_compare(
    connection: &Object,
    appends: &[&Append],
) -> Result<Vec<usize>, Error> {
    const SQL: &str = "
        -- event_chunks_compare
        SELECT t.place, c.first_seq, c.body
        FROM unnest($1::uuid[], $2::bigint[], $3::int[])
            WITH ORDINALITY AS t (response_id, last_seq, epoch, place)
        JOIN event_chunk c ON c.response_id = t.response_id AND c.last_seq = t.last_seq AND c.epoch = t.epoch
        JOIN response r ON r.id = t.response_id
        ORDER BY r.id
        FOR NO KEY UPDATE OF r";
    if appends.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = appends.iter().map(|append| append.response).collect();
    let lasts: Vec<i64> = appends.iter().map(|append| append.last_seq()).collect();
    let epochs: Vec<i32> = appends.iter().map(|append| append.epoch).collect();
    let rows = query(connection, SQL, &[&ids, &lasts, &epochs]).await?;
    let index = |row: &Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
    let is_same = |row: &Row, append: &Append| {
        row.get::<_, i64>(1) == append.first_seq
            && codec::unpack(row.get(2)).is_ok_and(|stored| stored == append.events.encoded())
    };
    Ok(rows
        .iter()
        .filter_map(|row| index(row).filter(|index| is_same(row, appends[*index])))
        .collect())
}
