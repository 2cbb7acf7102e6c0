//! `runs_store_whole`: runs that ended before they were admitted.

use talaria_proto::v1::AdmitRunRequest;
use tokio_postgres::types::ToSql;
use tonic::Status;
use uuid::Uuid;

use crate::admit::Admit;
use crate::database::{Database, Error};
use crate::finish::{Finish, write_ends};
use crate::lane::{Job, Outcome};
use crate::parse;

/// An admission and an end in one.
#[derive(Debug)]
pub struct Whole {
    admit: Admit,
    finish: Finish,
}

impl Whole {
    /// The run whose admission and end these are. `INVALID_VALUE` where its admission depends on more than itself.
    pub fn new(admission: AdmitRunRequest, finish: Finish) -> Result<Self, Status> {
        let append = &finish.append;
        let admit = parse::admission(AdmitRunRequest {
            events: Some(append.events.clone()),
            event_count: u32::try_from(append.event_count).unwrap_or(u32::MAX),
            ..admission
        })?;
        if admit.conversation.is_some() || admit.takes_transaction() {
            return Err(parse::invalid("admission", "has to come before the end"));
        }
        let all = &admit.events;
        if (all.response, all.epoch, all.first_seq)
            != (append.response, append.epoch, append.first_seq)
        {
            return Err(parse::invalid("append", "is not the whole log"));
        }
        Ok(Self { admit, finish })
    }
}

impl Job for Whole {
    type Outcome = Outcome;

    fn size_bytes(&self) -> usize {
        self.finish.size_bytes()
    }

    async fn run(database: &Database, batch: &[Self]) -> Result<Vec<Outcome>, Error> {
        runs_store_whole(database, batch).await
    }
}

/// Writes each run as it is after `runs_admit` and `runs_finish`, in one statement; its request, which only an active run
/// has, is never written. A run that is there already is not touched.
async fn runs_store_whole(database: &Database, batch: &[Whole]) -> Result<Vec<Outcome>, Error> {
    const SQL: &str = "
        -- runs_store_whole
        WITH run AS (
            SELECT *
            FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::bigint[], $5::bytea[], $6::uuid[], $7::text[],
                        $8::text[], $9::bytea[], $10::bytea[])
                AS t (id, tenant, status, last_seq, chunk, parent_turn_id, session_id, model, final, turn)
        ), response_made AS (
            INSERT INTO response (id, tenant, status, epoch, next_seq, parent_turn_id, session_id, model, updated_at)
            SELECT id, tenant, status, 1, last_seq + 1, parent_turn_id, session_id, model, now()
            FROM run
            ON CONFLICT DO NOTHING
            RETURNING id
        ), own AS (
            SELECT run.*
            FROM run
            JOIN response_made USING (id)
        ), final_made AS (
            INSERT INTO response_final (response_id, body)
            SELECT id, final
            FROM own
        ), turn_made AS (
            INSERT INTO turn (id, tenant, parent_id, body, session_id)
            SELECT id, tenant, parent_turn_id, turn, CASE WHEN status = 3 THEN session_id END
            FROM own
        )
        INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
        SELECT id, 0, last_seq, 1, chunk
        FROM own
        RETURNING response_id, epoch, last_seq";
    let admits = || batch.iter().map(|run| &run.admit);
    let ends = || batch.iter().map(|run| &run.finish);
    let ids: Vec<Uuid> = admits().map(Admit::id).collect();
    let tenants: Vec<&str> = admits().map(|run| run.tenant.as_str()).collect();
    let statuses: Vec<i16> = ends().map(Finish::status).collect();
    let lasts: Vec<i64> = ends().map(|end| end.append.last_seq()).collect();
    let chunks: Vec<Vec<u8>> = ends().map(Finish::packed_events).collect();
    let parents: Vec<Option<Uuid>> = admits().map(|run| run.parent_turn).collect();
    let sessions: Vec<Option<&str>> = admits().map(|run| run.session.as_deref()).collect();
    let models: Vec<&str> = admits().map(|run| run.model.as_str()).collect();
    let finals: Vec<Vec<u8>> = ends().map(Finish::packed_response).collect();
    let turns: Vec<Vec<u8>> = ends().map(Finish::packed_turn).collect();
    let params: [&(dyn ToSql + Sync); 10] = [
        &ids, &tenants, &statuses, &lasts, &chunks, &parents, &sessions, &models, &finals, &turns,
    ];
    write_ends(database, SQL, &params, ends()).await
}
