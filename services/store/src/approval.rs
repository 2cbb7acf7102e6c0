//! What people decide about calls: who is asked, who answered, and that the first answer counts.

use std::collections::HashSet;

use deadpool_postgres::Transaction;
use talaria_domain::ids::{ItemPlace, Side};
use talaria_domain::run::{PendingCall, pending_calls};
use talaria_proto::v1::{
    ApprovalAnswer, ApprovalChoice, ApprovalDecision, Approvals, AwaitApprovalsRequest,
    AwaitApprovalsResponse, DecideApprovalRequest, DecideApprovalResponse,
    ListApprovalGrantsRequest, ListApprovalGrantsResponse, RunRequest,
};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use crate::admit::Admit;
use crate::database::{Database, Error, Object, Tries, query, query_in_tx, read};
use crate::parse::{parse_uuid, response_id, response_not_found};
use crate::response::{decode, response_exists, response_fold};

/// Who decides when nobody did.
const EXPIRY: &str = "expiry";

/// An answer in a request to what an earlier response asked.
#[derive(Debug)]
pub struct Answer {
    place: Place,
    choice: i16,
    reason: Option<Vec<u8>>,
    /// Unix seconds.
    expires_at: i64,
}

/// Where a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    response: Uuid,
    index: i32,
}

/// What became of the answers of runs that are to be admitted.
pub struct Answered {
    /// Runs all of whose answers were written.
    pub now: HashSet<Uuid>,
    /// Runs of which a question has been answered by somebody else.
    pub before: HashSet<Uuid>,
}

impl Answer {
    pub fn parse(answer: &ApprovalAnswer) -> Result<Self, Status> {
        let choice = if answer.approve {
            ApprovalChoice::Once
        } else {
            ApprovalChoice::Deny
        };
        Ok(Self {
            place: Place::parse(&answer.request_id)?,
            choice: stored_choice(choice),
            reason: answer
                .reason
                .as_ref()
                .map(|reason| reason.clone().into_bytes()),
            expires_at: answer.expires_at,
        })
    }
}

impl Place {
    fn parse(request_id: &str) -> Result<Self, Status> {
        let place = ItemPlace::parse(request_id).filter(|place| place.side == Side::Output);
        let index = place.and_then(|place| i32::try_from(place.index).ok());
        let (Some(place), Some(index)) = (place, index) else {
            let message = format!("Approval request not found: {request_id}");
            return Err(Reason::ApprovalNotPending.status_at("request_id", message));
        };
        Ok(Self {
            response: place.response,
            index,
        })
    }

    fn request_id(self) -> String {
        let place = ItemPlace {
            response: self.response,
            side: Side::Output,
            index: u32::try_from(self.index).unwrap_or_default(),
        };
        place.id("mcp_approval_request")
    }
}

/// Answers `DecideApproval`: writes the decision down and has the run go on.
pub async fn approval_decide(
    database: &Database,
    request: &DecideApprovalRequest,
) -> Result<DecideApprovalResponse, Status> {
    let not_found = || response_not_found(&request.response_id);
    let id = response_id(&request.response_id)?;
    if !response_exists(database, &request.tenant, id).await? {
        return Err(not_found());
    }
    let snapshot = response_fold(database, id).await?.ok_or_else(not_found)?;
    let asked = pending_calls(&snapshot);
    if snapshot.is_finished() || asked.is_empty() {
        return Err(not_active());
    }
    let Some(mut pending) = calls_undecided(database, id, asked).await? else {
        return Err(not_active());
    };
    match &request.request_id {
        Some(request_id) => pending.retain(|call| call.request_id == *request_id),
        None if request.all => {}
        None => pending.truncate(1),
    }
    let session = match snapshot.base().session_id.as_str() {
        "" => id.to_string(),
        session => session.to_owned(),
    };
    let decision = Decision {
        request,
        id,
        session,
        calls: &pending,
    };
    let mut tries = Tries::default();
    let decided = loop {
        let trip = database.trip(async {
            let mut connection = database.connection().await?;
            decision_write(&mut connection, &decision).await
        });
        match trip.await {
            Err(error) if tries.go_on(&error) => {}
            Ok(nothing) if tries.maybe_stored && nothing.as_ref().is_none_or(Vec::is_empty) => {
                let earlier = decision_read(database, &decision).await?;
                break if earlier.is_empty() {
                    nothing
                } else {
                    Some(earlier)
                };
            }
            outcome => break outcome?,
        }
    };
    match decided {
        None => Err(not_active()),
        Some(decided) if decided.is_empty() => Err(not_pending()),
        Some(request_ids) => Ok(DecideApprovalResponse { request_ids }),
    }
}

