//! `runs_admit`: a new run, whole or not at all.

use std::collections::HashSet;

use prost::Message as _;
use talaria_proto::v1::{RunRequest, Wait};
use talaria_runtime::failpoint;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::append::{Append, outcomes};
use crate::approval::{
    Answer, approval_answers_delete_in_tx, approval_answers_insert_in_tx, approvals_answered,
};
use crate::codec;
use crate::database::{Database, Error, Object, query, query_in_tx};
use crate::keys::{
    Key, KeyHolder, idempotency_key_holders, idempotency_keys_delete_in_tx,
    idempotency_keys_insert_in_tx,
};
use crate::lane::{Job, Outcome};
use crate::line::interrupts_in_tx;

/// The epoch under which the first owner writes.
pub const FIRST_EPOCH: i32 = 1;

/// The status of a run that waits in its conversation's line.
const WAITING: i16 = 0;

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
    /// Where it is not the response's own.
    pub session: Option<String>,
    pub model: String,
    pub key: Option<Key>,
    /// Questions that it answers.
    pub answers: Vec<Answer>,
}

/// The conversation that a run belongs to.
#[derive(Debug)]
pub struct Conversation {
    pub id: Uuid,
    /// Set where the conversation is to be made.
    pub name: Option<String>,
    /// Whether the run becomes the conversation's active one, or waits in its line.
    pub wait: Wait,
}

/// What became of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is durable, by this call or an earlier one that it repeats.
    Stored,
    /// The conversation is not as it was, or the holder of the key went away at this moment: nothing was stored.
    Changed,
    /// Nothing was stored: the key stands for this response to the same request.
    Duplicate(Uuid),
    /// Nothing was stored: the key stands for another request.
    KeyConflict,
    /// Nothing was stored: a question that it answers has been answered already.
    AnsweredBefore,
}

impl Admit {
    /// Whether it takes more than one statement: it has a key, interrupts, or answers questions.
    pub fn takes_transaction(&self) -> bool {
        self.key.is_some() || self.wait() == Wait::Interrupting || !self.answers.is_empty()
    }

    pub fn wait(&self) -> Wait {
        self.conversation
            .as_ref()
            .map_or(Wait::Not, |conversation| conversation.wait)
    }

    pub fn id(&self) -> Uuid {
        self.events.response
    }
}

impl Job for Admit {
    type Outcome = Admission;

    fn size_bytes(&self) -> usize {
        self.request.encoded_len() + self.events.size_bytes()
    }

    async fn run(database: &Database, batch: &[Self]) -> Result<Vec<Admission>, Error> {
        let mut connection = database.connection().await?;
        let rows = if batch.iter().any(Self::takes_transaction) {
            runs_admit_with_keys(&mut connection, batch).await?
        } else {
            let runs: Vec<&Self> = batch.iter().collect();
            let columns = Columns::of(&runs);
            if batch.iter().all(|run| run.conversation.is_none()) {
                query(&connection, RUNS_ADMIT_ALONE, &columns.params_alone()).await?
            } else {
                query(&connection, RUNS_ADMIT, &columns.params()).await?
            }
        };
        if failpoint::hit("admit.after_commit_before_reply").await {
            return Err(Error::Deadline.after_commit());
        }
        admissions(&connection, &rows, batch)
            .await
            .map_err(Error::after_commit)
    }
}

