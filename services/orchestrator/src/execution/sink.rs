//! Where a run's events go: into the log and then to everyone, or straight to the one who asked.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{
    AppendEventsRequest, Event, EventChunk, FinishRunRequest, Follow, Response, StartRunResponse,
    Turn,
};
use talaria_runtime::failpoint::{self, Bug};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::{Left, Pending};
use crate::feed::Feed;
use crate::journal::Journal;

/// How long the reader of an ephemeral run may read nothing before the run is given up.
const UNREAD: Duration = Duration::from_mins(1);

/// Where events go.
#[derive(Clone, Debug)]
pub enum Sink {
    Stored(Stored),
    Ephemeral(Ephemeral),
}

/// Into the log first, then to every subscriber.
#[derive(Clone, Debug)]
pub struct Stored {
    pub response_id: String,
    pub epoch: i32,
    pub journal: Journal,
    pub feed: Arc<Feed>,
    pub tasks: TaskTracker,
}

/// To the call that started the run, and nowhere else.
#[derive(Clone, Debug)]
pub struct Ephemeral {
    pub to: mpsc::Sender<Result<StartRunResponse, Status>>,
    pub follow: Follow,
    pub tasks: TaskTracker,
}

/// A write under way.
pub struct Write {
    pub started: Instant,
    pub future: Pin<Box<dyn Future<Output = Result<(), Left>> + Send>>,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Begins to write `events`, with the run's admission if that is pending; when the write is done, they are durable and
    /// everyone sees them.
    pub fn write(
        &self,
        events: &[Event],
        after_silence: bool,
        pending: Option<Box<Pending>>,
    ) -> Write {
        let started = Instant::now();
        let chunk = EventChunk::of(events);
        let count = events.len() as u64;
        let future: Pin<Box<dyn Future<Output = Result<(), Left>> + Send>> = match self.clone() {
            Self::Stored(stored) if let Some(pending) = pending => Box::pin(async move {
                pending.admit(&stored.journal, chunk.clone(), count).await?;
                stored.feed.publish(chunk, count);
                Ok(())
            }),
            Self::Stored(stored) => {
                let mut append = stored.append(events, chunk.clone());
                append.after_silence = after_silence;
                Box::pin(async move {
                    if failpoint::has(Bug::PublishEarly) {
                        stored.feed.publish(chunk.clone(), count);
                    }
                    stored.journal.append(append).await.map_err(Left::Lost)?;
                    failpoint::hit("append.after_ack_before_publish").await;
                    if failpoint::has(Bug::PublishEarly) {
                        return Ok(());
                    }
                    stored.feed.publish(chunk, count);
                    Ok(())
                })
            }
            Self::Ephemeral(ephemeral) => Box::pin(async move {
                if ephemeral.follow == Follow::Events {
                    ephemeral.send(Message::Events(chunk)).await?;
                }
                Ok(())
            }),
        };
        Write { started, future }
    }

    /// Writes the last `events` with the final response and its turn, and with the run's admission if that is pending.
    pub async fn finish(
        &self,
        events: &[Event],
        response: Response,
        turn: Turn,
        pending: Option<Box<Pending>>,
    ) -> Result<(), Left> {
        let chunk = EventChunk::of(events);
        match self {
            Self::Stored(stored) => {
                let append = Some(stored.append(events, chunk.clone()));
                let mut without_output = response.clone();
                without_output.output.clear();
                let finish = FinishRunRequest {
                    append,
                    response: Some(without_output),
                    turn: Some(turn),
                    admission: None,
                };
                let journal = &stored.journal;
                match pending {
                    Some(pending) => pending.finish(journal, events, finish).await?,
                    None => journal.finish(finish).await.map_err(Left::Lost)?,
                }
                stored.feed.publish(chunk, events.len() as u64);
                stored.feed.end(response);
                Ok(())
            }
            Self::Ephemeral(ephemeral) => match ephemeral.follow {
                Follow::Events => ephemeral.send(Message::Events(chunk)).await,
                Follow::End => ephemeral.send(Message::Final(response)).await,
                Follow::Nothing => Ok(()),
            },
        }
    }

    /// Who owns what the run leaves behind.
    pub fn tasks(&self) -> &TaskTracker {
        match self {
            Self::Stored(stored) => &stored.tasks,
            Self::Ephemeral(ephemeral) => &ephemeral.tasks,
        }
    }
}

impl Stored {
    fn append(&self, events: &[Event], chunk: EventChunk) -> AppendEventsRequest {
        AppendEventsRequest {
            response_id: self.response_id.clone(),
            epoch: self.epoch,
            first_sequence_number: events.first().map_or(0, |event| event.sequence_number),
            event_count: u32::try_from(events.len()).unwrap_or(u32::MAX),
            events: Some(chunk),
            after_silence: false,
        }
    }
}

impl Ephemeral {
    async fn send(&self, message: Message) -> Result<(), Left> {
        let message = StartRunResponse {
            message: Some(message),
        };
        let sent = tokio::time::timeout(UNREAD, self.to.send(Ok(message))).await;
        sent.map_err(|_| Left::Abandoned)?
            .map_err(|_| Left::Abandoned)
    }
}