/// Those of the calls that its log knows no decision about which nobody has decided about; none for a run that asks
/// nobody while it is active.
pub async fn calls_undecided(
    database: &Database,
    id: Uuid,
    mut calls: Vec<PendingCall>,
) -> Result<Option<Vec<PendingCall>>, Error> {
    const SQL: &str = "
        -- calls_undecided
        SELECT q.body, ARRAY(SELECT a.output_index FROM approval a WHERE a.response_id = q.response_id)
        FROM run_request q
        WHERE q.response_id = $1";
    let rows = read(database, SQL, &[&id]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let request: RunRequest = decode("run_request", id, row.get(0))?;
    if request.approvals() != Approvals::Wait {
        return Ok(None);
    }
    let decided: Vec<i32> = row.get(1);
    calls.retain(|call| {
        Place::parse(&call.request_id).is_ok_and(|place| !decided.contains(&place.index))
    });
    Ok(Some(calls))
}

fn not_active() -> Status {
    Reason::ApprovalNotActive.status("The run does not wait for an approval.")
}

fn not_pending() -> Status {
    Reason::ApprovalNotPending.status("Nothing that is meant waits for an approval any more.")
}

struct Decision<'a> {
    request: &'a DecideApprovalRequest,
    id: Uuid,
    session: String,
    calls: &'a [PendingCall],
}

/// Writes a decision; none where the run has ended, else which questions it decided.
///
/// The response is locked first, as by a run that is about to wait: it sees the decision, or is woken by it.
async fn decision_write(
    connection: &mut Object,
    decision: &Decision<'_>,
) -> Result<Option<Vec<String>>, Error> {
    // Whoever had the run has what the request's MCP servers were given, so it may go on first. A run that does not wait
    // stays as it is.
    const WAKE: &str = "
        -- approval_wake
        UPDATE response r
        SET owner = CASE WHEN r.waits_until IS NULL THEN r.owner ELSE before.owner END,
            waits_until = CASE
                WHEN r.waits_until IS NOT NULL AND before.owner IS NOT NULL THEN now() + interval '2 s'
            END
        FROM (
            SELECT w.id, o.incarnation AS owner
            FROM response w
            LEFT JOIN orchestrator o
                ON o.incarnation = w.last_owner AND o.ended_at IS NULL AND o.lease_until > clock_timestamp()
            WHERE w.id = $1
        ) AS before
        WHERE r.id = before.id AND r.status <= 2
        RETURNING r.id";
    const INSERT: &str = "
        -- approval_insert
        INSERT INTO approval (response_id, output_index, tenant, choice, reason, decided_by, expires_at)
        SELECT $1, t.output_index, $2, $3, $4, $5, to_timestamp(t.expires_at)
        FROM unnest($6::int[], $7::double precision[]) AS t (output_index, expires_at)
        WHERE to_timestamp(t.expires_at) > clock_timestamp()
        ON CONFLICT DO NOTHING
        RETURNING output_index";
    const GRANT: &str = "
        -- approval_grant
        INSERT INTO approval_grant (tenant, agent, session_id, tool, decided_by)
        SELECT $1, $2, $3, tool, $5
        FROM unnest($4::text[]) AS t (tool)
        ON CONFLICT DO NOTHING";
    let Decision {
        request,
        id,
        session,
        calls,
    } = decision;
    let (places, untils) = awaited(
        calls
            .iter()
            .map(|call| (call.request_id.as_str(), call.until)),
    );
    let transaction = connection.transaction().await?;
    if query_in_tx(&transaction, WAKE, &[id]).await?.is_empty() {
        return Ok(None);
    }
    let choice = stored_choice(request.choice());
    let reason = request.reason.as_ref().map(String::as_bytes);
    let rows = query_in_tx(
        &transaction,
        INSERT,
        &[
            id,
            &request.tenant,
            &choice,
            &reason,
            &request.decided_by,
            &places,
            &untils,
        ],
    )
    .await?;
    if rows.is_empty() {
        // Whoever waits goes on waiting.
        return Ok(Some(Vec::new()));
    }
    let decided: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let scope = match request.choice() {
        ApprovalChoice::Session => Some(session.as_str()),
        ApprovalChoice::Always => Some(""),
        ApprovalChoice::Once | ApprovalChoice::Deny | ApprovalChoice::Unspecified => None,
    };
    if let Some(scope) = scope {
        let is_decided = |place: &i32| decided.contains(place);
        let tools: Vec<String> = calls
            .iter()
            .zip(&places)
            .filter(|(_, place)| is_decided(place))
            .map(|(call, _)| format!("{}/{}", call.server_label, call.name))
            .collect();
        let grant: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [
            &request.tenant,
            &request.agent,
            &scope,
            &tools,
            &request.decided_by,
        ];
        query_in_tx(&transaction, GRANT, &grant).await?;
    }
    transaction.commit().await?;
    Ok(Some(request_ids(*id, decided)))
}