/// Inserts each run: the response, its request and its first events.
///
/// A run that belongs to a conversation is inserted only if it wins the conversation's active pointer: the conversation
/// has no active response, still continues from the turn that the run continues from, and nobody waits in its line. A
/// run that is to wait takes its place in the line instead, before all others if it interrupts.
///
/// A run that is there already repeats its admission and touches nothing: it may have ended meanwhile, and would hold its
/// conversation for ever.
const RUNS_ADMIT: &str = "
    -- runs_admit
    WITH run AS (
        SELECT *
        FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::smallint[], $5::bytea[], $6::bigint[], $7::bytea[],
                    $8::uuid[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::smallint[])
            AS t (id, tenant, owner, status, request, last_seq, chunk, parent_turn_id, conversation_id,
                  conversation_name, session_id, model, wait)
        WHERE (SELECT own.id FROM response own WHERE own.id = t.id) IS NULL
    ), conversation_made AS (
        INSERT INTO conversation (id, tenant, name, active_response_id)
        SELECT conversation_id, tenant, conversation_name, CASE WHEN wait = 0 THEN id END
        FROM run
        WHERE conversation_name IS NOT NULL
        ON CONFLICT DO NOTHING
        RETURNING id, active_response_id AS run_id
    ), conversation_taken AS (
        UPDATE conversation c
        SET active_response_id = run.id
        FROM run
        WHERE run.conversation_name IS NULL
          AND run.wait = 0
          AND c.id = run.conversation_id
          AND c.tenant = run.tenant
          AND c.active_response_id IS NULL
          AND c.head_turn_id IS NOT DISTINCT FROM run.parent_turn_id
          AND (SELECT w.id FROM response w WHERE w.conversation_id = c.id AND w.status = 0 LIMIT 1) IS NULL
        RETURNING c.id, c.active_response_id AS run_id
    ), admitted AS (
        SELECT *
        FROM run
        WHERE conversation_id IS NULL
           OR EXISTS (SELECT 1 FROM conversation_made m WHERE m.run_id = run.id)
           OR EXISTS (SELECT 1 FROM conversation_taken t WHERE t.run_id = run.id)
           OR wait > 0
              AND (EXISTS (SELECT 1 FROM conversation_made m WHERE m.id = run.conversation_id)
                   OR (SELECT c.tenant FROM conversation c WHERE c.id = run.conversation_id) = run.tenant)
    ), response_made AS (
        INSERT INTO response (id, tenant, status, epoch, next_seq, owner, conversation_id, parent_turn_id, session_id,
                              model, updated_at, place_in_line)
        SELECT id, tenant, status, 1, last_seq + 1, owner, conversation_id, parent_turn_id, session_id,
               model, now(),
               CASE wait
                   WHEN 1 THEN nextval('response_line')
                   WHEN 2 THEN nextval('response_line') - (1::bigint << 62)
               END
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

/// The same for runs of no conversation, for which the database takes 0.14 instead of 0.18 ms (one run, planned and executed);
/// a client waits for each. What is inserted must stay the same in both.
const RUNS_ADMIT_ALONE: &str = "
    -- runs_admit_alone
    WITH run AS (
        SELECT *
        FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::smallint[], $5::bytea[], $6::bigint[], $7::bytea[],
                    $8::uuid[], $9::text[], $10::text[])
            AS t (id, tenant, owner, status, request, last_seq, chunk, parent_turn_id, session_id, model)
    ), response_made AS (
        INSERT INTO response (id, tenant, status, epoch, next_seq, owner, parent_turn_id, session_id, model, updated_at)
        SELECT id, tenant, status, 1, last_seq + 1, owner, parent_turn_id, session_id, model, now()
        FROM run
        ON CONFLICT DO NOTHING
        RETURNING id
    ), request_made AS (
        INSERT INTO run_request (response_id, body)
        SELECT id, request
        FROM run
        JOIN response_made USING (id)
    )
    INSERT INTO event_chunk (response_id, first_seq, last_seq, epoch, body)
    SELECT id, 0, last_seq, 1, chunk
    FROM run
    JOIN response_made USING (id)
    RETURNING response_id, epoch, last_seq";

/// What `RUNS_ADMIT` takes.
struct Columns<'a> {
    ids: Vec<Uuid>,
    tenants: Vec<&'a str>,
    owners: Vec<Option<Uuid>>,
    statuses: Vec<i16>,
    requests: Vec<Vec<u8>>,
    lasts: Vec<i64>,
    chunks: Vec<Vec<u8>>,
    parents: Vec<Option<Uuid>>,
    conversations: Vec<Option<Uuid>>,
    names: Vec<Option<&'a str>>,
    sessions: Vec<Option<&'a str>>,
    models: Vec<&'a str>,
    waits: Vec<i16>,
}

