//! Leases: which orchestrator processes count as alive, and who takes over from those that do not.

use uuid::Uuid;

use crate::database::{Database, Error, query, within_deadline};

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
    within_deadline(async {
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
    within_deadline(async {
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
    pub request: Vec<u8>,
}

/// What a process executes.
#[derive(Debug)]
pub struct Executing<'a> {
    pub runs: &'a [Uuid],
    /// When that was: runs with later ids may be executing too.
    pub as_of: Option<Uuid>,
}

/// Gives up to `limit` active runs without a living owner to `owner`, each under a new epoch; also those that are
/// `owner`'s own by name, but not among the ones it is `executing`.
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
        ), claimed AS (
            UPDATE response r
            SET owner = $1,
                epoch = r.epoch + 1,
                attempt = r.attempt + 1
            FROM orphan
            WHERE r.id = orphan.id
            RETURNING r.id, r.tenant, r.epoch, r.attempt, r.parent_turn_id
        )
        SELECT c.id, c.tenant, c.epoch, c.attempt, c.parent_turn_id, q.body
        FROM claimed c
        JOIN run_request q ON q.response_id = c.id
        ORDER BY c.id";
    within_deadline(async {
        let connection = database.connection().await?;
        let rows = query(
            &connection,
            SQL,
            &[&owner, &limit, &executing.runs, &executing.as_of],
        )
        .await?;
        let claimed = rows.iter().map(|row| Claimed {
            response: row.get(0),
            tenant: row.get(1),
            epoch: row.get(2),
            attempt: row.get(3),
            parent_turn: row.get(4),
            request: row.get(5),
        });
        Ok(claimed.collect())
    })
    .await
}
