//! Leases: which orchestrator processes count as alive, and who takes over from those that do not.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::database::{Database, Error, query, read};

/// Registers a process, or renews its lease for `lease_ms` from now by the database's clock.
pub async fn lease_renew(
    database: &Database,
    incarnation: Uuid,
    address: &str,
    lease_ms: i64,
) -> Result<(), Error> {
    const SQL: &str = "
        -- lease_renew
        INSERT INTO orchestrator (incarnation, address, lease_until)
        VALUES ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
        ON CONFLICT (incarnation) DO UPDATE
        SET lease_until = excluded.lease_until";
    #[expect(clippy::cast_precision_loss, reason = "a lease is seconds long")]
    let lease_ms = lease_ms as f64;
    database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&incarnation, &address, &lease_ms]).await?;
            Ok(())
        })
        .await
}

/// Ends the lease of one process, or of all but one. Runs that a process gives up itself have not cost it its life: that
/// attempt does not count.
pub async fn lease_end(
    database: &Database,
    incarnation: Option<Uuid>,
    all_except: Option<Uuid>,
) -> Result<(), Error> {
    const SQL: &str = "
        -- lease_end
        WITH released AS (
            UPDATE response
            SET attempt = attempt - 1
            WHERE owner = $1 AND status IN (1, 2)
        )
        DELETE FROM orchestrator
        WHERE incarnation = $1 OR incarnation <> $2";
    database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&incarnation, &all_except]).await?;
            Ok(())
        })
        .await
}

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
/// `owner`'s own by name, but not among the ones it is `executing`. Runs that wait in a line or for a person and are to
/// stop count as active: somebody has to end them, and a few come whatever the limit is, because ending them takes no
/// room. Others that wait for a person are left alone until somebody decided or the time for it is over.
pub async fn runs_claim(
    database: &Database,
    owner: Uuid,
    executing: &Executing<'_>,
    limit: i64,
) -> Result<Vec<Claimed>, Error> {
    const SQL: &str = "
        -- runs_claim
        WITH orphan AS (
            SELECT r.id
            FROM response r
            WHERE r.status IN (1, 2)
              AND (r.waits_until IS NULL OR r.waits_until <= clock_timestamp())
              AND CASE
                  WHEN r.owner = $1 THEN r.id <> ALL ($3) AND ($4::uuid IS NULL OR r.id < $4)
                  ELSE NOT EXISTS (
                      SELECT 1
                      FROM orchestrator o
                      WHERE o.incarnation = r.owner AND o.lease_until > clock_timestamp()
                  )
              END
            ORDER BY r.id
            LIMIT $2
            FOR UPDATE OF r SKIP LOCKED
        ), given_up AS (
            SELECT r.id
            FROM response r
            WHERE r.status <= 2
              AND r.cancel_requested
              AND (r.status = 0 OR r.waits_until IS NOT NULL)
              AND CASE
                  WHEN r.owner = $1 THEN r.id <> ALL ($3)
                  ELSE NOT EXISTS (
                      SELECT 1
                      FROM orchestrator o
                      WHERE o.incarnation = r.owner AND o.lease_until > clock_timestamp()
                  )
              END
            LIMIT 8
            FOR UPDATE OF r SKIP LOCKED
        ), claimed AS (
            UPDATE response r
            SET owner = $1,
                epoch = r.epoch + 1,
                waits_until = NULL,
                attempt = CASE WHEN r.status = 0 THEN r.attempt ELSE r.attempt + 1 END
            FROM (SELECT id FROM orphan UNION SELECT id FROM given_up) AS free
            WHERE r.id = free.id
            RETURNING r.id, r.tenant, r.epoch, r.attempt, r.parent_turn_id, r.conversation_id, r.cancel_requested,
                      r.status
        )
        SELECT c.id, c.tenant, c.epoch, c.attempt, c.parent_turn_id, c.conversation_id, c.cancel_requested, q.body,
               c.status = 0
        FROM claimed c
        JOIN run_request q ON q.response_id = c.id
        ORDER BY c.id";
    database
        .trip(async {
            let connection = database.connection().await?;
            let rows = query(
                &connection,
                SQL,
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
