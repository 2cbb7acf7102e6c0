//! Reading the event log.

use talaria_proto::v1::EventChunk;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, read};

/// Chunks that one trip to the database brings.
const PAGE_CHUNKS: i64 = 64;

/// A chunk of the log.
#[derive(Debug)]
pub struct Chunk {
    pub first_seq: i64,
    pub last_seq: i64,
    pub events: EventChunk,
}

/// The next chunks that hold events after number `after` (-1 for all), in order; none at the end of the log.
///
/// The first may begin before `after + 1`.
pub async fn events_read(
    database: &Database,
    response: Uuid,
    after: i64,
) -> Result<Vec<Chunk>, Error> {
    const SQL: &str = "
        -- events_read
        SELECT first_seq, last_seq, body
        FROM event_chunk
        WHERE response_id = $1 AND last_seq > $2
        ORDER BY last_seq
        LIMIT $3";
    let rows = read(database, SQL, &[&response, &after, &PAGE_CHUNKS]).await?;
    let chunk = |row: &tokio_postgres::Row| {
        let broken = |reason| Error::BrokenRow {
            table: "event_chunk",
            id: response,
            reason,
        };
        let encoded = codec::unpack(row.get(2)).map_err(broken)?;
        let events = EventChunk::from_encoded(encoded);
        Ok(Chunk {
            first_seq: row.get(0),
            last_seq: row.get(1),
            events,
        })
    };
    rows.iter().map(chunk).collect()
}

/// The part of a chunk after number `after`.
pub fn tail(chunk: Chunk, after: i64, response: Uuid) -> Result<EventChunk, Error> {
    if chunk.first_seq > after {
        return Ok(chunk.events);
    }
    let broken = |error: prost::DecodeError| Error::BrokenRow {
        table: "event_chunk",
        id: response,
        reason: error.to_string(),
    };
    let mut events = chunk.events.events().map_err(broken)?;
    events.retain(|event| i64::try_from(event.sequence_number).is_ok_and(|seq| seq > after));
    Ok(EventChunk::of(&events))
}
