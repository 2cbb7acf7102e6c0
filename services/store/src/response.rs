//! Reading a response: the final one as it was written, an active one as its log says.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use talaria_domain::run::{PendingCall, pending_calls};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{Response, Turn};
use tokio::time::Instant;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, READ, query, read, read_within};
use crate::events::events_read;
use crate::lane::{Job, Lane};

/// A response and where its log ends.
#[derive(Debug)]
pub struct Found {
    pub response: Response,
    pub next_seq: i64,
    /// Unix milliseconds of its last write; 0 if it is not known.
    pub updated_at_ms: i64,
    pub cancel_requested: bool,
    /// Calls that its log knows no decision about.
    pub pending: Vec<PendingCall>,
}

/// A response that is asked for.
#[derive(Debug)]
pub struct Lookup {
    pub tenant: String,
    pub id: Uuid,
}

impl Job for Lookup {
    /// Its row; none if there is no such response.
    type Outcome = Option<Row>;

    const LONGEST: Duration = READ;

    fn size_bytes(&self) -> usize {
        LOOKUP_BYTES
    }

    async fn run(database: &Database, batch: &[Self]) -> Result<Vec<Option<Row>>, Error> {
        responses_get(database, batch).await
    }
}

/// What one counts for in the bytes of a batch: few are read at once, because whoever asks for one waits for all.
const LOOKUP_BYTES: usize = 32 << 10;
/// Bytes of a response, as it is stored, that are read with others. Larger ones are read by themselves.
const TOGETHER_BYTES: i64 = 256 << 10;

/// The rows of several responses, without the bodies of those that are larger than `$3` bytes. Each is looked up by its
/// key, whatever the planner thinks of the sizes of the tables.
const RESPONSES_GET: &str = "
    -- responses_get
    SELECT wanted.place,
           r.next_seq,
           CASE WHEN size.bytes <= $3 THEN f.body END,
           CASE WHEN size.bytes <= $3 THEN t.body END,
           coalesce((extract(epoch FROM r.updated_at) * 1000)::bigint, 0),
           r.cancel_requested,
           size.bytes <= $3
    FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted (id, tenant, place)
    CROSS JOIN LATERAL (
        SELECT *
        FROM response
        WHERE response.id = wanted.id AND response.tenant = wanted.tenant
        OFFSET 0
    ) r
    LEFT JOIN LATERAL (
        SELECT response_final.body
        FROM response_final
        WHERE response_final.response_id = r.id
        OFFSET 0
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT turn.body
        FROM turn
        WHERE turn.id = r.id
        OFFSET 0
    ) t ON true
    CROSS JOIN LATERAL (
        SELECT (coalesce(octet_length(f.body), 0) + coalesce(octet_length(t.body), 0))::bigint AS bytes
    ) size";

async fn responses_get(database: &Database, batch: &[Lookup]) -> Result<Vec<Option<Row>>, Error> {
    let ids: Vec<Uuid> = batch.iter().map(|lookup| lookup.id).collect();
    let tenants: Vec<&str> = batch.iter().map(|lookup| lookup.tenant.as_str()).collect();
    let connection = database.connection().await?;
    let rows = query(
        &connection,
        RESPONSES_GET,
        &[&ids, &tenants, &TOGETHER_BYTES],
    )
    .await?;
    let mut found: Vec<Option<Row>> = batch.iter().map(|_| None).collect();
    for row in rows {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
        if let Some(found) = found.get_mut(place) {
            *found = Some(row);
        }
    }
    Ok(found)
}

/// The response as of now.
pub async fn response_get(
    database: &Database,
    tenant: &str,
    id: Uuid,
) -> Result<Option<Found>, Error> {
    response_get_within(READ, database, tenant, id).await
}

async fn response_get_within(
    longest: Duration,
    database: &Database,
    tenant: &str,
    id: Uuid,
) -> Result<Option<Found>, Error> {
    let (ids, tenants) = ([id], [tenant]);
    let rows = read_within(
        longest,
        database,
        RESPONSES_GET,
        &[&ids.as_slice(), &tenants.as_slice(), &i64::MAX],
    )
    .await?;
    match rows.first() {
        Some(row) => found(database, id, row).await,
        None => Ok(None),
    }
}

