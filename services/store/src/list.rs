//! Which responses there are, the newest first.

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{
    ListResponsesRequest, ListResponsesResponse, ListedResponse, Response, Status as RunStatus,
};
use tokio_postgres::Row;
use tonic::Status;
use uuid::Uuid;

use crate::database::{Database, Error, read};
use crate::response::decode;

/// Answers `ListResponses`.
pub async fn responses_list(
    database: &Database,
    request: ListResponsesRequest,
) -> Result<ListResponsesResponse, Status> {
    let limit = i64::from(request.limit.clamp(1, 100));
    let after = match request.after.as_deref() {
        None => Uuid::max(),
        // What is no id of ours has nothing after it.
        Some(after) => match ResponseId::parse(after) {
            Some(after) => after.0,
            None => return Ok(ListResponsesResponse::default()),
        },
    };
    let filter = Filter {
        tenant: &request.tenant,
        statuses: stored_statuses(&request.statuses),
        session: request.session_id.as_deref(),
        key: request.idempotency_key.as_deref(),
        after,
        waiting: request.waiting_for_approval,
    };
    let mut rows = responses_find(database, &filter, limit + 1).await?;
    let has_more = rows.len() as u64 > u64::from(request.limit.clamp(1, 100));
    if has_more {
        rows.pop();
    }
    let mut responses = Vec::with_capacity(rows.len());
    for row in &rows {
        responses.push(listed(row)?);
    }
    Ok(ListResponsesResponse {
        responses,
        has_more,
    })
}

/// What is looked for.
struct Filter<'a> {
    tenant: &'a str,
    /// As they are stored; all where there are none.
    statuses: Vec<i16>,
    session: Option<&'a str>,
    key: Option<&'a str>,
    after: Uuid,
    /// Only those that wait for a person.
    waiting: bool,
}

/// Queued is what waits in a line. What was admitted with an owner runs, whatever its row says: the row keeps the status
/// that it was admitted with until the run ends.
fn stored_statuses(statuses: &[i32]) -> Vec<i16> {
    let stored = |status: &i32| match RunStatus::try_from(*status).unwrap_or_default() {
        RunStatus::Unspecified => Vec::new(),
        RunStatus::Queued => vec![0],
        RunStatus::InProgress => vec![1, 2],
        RunStatus::Completed => vec![3],
        RunStatus::Failed => vec![4],
        RunStatus::Incomplete => vec![5],
        RunStatus::Cancelled => vec![6],
    };
    statuses.iter().flat_map(stored).collect()
}

fn shown_status(stored: i16) -> RunStatus {
    match RunStatus::try_from(i32::from(stored)).unwrap_or_default() {
        RunStatus::Unspecified => RunStatus::Queued,
        RunStatus::Queued | RunStatus::InProgress => RunStatus::InProgress,
        ended @ (RunStatus::Completed
        | RunStatus::Failed
        | RunStatus::Incomplete
        | RunStatus::Cancelled) => ended,
    }
}

/// Finds by the index that fits: the key's, the session's, the one over what has not ended, or the tenant's.
async fn responses_find(
    database: &Database,
    filter: &Filter<'_>,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let Filter {
        tenant,
        statuses,
        session,
        key,
        after,
        waiting,
    } = filter;
    if *waiting {
        let sql = listing(WAITING);
        return read(database, &sql, &[tenant, after, session, &limit, key]).await;
    }
    if let Some(key) = key {
        let sql = listing(BY_KEY);
        return read(
            database,
            &sql,
            &[tenant, after, statuses, &limit, key, session],
        )
        .await;
    }
    if let Some(session) = session {
        let own = Uuid::try_parse(session).ok();
        let sql = listing(BY_SESSION);
        return read(
            database,
            &sql,
            &[tenant, after, statuses, &limit, session, &own],
        )
        .await;
    }
    let only_open = !statuses.is_empty() && statuses.iter().all(|status| *status <= 2);
    let sql = listing(if only_open { OPEN } else { ALL });
    read(database, &sql, &[tenant, after, statuses, &limit]).await
}

