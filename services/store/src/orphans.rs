//! Runs that nobody executes, though they are active: whose they are, and giving them to somebody.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::database::{Database, Error, query, read};

/// A run that changed hands.
#[derive(Debug)]
pub struct Claimed {
    pub response: Uuid,
    pub tenant: String,
    pub epoch: i32,
    pub attempt: i32,
    pub parent_turn: Option<Uuid>,
    pub conversation: Option<Uuid>,
    pub cancelled: bool,
    pub request: Vec<u8>,
    /// It waited in line: no process had it before.
    pub begins: bool,
}

impl Claimed {
    /// Reads id, tenant, epoch, attempt, parent turn, conversation, whether it is to stop, and request.
    pub fn of(row: &Row, begins: bool) -> Self {
        Self {
            response: row.get(0),
            tenant: row.get(1),
            epoch: row.get(2),
            attempt: row.get(3),
            parent_turn: row.get(4),
            conversation: row.get(5),
            cancelled: row.get(6),
            request: row.get(7),
            begins,
        }
    }
}

/// What a process executes.
#[derive(Debug)]
pub struct Executing<'a> {
    pub runs: &'a [Uuid],
    /// When that was: runs with later ids may be executing too.
    pub as_of: Option<Uuid>,
}

/// Gives up to `limit` active runs without a living owner to `owner`, each under a new epoch; also those that are
/// `owner`'s own by name, but not among the ones it is `executing`. Tenants take turns; of each the oldest comes first.
///
/// Runs that wait in a line or for a person and are to stop count as active: somebody has to end them, and a few come
/// whatever the limit is, because ending them takes no room. Others that wait for a person are left alone until the time
/// for it is over, or somebody decided: for a moment they are then for the process alone that had them before.
pub async fn runs_claim(
    database: &Database,
    owner: Uuid,
    executing: &Executing<'_>,
    limit: i64,
) -> Result<Vec<Claimed>, Error> {
    database
        .trip(async {
            let connection = database.connection().await?;
            let rows = query(
                &connection,
                RUNS_CLAIM,
                &[&owner, &limit, &executing.runs, &executing.as_of],
            )
            .await?;
            Ok(rows
                .iter()
                .map(|row| Claimed::of(row, row.get(8)))
                .collect())
        })
        .await
}