/// Which questions have been decided just so, where nobody heard what became of the decision.
async fn decision_read(database: &Database, decision: &Decision<'_>) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        -- decision_read
        SELECT output_index
        FROM approval
        WHERE response_id = $1
          AND output_index = ANY ($2)
          AND choice = $3
          AND reason IS NOT DISTINCT FROM $4
          AND decided_by = $5";
    let Decision {
        request, id, calls, ..
    } = decision;
    let asked = calls
        .iter()
        .map(|call| (call.request_id.as_str(), call.until));
    let (places, _) = awaited(asked);
    let choice = stored_choice(request.choice());
    let reason = request.reason.as_ref().map(String::as_bytes);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [id, &places, &choice, &reason, &request.decided_by];
    let rows = read(database, SQL, &params).await?;
    let places = rows.iter().map(|row| row.get(0)).collect();
    Ok(request_ids(*id, places))
}

fn request_ids(response: Uuid, places: Vec<i32>) -> Vec<String> {
    let request_id = |index| Place { response, index }.request_id();
    places.into_iter().map(request_id).collect()
}

/// Answers `AwaitApprovals`: the decisions that there are, or the run waits, as nobody's.
pub async fn approvals_await(
    database: &Database,
    request: &AwaitApprovalsRequest,
) -> Result<AwaitApprovalsResponse, Status> {
    let id = response_id(&request.response_id)?;
    let owner = parse_uuid(&request.owner, "owner")?;
    let outcome = database.trip(async {
        let mut connection = database.connection().await?;
        approvals_await_once(&mut connection, id, owner, request).await
    });
    match outcome.await? {
        Some(decisions) => Ok(AwaitApprovalsResponse { decisions }),
        None => Err(crate::service::run_lost()),
    }
}

