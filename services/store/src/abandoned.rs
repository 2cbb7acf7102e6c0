//! Runs that were left and that nobody has taken for long: they end where they stand.

use std::time::Duration;

use talaria_domain::run::{End, Run};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{ContextItem, EventChunk, RunRequest, Turn};
use uuid::Uuid;

use crate::append::Append;
use crate::database::{Database, Error, error_chain, query};
use crate::finish::Finish;
use crate::lane::{Job as _, Outcome};
use crate::response::{decode, response_fold};

/// `incomplete_details.reason` of a run that was left and not taken over.
const REASON: &str = "abandoned";

/// Ends a few runs whose process has been gone for `age` or longer, as `incomplete`; answers how many.
///
/// The end is made from the log alone, under an epoch of its own: whoever claims the run at the same moment, or still
/// writes to it, is in time or is not.
pub async fn runs_end_abandoned(database: &Database, age: Duration) -> Result<usize, Error> {
    let mut ended = 0;
    for taken in runs_take(database, age).await? {
        // One that cannot be read must not keep the others from their end.
        let finish = match finish(database, &taken).await {
            Ok(finish) => finish,
            Err(error @ Error::BrokenRow { .. }) => {
                tracing::error!(error = error_chain(&error), "cannot end an abandoned run");
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(finish) = finish {
            let outcomes = database.trip(Finish::run(database, &[finish])).await?;
            if outcomes.contains(&Outcome::Stored) {
                ended += 1;
            }
        }
    }
    Ok(ended)
}

struct Taken {
    id: Uuid,
    epoch: i32,
    request: Vec<u8>,
}

/// Takes runs from those who may still believe that they have them. One that was taken and not ended stays as old as it
/// was.
async fn runs_take(database: &Database, age: Duration) -> Result<Vec<Taken>, Error> {
    const SQL: &str = "
        -- runs_take_abandoned
        WITH RECURSIVE owners AS (
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
            SELECT owners.owner
            FROM owners
            LEFT JOIN orchestrator o ON o.incarnation = owners.owner
            WHERE owners.owner IS NOT NULL
              AND coalesce(o.ended_at, o.lease_until, '-infinity')
                  <= clock_timestamp() - $1 * interval '1 second'
        ), abandoned AS (
            SELECT r.id, r.epoch
            FROM response r
            WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner = ANY (ARRAY(SELECT owner FROM gone))
            UNION ALL
            SELECT r.id, r.epoch
            FROM response r
            WHERE r.status IN (1, 2) AND r.waits_until IS NULL AND r.owner IS NULL
        ), chosen AS (
            SELECT r.id
            FROM abandoned
            JOIN response r ON r.id = abandoned.id
            WHERE r.id = ANY (ARRAY(SELECT id FROM abandoned))
              AND r.status IN (1, 2)
              AND r.epoch = abandoned.epoch
              AND r.waits_until IS NULL
              AND coalesce(r.updated_at, '-infinity') <= clock_timestamp() - $1 * interval '1 second'
            ORDER BY r.id
            LIMIT 16
            FOR UPDATE OF r SKIP LOCKED
        ), taken AS (
            UPDATE response r
            SET epoch = r.epoch + 1,
                owner = NULL
            FROM chosen
            WHERE r.id = chosen.id
            RETURNING r.id, r.epoch
        )
        SELECT t.id, t.epoch, q.body
        FROM taken t
        JOIN run_request q ON q.response_id = t.id
        ORDER BY t.id";
    let seconds = age.as_secs_f64();
    let rows = database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&seconds]).await
        })
        .await?;
    let taken = |row: &tokio_postgres::Row| Taken {
        id: row.get(0),
        epoch: row.get(1),
        request: row.get(2),
    };
    Ok(rows.iter().map(taken).collect())
}

/// The end of a run that was taken; none if it was deleted meanwhile.
async fn finish(database: &Database, taken: &Taken) -> Result<Option<Finish>, Error> {
    let request: RunRequest = decode("run_request", taken.id, &taken.request)?;
    let Some(snapshot) = response_fold(database, taken.id).await? else {
        return Ok(None);
    };
    Ok(Some(end(taken, snapshot, request)))
}

fn end(taken: &Taken, snapshot: Snapshot, request: RunRequest) -> Finish {
    let latest_at_ms = snapshot.latest_at_ms();
    let mut run = Run::resume(taken.id, snapshot);
    run.model_broke();
    let reason = REASON.to_owned();
    run.finish(&End::Incomplete { reason }, 0);
    let mut events = run.take_events();
    for event in &mut events {
        // Nothing happened since, and nobody was there to look at a clock.
        event.at_ms = latest_at_ms;
    }
    let input = request.input.into_iter().map(|item| ContextItem {
        item,
        upstream_id: String::new(),
    });
    let output = run.output();
    let mut response = run.snapshot().response();
    response.output.clear();
    Finish {
        append: Append {
            response: taken.id,
            epoch: taken.epoch,
            first_seq: events
                .first()
                .map_or(0, |event| sequence_number(event.sequence_number)),
            event_count: i64::try_from(events.len()).unwrap_or(i64::MAX),
            events: EventChunk::of(&events),
        },
        response,
        turn: Turn {
            input: input.collect(),
            output,
        },
    }
}

fn sequence_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