const WAITING: &str = "
            -- responses_waiting
            SELECT r.*
            FROM response r
            WHERE r.tenant = $1
              AND r.status IN (1, 2)
              AND r.waits_until IS NOT NULL
              AND r.owner IS NULL
              AND r.id < $2
              AND ($3::text IS NULL OR coalesce(r.session_id, r.id::text) = $3)
              AND ($5::text IS NULL
                   OR (SELECT k.key FROM idempotency_key k WHERE k.response_id = r.id LIMIT 1) = $5)
            ORDER BY r.id DESC
            LIMIT $4";

const BY_KEY: &str = "
            -- responses_of_key
            SELECT r.*
            FROM idempotency_key k
            JOIN response r ON r.id = k.response_id
            WHERE k.tenant = $1
              AND k.key = $5
              AND r.id < $2
              AND (cardinality($3::smallint[]) = 0 OR r.status = ANY ($3))
              AND ($6::text IS NULL OR coalesce(r.session_id, r.id::text) = $6)
            LIMIT $4";

const BY_SESSION: &str = "
            -- responses_of_session
            (SELECT r.*
            FROM response r
            WHERE r.tenant = $1
              AND r.session_id = $5
              AND r.id < $2
              AND (cardinality($3::smallint[]) = 0 OR r.status = ANY ($3))
            ORDER BY r.id DESC
            LIMIT $4)
            UNION ALL
            (SELECT r.*
            FROM response r
            WHERE r.id = $6
              AND r.tenant = $1
              AND r.session_id IS NULL
              AND r.id < $2
              AND (cardinality($3::smallint[]) = 0 OR r.status = ANY ($3)))";

const OPEN: &str = "
            -- responses_open
            (SELECT r.*
            FROM response r
            WHERE r.tenant = $1
              AND r.status IN (1, 2)
              AND r.id < $2
              AND r.status = ANY ($3)
            ORDER BY r.id DESC
            LIMIT $4)
            UNION ALL
            (SELECT r.*
            FROM response r
            WHERE r.tenant = $1
              AND r.status = 0
              AND r.id < $2
              AND r.status = ANY ($3)
            ORDER BY r.id DESC
            LIMIT $4)";

/// Written so that only the tenant's index has its order: by the order of ids alone, a small tenant's responses would be
/// looked for among all others'.
const ALL: &str = "
            -- responses_all
            SELECT r.*
            FROM response r
            WHERE (r.tenant, r.id) < ($1, $2)
              AND r.tenant >= $1
              AND (cardinality($3::smallint[]) = 0 OR r.status = ANY ($3))
            ORDER BY r.tenant DESC, r.id DESC
            LIMIT $4";

/// The columns of what `found` finds. Imported responses do not have their time in their id, but in their final object.
fn listing(found: &str) -> String {
    format!(
        "SELECT r.id,
                r.status,
                r.model,
                coalesce(r.session_id, r.id::text),
                (extract(epoch FROM r.updated_at) * 1000)::bigint,
                (SELECT k.key
                FROM idempotency_key k
                WHERE k.response_id = r.id
                LIMIT 1),
                (SELECT f.body
                FROM response_final f
                WHERE f.response_id = r.id
                  AND r.id < '00010000-0000-0000-0000-000000000000'),
                r.waits_until IS NOT NULL AND r.owner IS NULL AND r.status <= 2
        FROM ({found}) AS r
        ORDER BY r.id DESC
        LIMIT $4"
    )
}

fn listed(row: &Row) -> Result<ListedResponse, Error> {
    let id: Uuid = row.get(0);
    let status = shown_status(row.get(1));
    let created_at_ms = match row.get::<_, Option<&[u8]>>(6) {
        Some(body) => decode::<Response>("response_final", id, body)?
            .created_at
            .saturating_mul(1000),
        None => created_at_ms(id),
    };
    let mut listed = ListedResponse {
        response_id: ResponseId(id).to_string(),
        model: row.get::<_, Option<String>>(2).unwrap_or_default(),
        session_id: row.get(3),
        created_at_ms,
        updated_at_ms: row.get::<_, Option<i64>>(4).unwrap_or_default(),
        idempotency_key: row.get(5),
        waits_for_approval: row.get(7),
        ..ListedResponse::default()
    };
    listed.set_status(status);
    Ok(listed)
}

/// The time in a UUIDv7; 0 for an imported response, which has none.
fn created_at_ms(id: Uuid) -> i64 {
    if ResponseId(id).is_imported() {
        return 0;
    }
    let milliseconds = id.as_u128() >> 80;
    i64::try_from(milliseconds).unwrap_or_default()
}