/// None: the run is not the caller's.
async fn approvals_await_once(
    connection: &mut Object,
    id: Uuid,
    owner: Uuid,
    request: &AwaitApprovalsRequest,
) -> Result<Option<Vec<ApprovalDecision>>, Error> {
    const LOCK: &str = "
        -- approvals_lock
        SELECT tenant
        FROM response
        WHERE id = $1 AND epoch = $2 AND next_seq = $3 AND status <= 2
        FOR UPDATE";
    const EXPIRE: &str = "
        -- approvals_expire
        INSERT INTO approval (response_id, output_index, tenant, choice, decided_by, expires_at)
        SELECT $1, t.output_index, $2, $3, $4, to_timestamp(t.expires_at)
        FROM unnest($5::int[], $6::double precision[]) AS t (output_index, expires_at)
        WHERE to_timestamp(t.expires_at) <= clock_timestamp()
        ON CONFLICT DO NOTHING";
    const READ: &str = "
        -- approvals_read
        SELECT output_index, choice, reason, decided_by
        FROM approval
        WHERE response_id = $1 AND output_index = ANY ($2)
        ORDER BY decided_at, output_index";
    const WAIT: &str = "
        -- response_wait
        UPDATE response
        SET last_owner = $3,
            owner = NULL,
            waits_until = to_timestamp($2),
            updated_at = now()
        WHERE id = $1";
    // An answer that was lost may have left it nobody's.
    const KEEP: &str = "
        -- response_keep
        UPDATE response
        SET owner = $2,
            waits_until = NULL
        WHERE id = $1";
    let (places, untils) = awaited(
        request
            .awaited
            .iter()
            .map(|awaited| (awaited.request_id.as_str(), awaited.expires_at)),
    );
    let next_seq = i64::try_from(request.next_sequence_number).unwrap_or(i64::MAX);
    let transaction = connection.transaction().await?;
    let locked = query_in_tx(&transaction, LOCK, &[&id, &request.epoch, &next_seq]).await?;
    let Some(row) = locked.first() else {
        return Ok(None);
    };
    let tenant: String = row.get(0);
    let on_expiry = stored_choice(request.on_expiry());
    query_in_tx(
        &transaction,
        EXPIRE,
        &[&id, &tenant, &on_expiry, &EXPIRY, &places, &untils],
    )
    .await?;
    let rows = query_in_tx(&transaction, READ, &[&id, &places]).await?;
    if rows.is_empty() {
        let first = untils.iter().copied().fold(f64::INFINITY, f64::min);
        query_in_tx(&transaction, WAIT, &[&id, &first, &owner]).await?;
    } else {
        query_in_tx(&transaction, KEEP, &[&id, &owner]).await?;
    }
    transaction.commit().await?;
    let decision = |row: &tokio_postgres::Row| {
        let reason: Option<&[u8]> = row.get(2);
        let place = Place {
            response: id,
            index: row.get(0),
        };
        ApprovalDecision {
            request_id: place.request_id(),
            choice: i32::from(row.get::<_, i16>(1)),
            reason: reason.map(|reason| String::from_utf8_lossy(reason).into_owned()),
            decided_by: row.get(3),
        }
    };
    Ok(Some(rows.iter().map(decision).collect()))
}

/// Places and ends of questions of one response; what is no place of an item is left out.
fn awaited<'a>(questions: impl Iterator<Item = (&'a str, i64)>) -> (Vec<i32>, Vec<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "seconds of some thousand years")]
    let place = |(request_id, until): (&str, i64)| {
        Some((Place::parse(request_id).ok()?.index, until as f64))
    };
    questions.filter_map(place).unzip()
}

fn stored_choice(choice: ApprovalChoice) -> i16 {
    match choice {
        ApprovalChoice::Once => 1,
        ApprovalChoice::Session => 2,
        ApprovalChoice::Always => 3,
        ApprovalChoice::Deny | ApprovalChoice::Unspecified => 4,
    }
}

/// Answers `ListApprovalGrants`.
pub async fn approval_grants_list(
    database: &Database,
    request: &ListApprovalGrantsRequest,
) -> Result<ListApprovalGrantsResponse, Status> {
    const SQL: &str = "
        -- approval_grants_list
        SELECT tool
        FROM approval_grant
        WHERE tenant = $1 AND agent = $2 AND session_id = ANY ($3)";
    let scopes = ["", request.session_id.as_str()];
    let rows = read(
        database,
        SQL,
        &[&request.tenant, &request.agent, &&scopes[..]],
    )
    .await?;
    let tools = rows.iter().map(|row| row.get(0)).collect();
    Ok(ListApprovalGrantsResponse { tools })
}

