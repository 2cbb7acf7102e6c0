//! `runs_finish`: the one terminal event, and all that must be true with it.

use prost::Message as _;
use talaria_proto::v1::{Response, Turn};
use talaria_runtime::failpoint;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::append::{Append, outcomes};
use crate::codec;
use crate::database::{Database, Error, query};
use crate::lane::{Job, Outcome};

/// The end of a run.
#[derive(Debug)]
pub struct Finish {
    pub append: Append,
    /// The final response, without its output.
    pub response: Response,
    pub turn: Turn,
}

impl Finish {
    pub fn status(&self) -> i16 {
        i16::try_from(self.response.status).unwrap_or_default()
    }

    pub fn packed_events(&self) -> Vec<u8> {
        codec::pack(self.append.events.encoded())
    }

    pub fn packed_response(&self) -> Vec<u8> {
        codec::pack(&self.response.encode_to_vec())
    }

    pub fn packed_turn(&self) -> Vec<u8> {
        codec::pack(&self.turn.encode_to_vec())
    }
}

impl Job for Finish {
    type Outcome = Outcome;

    fn size_bytes(&self) -> usize {
        self.append.size_bytes() + self.response.encoded_len() + self.turn.encoded_len()
    }

    async fn run(database: &Database, batch: &[Self]) -> Result<Vec<Outcome>, Error> {
        runs_finish(database, batch).await
    }
}

/// Writes each run's last events, final response and turn, lets go of its request, and moves its conversation's
/// pointers: in one statement, under the same comparison as every append.
async fn runs_finish(database: &Database, batch: &[Finish]) -> Result<Vec<Outcome>, Error> {
    const SQL: &str = "
        -- runs_finish
        WITH done AS (
            SELECT *
            FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[], $6::smallint[], $7::bytea[],
                        $8::bytea[])
                AS t (response_id, epoch, first_seq, last_seq, chunk, status, final, turn)
        ), own AS (
            UPDATE response r
            SET next_seq = done.last_seq + 1,
                status = done.status,
                owner = NULL,
                updated_at = now()
            FROM done
            WHERE r.id = done.response_id
              AND r.epoch = done.epoch
              AND r.next_seq = done.first_seq
              AND r.status <= 2
            RETURNING done.*, r.tenant, r.conversation_id, r.parent_turn_id, r.session_id
        ), final_made AS (
            INSERT INTO response_final (response_id, body)
            SELECT response_id, final
            FROM own
        ), turn_made AS (
            INSERT INTO turn (id, tenant, parent_id, body, session_id)
            SELECT response_id, tenant, parent_turn_id, turn, CASE WHEN status = 3 THEN session_id END
            FROM own
        ), request_gone AS (
            DELETE FROM run_request q
            USING own
            WHERE q.response_id = own.response_id
        ), conversation_moved AS (
            UPDATE conversation c
            SET active_response_id = NULL,
                latest_completed_response_id =
                    CASE WHEN own.status = 3 THEN own.response_id ELSE c.latest_completed_response_id END,
                head_turn_id = CASE WHEN own.status = 3 THEN own.response_id ELSE c.head_turn_id END
            FROM own
            WHERE c.id = own.conversation_id
              AND c.active_response_id = own.response_id
        )
        INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
        SELECT response_id, first_seq, last_seq, epoch, chunk
        FROM own
        RETURNING response_id, epoch, last_seq";
    let ids: Vec<Uuid> = batch.iter().map(|end| end.append.response).collect();
    let epochs: Vec<i32> = batch.iter().map(|end| end.append.epoch).collect();
    let firsts: Vec<i64> = batch.iter().map(|end| end.append.first_seq).collect();
    let lasts: Vec<i64> = batch.iter().map(|end| end.append.last_seq()).collect();
    let chunks: Vec<Vec<u8>> = batch.iter().map(Finish::packed_events).collect();
    let statuses: Vec<i16> = batch.iter().map(Finish::status).collect();
    let finals: Vec<Vec<u8>> = batch.iter().map(Finish::packed_response).collect();
    let turns: Vec<Vec<u8>> = batch.iter().map(Finish::packed_turn).collect();
    let params: [&(dyn ToSql + Sync); 8] = [
        &ids, &epochs, &firsts, &lasts, &chunks, &statuses, &finals, &turns,
    ];
    write_ends(database, SQL, &params, batch.iter()).await
}

/// Runs a statement that writes ends and returns the chunks that it stored; answers what became of each.
pub async fn write_ends<'a>(
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
    ends: impl Iterator<Item = &'a Finish>,
) -> Result<Vec<Outcome>, Error> {
    if failpoint::hit("finish.before").await {
        return Err(Error::Deadline);
    }
    let connection = database.connection().await?;
    let rows = query(&connection, sql, params).await?;
    if failpoint::hit("finish.after_commit_before_reply").await {
        return Err(Error::Deadline.after_commit());
    }
    outcomes(&connection, &rows, ends.map(|end| &end.append))
        .await
        .map_err(Error::after_commit)
}