/// A lease that ran out counts only if the claimer's own was renewed without a break since then, or for as long as a
/// lease is: else nobody may have been able to renew any. Leases that were ended count at once, and so do those of
/// processes that are not known (any more).
const RUNS_CLAIM: &str = "
    -- runs_claim
    WITH RECURSIVE living AS (
        SELECT o.incarnation
        FROM orchestrator o
        LEFT JOIN orchestrator claimer ON claimer.incarnation = $1 AND claimer.ended_at IS NULL
        WHERE o.incarnation <> $1
          AND o.ended_at IS NULL
          AND (
              o.lease_until > clock_timestamp()
              OR claimer.incarnation IS NULL
              OR claimer.renewed_at + (claimer.lease_until - claimer.renewed_at) / 2 < clock_timestamp()
              OR (
                  claimer.unbroken_since > o.lease_until
                  AND claimer.unbroken_since + (claimer.lease_until - claimer.renewed_at) > clock_timestamp()
              )
          )
    ), owners AS (
        -- One step through the index for each, however many runs it has.
        SELECT (SELECT r.owner
                FROM response r
                WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner IS NOT NULL
                ORDER BY r.owner
                LIMIT 1) AS owner
        UNION ALL
        SELECT (SELECT r.owner
                FROM response r
                WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner > owners.owner
                ORDER BY r.owner
                LIMIT 1)
        FROM owners
        WHERE owners.owner IS NOT NULL
    ), gone AS (
        SELECT owner
        FROM owners
        WHERE owner <> $1 AND owner NOT IN (SELECT incarnation FROM living)
    ), orphan AS (
        SELECT r.id, r.tenant, r.epoch, r.waits_until
        FROM response r
        WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner = ANY (ARRAY(SELECT owner FROM gone))
        UNION ALL
        SELECT r.id, r.tenant, r.epoch, r.waits_until
        FROM response r
        WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner IS NULL
        UNION ALL
        SELECT r.id, r.tenant, r.epoch, r.waits_until
        FROM response r
        WHERE r.status IN (1, 2)
          AND r.waits_until IS NULL
          AND r.owner = $1
          AND ($4::uuid IS NULL OR r.id < $4)
          AND NOT EXISTS (SELECT 1 FROM unnest($3::uuid[]) AS executing (id) WHERE executing.id = r.id)
        UNION ALL
        SELECT r.id, r.tenant, r.epoch, r.waits_until
        FROM response r
        WHERE r.status IN (1, 2)
          AND r.waits_until <= now() + interval '1 minute'
          AND (r.waits_until <= now() OR r.owner = $1)
    ), in_turn AS (
        -- Some more than are wanted, since others may be taking the first.
        SELECT id, epoch, waits_until, row_number() OVER (PARTITION BY tenant ORDER BY id) AS turn
        FROM orphan
        ORDER BY turn, id
        LIMIT 16 * $2::bigint
    ), chosen AS (
        SELECT r.id
        FROM in_turn
        JOIN response r ON r.id = in_turn.id
        WHERE r.id = ANY (ARRAY(SELECT id FROM in_turn))
          AND r.status IN (1, 2)
          AND r.epoch = in_turn.epoch
          AND r.waits_until IS NOT DISTINCT FROM in_turn.waits_until
        ORDER BY in_turn.turn, r.id
        LIMIT $2
        FOR UPDATE OF r SKIP LOCKED
    ), given_up AS (
        SELECT r.id
        FROM response r
        WHERE r.status <= 2
          AND r.cancel_requested
          AND (r.status = 0 OR r.waits_until IS NOT NULL)
          AND CASE
              WHEN r.waits_until IS NOT NULL OR r.owner IS NULL THEN true
              WHEN r.owner = $1 THEN r.id <> ALL ($3)
              ELSE r.owner NOT IN (SELECT incarnation FROM living)
          END
        LIMIT 8
        FOR UPDATE OF r SKIP LOCKED
    ), claimed AS (
        -- Only who died of a run has spent an attempt of it. The claimer itself has if it wrote any of it: else it may
        -- never have heard that it had claimed it.
        UPDATE response r
        SET owner = $1,
            epoch = r.epoch + 1,
            waits_until = NULL,
            attempt = CASE
                WHEN r.owner IS NULL OR r.waits_until IS NOT NULL THEN r.attempt
                WHEN EXISTS (
                    SELECT 1
                    FROM orchestrator o
                    WHERE o.incarnation = r.owner AND o.ended_at IS NOT NULL AND NOT o.died
                ) THEN r.attempt
                WHEN r.owner = $1 AND r.epoch IS DISTINCT FROM (
                    SELECT c.epoch
                    FROM event_chunk c
                    WHERE c.response_id = r.id
                    ORDER BY c.last_seq DESC
                    LIMIT 1
                ) THEN r.attempt
                ELSE r.attempt + 1
            END
        FROM (SELECT id FROM chosen UNION SELECT id FROM given_up) AS free
        WHERE r.id = free.id
        RETURNING r.id, r.tenant, r.epoch, r.attempt, r.parent_turn_id, r.conversation_id, r.cancel_requested,
                  r.status
    )
    SELECT c.id, c.tenant, c.epoch, c.attempt, c.parent_turn_id, c.conversation_id, c.cancel_requested, q.body,
           c.status = 0
    FROM claimed c
    JOIN run_request q ON q.response_id = c.id
    ORDER BY c.id";

/// The runs of a process that are to stop.
pub async fn runs_to_stop(database: &Database, owner: Uuid) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        -- runs_to_stop
        SELECT id
        FROM response
        WHERE owner = $1 AND cancel_requested AND status <= 2";
    let rows = read(database, SQL, &[&owner]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Which of these runs are not `owner`'s, or not any more.
pub async fn runs_lost(
    database: &Database,
    owner: Uuid,
    runs: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        -- runs_lost
        SELECT executing.id
        FROM unnest($2::uuid[]) AS executing (id)
        WHERE NOT EXISTS (
            SELECT 1
            FROM response r
            WHERE r.id = executing.id AND r.owner = $1 AND r.status <= 2
        )";
    let rows = read(database, SQL, &[&owner, &runs]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