/// Writes down the answers of these runs, and answers whose were written.
///
/// A question that another transaction is answering is waited for. All take theirs in one order.
pub async fn approval_answers_insert_in_tx(
    transaction: &Transaction<'_>,
    runs: &[&Admit],
) -> Result<Answered, Error> {
    const SQL: &str = "
        -- approval_answers_insert
        INSERT INTO approval (response_id, output_index, tenant, choice, reason, decided_by, answered_in, expires_at)
        SELECT t.response_id, t.output_index, t.tenant, t.choice, t.reason, 'request', t.run_id,
               to_timestamp(t.expires_at)
        FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::smallint[], $6::bytea[],
                    $7::double precision[])
            AS t (run_id, response_id, output_index, tenant, choice, reason, expires_at)
        WHERE to_timestamp(t.expires_at) > clock_timestamp()
        ORDER BY t.response_id, t.output_index, t.run_id
        ON CONFLICT DO NOTHING
        RETURNING answered_in";
    let mut answered = Answered {
        now: HashSet::new(),
        before: HashSet::new(),
    };
    let answers = || {
        runs.iter()
            .flat_map(|run| run.answers.iter().map(move |answer| (*run, answer)))
    };
    if answers().next().is_none() {
        return Ok(answered);
    }
    let ids: Vec<Uuid> = answers().map(|(run, _)| run.id()).collect();
    let responses: Vec<Uuid> = answers().map(|(_, a)| a.place.response).collect();
    let places: Vec<i32> = answers().map(|(_, a)| a.place.index).collect();
    let tenants: Vec<&str> = answers().map(|(run, _)| run.tenant.as_str()).collect();
    let choices: Vec<i16> = answers().map(|(_, a)| a.choice).collect();
    let reasons: Vec<Option<&[u8]>> = answers().map(|(_, a)| a.reason.as_deref()).collect();
    #[expect(clippy::cast_precision_loss, reason = "seconds of some thousand years")]
    let untils: Vec<f64> = answers().map(|(_, a)| a.expires_at as f64).collect();
    let rows = query_in_tx(
        transaction,
        SQL,
        &[
            &ids, &responses, &places, &tenants, &choices, &reasons, &untils,
        ],
    )
    .await?;
    let written: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    for run in runs.iter().filter(|run| !run.answers.is_empty()) {
        let count = written.iter().filter(|id| **id == run.id()).count();
        if count > 0 {
            answered.now.insert(run.id());
        }
        if count < run.answers.len() {
            answered.before.insert(run.id());
        }
    }
    Ok(answered)
}

/// Takes the answers of these runs away.
pub async fn approval_answers_delete_in_tx(
    transaction: &Transaction<'_>,
    runs: &[Uuid],
) -> Result<(), Error> {
    const SQL: &str = "
        -- approval_answers_delete
        DELETE FROM approval
        WHERE answered_in = ANY ($1)";
    if !runs.is_empty() {
        query_in_tx(transaction, SQL, &[&runs]).await?;
    }
    Ok(())
}

/// Which of these runs, none of which was admitted, answer what can no longer be answered.
pub async fn approvals_answered(
    connection: &Object,
    runs: &[&Admit],
) -> Result<HashSet<Uuid>, Error> {
    const SQL: &str = "
        -- approvals_answered
        SELECT t.run_id
        FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::double precision[])
            AS t (run_id, response_id, output_index, expires_at)
        LEFT JOIN approval a USING (response_id, output_index)
        WHERE a.choice IS NOT NULL OR to_timestamp(t.expires_at) <= clock_timestamp()";
    let answers = || {
        runs.iter()
            .flat_map(|run| run.answers.iter().map(move |answer| (run.id(), answer)))
    };
    if answers().next().is_none() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = answers().map(|(id, _)| id).collect();
    let responses: Vec<Uuid> = answers().map(|(_, a)| a.place.response).collect();
    let places: Vec<i32> = answers().map(|(_, a)| a.place.index).collect();
    #[expect(clippy::cast_precision_loss, reason = "seconds of some thousand years")]
    let untils: Vec<f64> = answers().map(|(_, a)| a.expires_at as f64).collect();
    let rows = query(connection, SQL, &[&ids, &responses, &places, &untils]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Forgets decisions that nobody can come late to any more; answers how many went.
pub async fn approvals_forget(database: &Database) -> Result<usize, Error> {
    const SQL: &str = "
        -- approvals_forget
        DELETE FROM approval
        WHERE (response_id, output_index) IN (
            SELECT a.response_id, a.output_index
            FROM approval a
            WHERE a.expires_at < clock_timestamp() - interval '1 day'
              AND NOT EXISTS (SELECT 1 FROM response r WHERE r.id = a.response_id AND r.status <= 2)
            ORDER BY a.expires_at
            LIMIT 1000
        )
        RETURNING response_id";
    database
        .trip(async {
            let connection = database.connection().await?;
            Ok(query(&connection, SQL, &[]).await?.len())
        })
        .await
}
