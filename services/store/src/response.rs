//! Reading a response: the final one as it was written, an active one as its log says.

use bytes::Bytes;
use prost::Message;
use talaria_domain::run::{PendingCall, pending_calls};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{Response, Turn};
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, read};
use crate::events::events_read;

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

/// The response as of now.
pub async fn response_get(
    database: &Database,
    tenant: &str,
    id: Uuid,
) -> Result<Option<Found>, Error> {
    const SQL: &str = "
        -- response_get
        SELECT r.next_seq,
               f.body,
               t.body,
               coalesce((extract(epoch FROM r.updated_at) * 1000)::bigint, 0),
               r.cancel_requested
        FROM response r
        LEFT JOIN response_final f ON f.response_id = r.id
        LEFT JOIN turn t ON t.id = r.id
        WHERE r.id = $1 AND r.tenant = $2";
    let rows = read(database, SQL, &[&id, &tenant]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let next_seq = row.get(0);
    let updated_at_ms = row.get(3);
    let cancel_requested = row.get(4);
    let Some(body) = row.get::<_, Option<&[u8]>>(1) else {
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
    if let Some(turn) = row.get::<_, Option<&[u8]>>(2) {
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
