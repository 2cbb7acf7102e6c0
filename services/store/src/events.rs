//! Reading the event log.

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use prost::Message as _;
use talaria_domain::rebuild;
use talaria_proto::v1::{EventChunk, ReadEventsResponse};
use tokio_util::task::TaskTracker;
use tonic::Status;
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, read};
use crate::response::response_get;

/// Chunks that one trip to the database brings, and how many bytes may come before the last of them: a reader that
/// stalls holds a page.
const PAGE_CHUNKS: i64 = 64;
const PAGE_BYTES: i64 = 256 << 10;

/// A reader of one response's events.
#[derive(Clone, Debug)]
pub struct Reader {
    pub tenant: String,
    pub response: Uuid,
    /// The last sequence number that it has; none for nothing yet.
    pub starting_after: Option<u64>,
}

/// What a reader gets: the log after its place, or, where a response has ended and its log is gone, what can be rebuilt
/// from its final object.
pub fn events_stream(
    database: Database,
    reader: Reader,
    tasks: TaskTracker,
) -> BoxStream<'static, Result<ReadEventsResponse, Status>> {
    let chunks = futures::stream::try_unfold(Place::begin(&reader), move |place| {
        let (database, reader) = (database.clone(), reader.clone());
        // A task, because a reader that stalls must not hold a connection in the middle of a query.
        let page = tasks.spawn(async move { page_read(&database, &reader, place).await });
        async move {
            let page = page.await;
            page.map_err(|_| Status::internal("Reading the log failed."))?
        }
    });
    chunks
        .map_ok(|page| futures::stream::iter(page.into_iter().map(Ok)))
        .try_flatten()
        .map_ok(|events| ReadEventsResponse {
            events: Some(events),
        })
        .boxed()
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Nothing was read yet.
    Begin {
        after: i64,
    },
    Within {
        after: i64,
    },
    End,
}

impl Place {
    fn begin(reader: &Reader) -> Self {
        let after = reader
            .starting_after
            .map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
        Self::Begin { after }
    }
}

async fn page_read(
    database: &Database,
    reader: &Reader,
    place: Place,
) -> Result<Option<(Vec<EventChunk>, Place)>, Status> {
    let (Place::Begin { after } | Place::Within { after }) = place else {
        return Ok(None);
    };
    let chunks = events_read(database, reader.response, after).await?;
    if let Some(last) = chunks.last() {
        let next = Place::Within {
            after: last.last_seq,
        };
        let page: Result<Vec<EventChunk>, Error> = chunks
            .iter()
            .map(|chunk| chunk.events_after(after))
            .collect();
        return Ok(Some((page?, next)));
    }
    Ok(match place {
        Place::Begin { .. } => {
            let rebuilt = events_rebuilt(database, reader).await?;
            (!rebuilt.is_empty()).then_some((rebuilt, Place::End))
        }
        Place::Within { .. } | Place::End => None,
    })
}

/// The events of a response whose log is gone; none if it has a log, or has not ended.
///
/// Logs go whole: what is left of one would be a log.
async fn events_rebuilt(database: &Database, reader: &Reader) -> Result<Vec<EventChunk>, Error> {
    const SQL: &str = "
        -- events_exist
        SELECT 1
        FROM event_chunk
        WHERE response_id = $1
        LIMIT 1";
    if !read(database, SQL, &[&reader.response]).await?.is_empty() {
        return Ok(Vec::new());
    }
    let Some(found) = response_get(database, &reader.tenant, reader.response).await? else {
        return Ok(Vec::new());
    };
    let next_seq = u64::try_from(found.next_seq).unwrap_or_default();
    let events = rebuild::events(&found.response, next_seq, reader.starting_after);
    let mut chunks = Vec::new();
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|event| {
            let is_first = bytes == 0;
            bytes += event.encoded_len();
            is_first || bytes <= CHUNK_BYTES
        });
        let (chunk, after) = rest.split_at(fits.count());
        chunks.push(EventChunk::of(chunk));
        rest = after;
    }
    Ok(chunks)
}

/// Bytes of a chunk that is rebuilt, unless its one event is larger.
const CHUNK_BYTES: usize = 256 << 10;

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
