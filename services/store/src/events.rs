//! Reading the event log.

use talaria_proto::v1::EventChunk;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, read};

/// Chunks that one trip to the database brings, and how many bytes may come before the last of them: a reader that
/// stalls holds a page.
const PAGE_CHUNKS: i64 = 64;
const PAGE_BYTES: i64 = 256 << 10;

/// A chunk of the log, as it is stored.
#[derive(Debug)]
pub struct Chunk {
    response: Uuid,
    first_seq: i64,
    pub last_seq: i64,
    body: Vec<u8>,
}

impl Chunk {
    /// All its events.
    pub fn events(&self) -> Result<EventChunk, Error> {
        let encoded = codec::unpack(&self.body).map_err(|reason| self.broken(reason))?;
        Ok(EventChunk::from_encoded(encoded))
    }

    /// Its events after number `after`.
    pub fn events_after(&self, after: i64) -> Result<EventChunk, Error> {
        let all = self.events()?;
        if self.first_seq > after {
            return Ok(all);
        }
        let mut events = all
            .events()
            .map_err(|error| self.broken(error.to_string()))?;
        events.retain(|event| i64::try_from(event.sequence_number).is_ok_and(|seq| seq > after));
        Ok(EventChunk::of(&events))
    }

    fn broken(&self, reason: String) -> Error {
        Error::BrokenRow {
            table: "event_chunk",
            id: self.response,
            reason,
        }
    }
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
        FROM (
            SELECT first_seq,
                   last_seq,
                   body,
                   sum(octet_length(body)) OVER (ORDER BY last_seq) - octet_length(body) AS bytes_before
            FROM event_chunk
            WHERE response_id = $1 AND last_seq > $2
            ORDER BY last_seq
            LIMIT $3
        ) AS page
        WHERE bytes_before <= $4
        ORDER BY last_seq";
    let rows = read(
        database,
        SQL,
        &[&response, &after, &PAGE_CHUNKS, &PAGE_BYTES],
    )
    .await?;
    let chunk = |row: &tokio_postgres::Row| Chunk {
        response,
        first_seq: row.get(0),
        last_seq: row.get(1),
        body: row.get(2),
    };
    Ok(rows.iter().map(chunk).collect())
}