impl<'a> Columns<'a> {
    fn of(runs: &[&'a Admit]) -> Self {
        fn column<'a, T>(runs: &[&'a Admit], value: impl Fn(&'a Admit) -> T) -> Vec<T> {
            runs.iter().map(|run| value(run)).collect()
        }
        // A run that waits is nobody's, and what it continues from is known when its turn comes.
        let begins = |run: &Admit| run.wait() == Wait::Not;
        Self {
            ids: column(runs, Admit::id),
            tenants: column(runs, |run| run.tenant.as_str()),
            owners: column(runs, |run| begins(run).then_some(run.owner)),
            statuses: column(runs, |run| if begins(run) { run.status } else { WAITING }),
            requests: column(runs, |run| codec::pack(&run.request.encode_to_vec())),
            lasts: column(runs, |run| run.events.last_seq()),
            chunks: column(runs, |run| codec::pack(run.events.events.encoded())),
            parents: column(runs, |run| run.parent_turn.filter(|_| begins(run))),
            conversations: column(runs, |run| run.conversation.as_ref().map(|c| c.id)),
            names: column(runs, |run| run.conversation.as_ref()?.name.as_deref()),
            sessions: column(runs, |run| run.session.as_deref()),
            models: column(runs, |run| run.model.as_str()),
            waits: column(runs, |run| match run.wait() {
                Wait::Not => 0,
                Wait::InLine => 1,
                Wait::Interrupting => 2,
            }),
        }
    }

    /// What `RUNS_ADMIT_ALONE` takes.
    fn params_alone(&self) -> [&(dyn ToSql + Sync); 10] {
        [
            &self.ids,
            &self.tenants,
            &self.owners,
            &self.statuses,
            &self.requests,
            &self.lasts,
            &self.chunks,
            &self.parents,
            &self.sessions,
            &self.models,
        ]
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.ids,
            &self.tenants,
            &self.owners,
            &self.statuses,
            &self.requests,
            &self.lasts,
            &self.chunks,
            &self.parents,
            &self.conversations,
            &self.names,
            &self.sessions,
            &self.models,
            &self.waits,
        ]
    }
}

/// Admits runs some of which have keys, answer questions or interrupt, in one transaction: first the keys and answers,
/// then the runs that have theirs or need none. A refused run leaves neither behind.
///
/// Rows are locked in one order by all that write: keys, responses, conversations.
async fn runs_admit_with_keys(connection: &mut Object, batch: &[Admit]) -> Result<Vec<Row>, Error> {
    let transaction = connection.transaction().await?;
    let with_key = idempotency_keys_insert_in_tx(&transaction, batch).await?;
    let mut runs: Vec<&Admit> = batch
        .iter()
        .filter(|run| run.key.is_none() || with_key.contains(&run.id()))
        .collect();
    let answered = approval_answers_insert_in_tx(&transaction, &runs).await?;
    runs.retain(|run| !answered.before.contains(&run.id()));
    let too_late = interrupts_in_tx(&transaction, &runs).await?;
    runs.retain(|run| !too_late.contains(&run.id()));
    let rows = query_in_tx(&transaction, RUNS_ADMIT, &Columns::of(&runs).params()).await?;
    let stored: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let refused: Vec<Uuid> = with_key.difference(&stored).copied().collect();
    idempotency_keys_delete_in_tx(&transaction, &refused).await?;
    let refused: Vec<Uuid> = answered.now.difference(&stored).copied().collect();
    approval_answers_delete_in_tx(&transaction, &refused).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// What became of each run, given what the statement stored.
async fn admissions(
    connection: &Object,
    stored: &[Row],
    batch: &[Admit],
) -> Result<Vec<Admission>, Error> {
    let outcomes = outcomes(connection, stored, batch.iter().map(|run| &run.events)).await?;
    let refused: Vec<&Admit> = batch
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::Refused)
        .map(|(run, _)| run)
        .collect();
    let holders = idempotency_key_holders(connection, &refused).await?;
    let answered = approvals_answered(connection, &refused).await?;
    let admission = |(run, outcome): (&Admit, Outcome)| match outcome {
        Outcome::Stored => Admission::Stored,
        Outcome::Refused => match refusal(run, holders.get(&run.id())) {
            Admission::Changed if answered.contains(&run.id()) => Admission::AnsweredBefore,
            refusal => refusal,
        },
    };
    Ok(batch.iter().zip(outcomes).map(admission).collect())
}

/// Why a run was refused, given who holds its key.
fn refusal(run: &Admit, holder: Option<&KeyHolder>) -> Admission {
    let (Some(key), Some(holder)) = (&run.key, holder) else {
        return Admission::Changed;
    };
    if holder.request_hash != key.request_hash {
        Admission::KeyConflict
    } else if holder.response == run.id() {
        Admission::Changed
    } else {
        Admission::Duplicate(holder.response)
    }
}
