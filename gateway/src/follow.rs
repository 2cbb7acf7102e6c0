//! Following a stored response: the log as far as it goes, then the owner's live stream, until the terminal event.
//!
//! The live stream is only a faster way to the same events. When it breaks, whatever the reason, the log is read from
//! the cursor, and then the owner is asked again.

use std::time::Duration;

use talaria_domain::snapshot::is_terminal_event;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    Event, EventChunk, ReadEventsRequest, ReadEventsResponse, StartRunResponse,
    SubscribeRunRequest, SubscribeRunResponse,
};
use talaria_runtime::link::Link;
use tonic::{Code, Status, Streaming};

use crate::orchestrators::Orchestrators;

/// How long one call to another service may take to begin.
const CALL: Duration = Duration::from_secs(5);
/// How long an owner may take to begin a live stream: one that is frozen must not keep a reader from the log.
const SUBSCRIBE: Duration = Duration::from_millis(1500);
/// Pauses between tries to find the owner: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A reader of one response's events.
pub struct Follow {
    tenant: String,
    response_id: String,
    /// The sequence number that it wants next.
    next_seq: u64,
    orchestrators: Orchestrators,
    store: StoreServiceClient<Link>,
    source: Source,
    pause: Duration,
    ended: bool,
}

/// How long the end of a stream may take after its last message.
const END: Duration = Duration::from_millis(100);

enum Source {
    /// The stream of the call that started the run.
    Started(Streaming<StartRunResponse>),
    Live(Streaming<SubscribeRunResponse>),
    Log(Streaming<ReadEventsResponse>),
    /// The log is to be read.
    Behind,
    /// The log was read to its end.
    CaughtUp,
    /// A moment is to pass before the next try.
    Pausing,
}

impl Follow {
    /// Reads on after `starting_after`, or from the first event.
    pub fn new(
        tenant: String,
        response_id: String,
        starting_after: Option<u64>,
        orchestrators: Orchestrators,
        store: StoreServiceClient<Link>,
    ) -> Self {
        Self {
            tenant,
            response_id,
            next_seq: starting_after.map_or(0, |seq| seq.saturating_add(1)),
            orchestrators,
            store,
            source: Source::Behind,
            pause: PAUSES.0,
            ended: false,
        }
    }

    /// Reads from the call that started the run, for as long as it lasts.
    pub fn started(mut self, stream: Streaming<StartRunResponse>) -> Self {
        self.source = Source::Started(stream);
        self
    }

    /// The next events, in order and without gaps; none after the terminal one, or when the response is gone.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        while !self.ended {
            match self.step().await {
                Ok(Some(chunk)) => {
                    self.pause = PAUSES.0;
                    let events = self.take(&chunk);
                    if !events.is_empty() {
                        return Some(events);
                    }
                }
                Ok(None) => {}
                Err(status) if status.code() == Code::NotFound => self.ended = true,
                Err(status) => {
                    tracing::debug!(code = ?status.code(), "a response's events have to wait");
                    self.source = Source::Pausing;
                }
            }
        }
        let source = std::mem::replace(&mut self.source, Source::Behind);
        match source {
            Source::Started(stream) => read_end(stream).await,
            Source::Live(stream) => read_end(stream).await,
            Source::Log(stream) => read_end(stream).await,
            Source::Behind | Source::CaughtUp | Source::Pausing => {}
        }
        None
    }

    /// Goes one step on; an error is the log's.
    async fn step(&mut self) -> Result<Option<EventChunk>, Status> {
        match &mut self.source {
            Source::Started(stream) => {
                if let Ok(Some(message)) = stream.message().await {
                    return Ok(match message.message {
                        Some(Message::Events(events)) => Some(events),
                        _ => None,
                    });
                }
                self.source = Source::Behind;
            }
            Source::Live(stream) => {
                if let Ok(Some(message)) = stream.message().await {
                    return Ok(message.events);
                }
                self.source = Source::Behind;
            }
            Source::Log(stream) => match stream.message().await? {
                Some(message) => return Ok(message.events),
                None => self.source = Source::CaughtUp,
            },
            Source::Behind => {
                let request = ReadEventsRequest {
                    tenant: self.tenant.clone(),
                    response_id: self.response_id.clone(),
                    starting_after: self.next_seq.checked_sub(1),
                };
                // Boxed, as the look for the owner below: a stream would hold their room for as long as it is open.
                let log = Box::pin(in_time(self.store.read_events(request))).await?;
                self.source = Source::Log(log.into_inner());
            }
            Source::CaughtUp => {
                let live = match Box::pin(self.subscribe()).await {
                    Ok(live) => live,
                    // The response may be gone, which its log says.
                    Err(status) => {
                        tracing::debug!(code = ?status.code(), "cannot follow a run where it is");
                        None
                    }
                };
                self.source = live.map_or(Source::Pausing, Source::Live);
            }
            Source::Pausing => {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSES.1);
                self.source = Source::Behind;
            }
        }
        Ok(None)
    }

    /// The live stream of whoever executes the run; none where nobody does.
    async fn subscribe(&mut self) -> Result<Option<Streaming<SubscribeRunResponse>>, Status> {
        let (tenant, id) = (&self.tenant, &self.response_id);
        let Some(mut runs) = self
            .orchestrators
            .owner(&mut self.store, tenant, id)
            .await?
        else {
            return Ok(None);
        };
        let request = SubscribeRunRequest {
            tenant: self.tenant.clone(),
            response_id: self.response_id.clone(),
            starting_after: self.next_seq.checked_sub(1),
        };
        let live = within(SUBSCRIBE, runs.subscribe_run(request)).await?;
        Ok(Some(live.into_inner()))
    }

    /// The events of a chunk that are wanted; moves the cursor.
    fn take(&mut self, chunk: &EventChunk) -> Vec<Event> {
        let Ok(events) = chunk.events() else {
            self.source = Source::Pausing;
            return Vec::new();
        };
        let mut wanted: Vec<Event> = events
            .into_iter()
            .filter(|event| event.sequence_number >= self.next_seq)
            .collect();
        if let Some(first) = wanted.first()
            && first.sequence_number > self.next_seq
            && !(self.reads_log() && is_terminal_event(first))
        {
            // A gap is never shown: the log has what is missing.
            self.source = Source::Behind;
            wanted.clear();
        }
        if let Some(last) = wanted.last() {
            self.next_seq = last.sequence_number + 1;
            self.ended = is_terminal_event(last);
        }
        wanted
    }

    /// Of a log that is gone there is only the end, under its old number.
    fn reads_log(&self) -> bool {
        matches!(self.source, Source::Log(_))
    }
}

/// Reads the end of a stream that has said all that it has to say.
///
/// HTTP/2 resets a stream that is dropped before it, and a connection on which too many are reset is closed (h2:
/// `too_many_internal_resets`).
pub async fn read_end<T>(mut stream: Streaming<T>) {
    // Whatever it says now, or does not say in time, changes nothing.
    let _ = tokio::time::timeout(END, stream.message()).await;
}

/// Bounds the beginning of a call.
pub async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    within(CALL, call).await
}

/// Bounds the beginning of a call by a time of its own.
pub async fn within<T>(
    longest: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = || {
        Err(Status::deadline_exceeded(
            "a service did not answer in time",
        ))
    };
    tokio::time::timeout(longest, call)
        .await
        .unwrap_or_else(|_| late())
}
