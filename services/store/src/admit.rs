//! `runs_admit`: a new run, whole or not at all.

use deadpool_postgres::Object;
use prost::Message as _;
use talaria_proto::v1::RunRequest;
use uuid::Uuid;

use crate::append::{Append, outcomes};
use crate::codec;
use crate::database::{Database, Error, query};
use crate::lane::{Outcome, Write};

/// The epoch under which the first owner writes.
pub const FIRST_EPOCH: i32 = 1;

/// A run to admit.
#[derive(Debug)]
pub struct Admit {
    pub tenant: String,
    pub owner: Uuid,
    pub status: i16,
    pub request: RunRequest,
    pub events: Append,
    pub parent_turn: Option<Uuid>,
    pub conversation: Option<Conversation>,
}

/// The conversation that a run belongs to.
#[derive(Debug)]
pub struct Conversation {
    pub id: Uuid,
    /// Set where the conversation is to be made.
    pub name: Option<String>,
}

impl Write for Admit {
    fn size_bytes(&self) -> usize {
        self.request.encoded_len() + self.events.size_bytes()
    }

    async fn write(database: &Database, batch: &[Self]) -> Result<Vec<Outcome>, Error> {
        let connection = database.connection().await?;
        runs_admit(&connection, batch).await
    }
}

/// Inserts each run: the response, its request and its first events, in one statement.
///
/// A run that belongs to a conversation is inserted only if it wins the conversation's active pointer: the conversation
/// has no active response and still continues from the turn that the run continues from.
async fn runs_admit(connection: &Object, batch: &[Admit]) -> Result<Vec<Outcome>, Error> {
    const SQL: &str = "
        -- runs_admit
        WITH run AS (
            SELECT *
            FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::smallint[], $5::bytea[], $6::bigint[], $7::bytea[],
                        $8::uuid[], $9::uuid[], $10::text[])
                AS t (id, tenant, owner, status, request, last_seq, chunk, parent_turn_id, conversation_id,
                      conversation_name)
        ), conversation_made AS (
            INSERT INTO conversation (id, tenant, name, active_response_id)
            SELECT conversation_id, tenant, conversation_name, id
            FROM run
            WHERE conversation_name IS NOT NULL
            ON CONFLICT DO NOTHING
            RETURNING id, active_response_id AS run_id
        ), conversation_taken AS (
            UPDATE conversation c
            SET active_response_id = run.id
            FROM run
            WHERE run.conversation_name IS NULL
              AND c.id = run.conversation_id
              AND c.tenant = run.tenant
              AND c.active_response_id IS NULL
              AND c.head_turn_id IS NOT DISTINCT FROM run.parent_turn_id
            RETURNING c.id, c.active_response_id AS run_id
        ), admitted AS (
            SELECT *
            FROM run
            WHERE conversation_id IS NULL
               OR EXISTS (SELECT 1 FROM conversation_made m WHERE m.run_id = run.id)
               OR EXISTS (SELECT 1 FROM conversation_taken t WHERE t.run_id = run.id)
        ), response_made AS (
            INSERT INTO response (id, tenant, status, epoch, next_seq, owner, conversation_id, parent_turn_id)
            SELECT id, tenant, status, 1, last_seq + 1, owner, conversation_id, parent_turn_id
            FROM admitted
            ON CONFLICT DO NOTHING
            RETURNING id
        ), request_made AS (
            INSERT INTO run_request (response_id, body)
            SELECT id, request
            FROM admitted
            JOIN response_made USING (id)
        )
        INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
        SELECT id, 0, last_seq, 1, chunk
        FROM admitted
        JOIN response_made USING (id)
        RETURNING response_id, epoch, last_seq";
    let ids: Vec<Uuid> = batch.iter().map(|run| run.events.response).collect();
    let tenants: Vec<&str> = batch.iter().map(|run| run.tenant.as_str()).collect();
    let owners: Vec<Uuid> = batch.iter().map(|run| run.owner).collect();
    let statuses: Vec<i16> = batch.iter().map(|run| run.status).collect();
    let requests: Vec<Vec<u8>> = batch
        .iter()
        .map(|run| codec::pack(&run.request.encode_to_vec()))
        .collect();
    let lasts: Vec<i64> = batch.iter().map(|run| run.events.last_seq()).collect();
    let chunks: Vec<Vec<u8>> = batch
        .iter()
        .map(|run| codec::pack(run.events.events.encoded()))
        .collect();
    let parents: Vec<Option<Uuid>> = batch.iter().map(|run| run.parent_turn).collect();
    let conversations: Vec<Option<Uuid>> = batch
        .iter()
        .map(|run| run.conversation.as_ref().map(|c| c.id))
        .collect();
    let names: Vec<Option<&str>> = batch
        .iter()
        .map(|run| run.conversation.as_ref()?.name.as_deref())
        .collect();
    let rows = query(
        connection,
        SQL,
        &[
            &ids,
            &tenants,
            &owners,
            &statuses,
            &requests,
            &lasts,
            &chunks,
            &parents,
            &conversations,
            &names,
        ],
    )
    .await?;
    outcomes(connection, &rows, batch.iter().map(|run| &run.events)).await
}
