//! Leases: which orchestrator processes count as alive.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::database::{Database, Error, query, write};

/// A process that says that it lives.
#[derive(Debug)]
pub struct Renewal<'a> {
    pub incarnation: Uuid,
    /// Where others reach it; empty for nowhere.
    pub address: &'a str,
    /// How long it counts as alive from now on, in milliseconds.
    pub lease_ms: i64,
    /// Which machine and network that is; empty for unknown.
    pub machine: &'a str,
    /// Whoever else of that machine says that it is to be reached there is dead.
    pub has_address_alone: bool,
}

/// Another process that lives.
#[derive(Debug)]
pub struct Peer {
    pub incarnation: Uuid,
    pub address: String,
}

/// Registers a process, or renews its lease by the database's clock. Answers which others can be reached.
///
/// Who is wrongly taken for dead lives again with the next renewal. Who has left does not: a renewal that was sent before
/// may be the last to arrive.
pub async fn lease_renew(database: &Database, renewal: &Renewal<'_>) -> Result<Vec<Peer>, Error> {
    // Renewals come every quarter of a lease: after half of one without, at least one was missed.
    const RENEW: &str = "
        -- lease_renew
        INSERT INTO orchestrator AS o (incarnation, address, machine, lease_until, renewed_at, unbroken_since)
        SELECT $1, $2, $4, t.now + $3 * interval '1 millisecond', t.now, t.now
        FROM (SELECT clock_timestamp() AS now) AS t
        ON CONFLICT (incarnation) DO UPDATE
        SET lease_until = excluded.lease_until,
            renewed_at = excluded.renewed_at,
            unbroken_since =
                CASE WHEN o.ended_at IS NULL
                          AND excluded.renewed_at <= o.renewed_at + $3 / 2 * interval '1 millisecond'
                     THEN o.unbroken_since
                     ELSE excluded.unbroken_since
                END,
            ended_at = NULL,
            died = false
        WHERE o.ended_at IS NULL OR o.died";
    const END_PREDECESSORS: &str = "
        -- leases_end_at_address
        UPDATE orchestrator
        SET ended_at = clock_timestamp(),
            lease_until = least(lease_until, clock_timestamp()),
            died = true
        WHERE address = $2 AND machine = $3 AND machine <> '' AND incarnation <> $1 AND ended_at IS NULL";
    const PEERS: &str = "
        -- peers_list
        SELECT incarnation, address
        FROM orchestrator
        WHERE incarnation <> $1
          AND address <> ''
          AND ended_at IS NULL
          AND lease_until > clock_timestamp()";
    let Renewal {
        incarnation,
        address,
        machine,
        ..
    } = renewal;
    #[expect(clippy::cast_precision_loss, reason = "a lease is seconds long")]
    let lease_ms = renewal.lease_ms as f64;
    database
        .trip(async {
            let connection = database.connection().await?;
            let renewed = [
                incarnation as &(dyn ToSql + Sync),
                address,
                &lease_ms,
                machine,
            ];
            query(&connection, RENEW, &renewed).await?;
            if renewal.has_address_alone {
                let here = [incarnation as &(dyn ToSql + Sync), address, machine];
                query(&connection, END_PREDECESSORS, &here).await?;
            }
            let rows = query(&connection, PEERS, &[incarnation]).await?;
            let peer = |row: &Row| Peer {
                incarnation: row.get(0),
                address: row.get(1),
            };
            Ok(rows.iter().map(peer).collect())
        })
        .await
}

/// Whose lease ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// This process leaves in order: what it executed did not cost it its life.
    Left(Uuid),
    /// This process is gone.
    Died(Uuid),
    /// All processes but this one are gone.
    AllDiedExcept(Uuid),
}

/// Ends leases; what has ended already stays as it is.
pub async fn lease_end(database: &Database, ending: Ending) -> Result<(), Error> {
    const SQL: &str = "
        -- lease_end
        UPDATE orchestrator
        SET ended_at = clock_timestamp(),
            lease_until = least(lease_until, clock_timestamp()),
            died = $3
        WHERE (incarnation = $1 OR incarnation <> $2) AND ended_at IS NULL";
    let (one, all_except, died) = match ending {
        Ending::Left(one) => (Some(one), None, false),
        Ending::Died(one) => (Some(one), None, true),
        Ending::AllDiedExcept(one) => (None, Some(one), true),
    };
    // However often: what has ended has ended.
    write(database, SQL, &[&one, &all_except, &died])
        .await
        .map(drop)
}

/// Makes runs nobody's, each if it is still written under this epoch.
pub async fn runs_release(database: &Database, runs: &[(Uuid, i32)]) -> Result<(), Error> {
    const SQL: &str = "
        -- runs_release
        UPDATE response r
        SET owner = NULL,
            updated_at = now()
        FROM unnest($1::uuid[], $2::int[]) AS released (id, epoch)
        WHERE r.id = released.id
          AND r.epoch = released.epoch
          AND r.status IN (1, 2)
          AND r.waits_until IS NULL";
    let (ids, epochs): (Vec<Uuid>, Vec<i32>) = runs.iter().copied().unzip();
    database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&ids, &epochs]).await?;
            Ok(())
        })
        .await
}

/// Forgets processes that have been gone for a day and have no runs any more; answers how many.
pub async fn leases_forget(database: &Database) -> Result<usize, Error> {
    const SQL: &str = "
        -- leases_forget
        DELETE FROM orchestrator o
        WHERE coalesce(o.ended_at, o.lease_until) < clock_timestamp() - interval '1 day'
          AND NOT EXISTS (
              SELECT 1 FROM response r
              WHERE r.owner = o.incarnation AND r.status IN (1, 2) AND r.waits_until IS NULL
          )
        RETURNING o.incarnation";
    database
        .trip(async {
            let connection = database.connection().await?;
            Ok(query(&connection, SQL, &[]).await?.len())
        })
        .await
}