/// The same, in the same time; those that are asked for at the same time are read together.
pub async fn response_get_together(
    lookups: &Lane<Lookup>,
    database: &Database,
    tenant: String,
    id: Uuid,
) -> Result<Option<Found>, Error> {
    let began = Instant::now();
    let lookup = Lookup {
        tenant: tenant.clone(),
        id,
    };
    let row = match tokio::time::timeout(READ, lookups.submit(lookup)).await {
        Ok(Ok(None)) => return Ok(None),
        Ok(Ok(Some(row))) => Some(row).filter(|row| row.get(6)),
        // What was in the way of all may not be in the way of one, and a read is repeated.
        Ok(Err(_)) => None,
        Err(_) => return Err(Error::Deadline),
    };
    if let Some(row) = row {
        return found(database, id, &row).await;
    }
    let longest = READ.saturating_sub(began.elapsed());
    response_get_within(longest, database, &tenant, id).await
}

async fn found(database: &Database, id: Uuid, row: &Row) -> Result<Option<Found>, Error> {
    let next_seq = row.get(1);
    let updated_at_ms = row.get(4);
    let cancel_requested = row.get(5);
    let Some(body) = row.get::<_, Option<&[u8]>>(2) else {
        let found = response_fold(database, id).await?;
        return Ok(found.map(|snapshot| Found {
            response: snapshot.response(),
            next_seq: i64::try_from(snapshot.next_sequence_number()).unwrap_or(i64::MAX),
            updated_at_ms,
            cancel_requested,
            pending: if snapshot.is_finished() {
                Vec::new()
            } else {
                pending_calls(&snapshot)
            },
        }));
    };
    let mut response: Response = decode("response_final", id, body)?;
    if let Some(turn) = row.get::<_, Option<&[u8]>>(3) {
        let turn: Turn = decode("turn", id, turn)?;
        response.output = turn.output.into_iter().map(|item| item.item).collect();
    }
    Ok(Some(Found {
        response,
        next_seq,
        updated_at_ms,
        cancel_requested,
        pending: Vec::new(),
    }))
}

/// Where the owner of a response is reached; empty if nobody owns it whose lease is good. None if there is no such
/// response.
pub async fn run_find(
    database: &Database,
    tenant: &str,
    id: Uuid,
) -> Result<Option<String>, Error> {
    const SQL: &str = "
        -- run_find
        SELECT coalesce(o.address, '')
        FROM response r
        LEFT JOIN orchestrator o
               ON o.incarnation = r.owner AND o.lease_until > clock_timestamp() AND r.status <= 2
        WHERE r.id = $1 AND r.tenant = $2";
    let rows = read(database, SQL, &[&id, &tenant]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// A response that has not ended, folded from its log; none if it was deleted meanwhile.
pub async fn response_fold(database: &Database, id: Uuid) -> Result<Option<Snapshot>, Error> {
    let broken = |reason: String| Error::BrokenRow {
        table: "event_chunk",
        id,
        reason,
    };
    let mut snapshot = Snapshot::default();
    let mut last = -1;
    loop {
        let chunks = events_read(database, id, last).await?;
        let Some(end) = chunks.last().map(|chunk| chunk.last_seq) else {
            break;
        };
        for chunk in chunks {
            for event in chunk
                .events()?
                .events()
                .map_err(|error| broken(error.to_string()))?
            {
                snapshot
                    .apply(&event)
                    .map_err(|error| broken(error.to_string()))?;
            }
        }
        last = end;
        if snapshot.is_finished() {
            break;
        }
    }
    Ok((last >= 0).then_some(snapshot))
}

/// Decodes a stored message.
pub fn decode<M: Message + Default>(
    table: &'static str,
    id: Uuid,
    packed: &[u8],
) -> Result<M, Error> {
    let broken = |reason| Error::BrokenRow { table, id, reason };
    let body: Bytes = codec::unpack(packed).map_err(broken)?;
    M::decode(body).map_err(|error| broken(error.to_string()))
}

/// Whether this tenant has this response.
pub async fn response_exists(database: &Database, tenant: &str, id: Uuid) -> Result<bool, Error> {
    const SQL: &str = "
        -- response_exists
        SELECT 1
        FROM response
        WHERE id = $1 AND tenant = $2";
    Ok(!read(database, SQL, &[&id, &tenant]).await?.is_empty())
}
