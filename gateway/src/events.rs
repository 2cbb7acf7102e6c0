//! The body of an event stream: frames as they come, comments while nothing comes, `[DONE]` at the end.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};
use http::{HeaderName, HeaderValue, header};
use talaria_domain::snapshot::is_terminal_event;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{self as pb, Event, StartRunResponse};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::follow::Follow;
use crate::render::{DONE, KEEPALIVE, error_frame, push_frame, snapshot_frame};

/// Where a stream's events come from.
pub enum Events {
    Stored(Box<Follow>),
    /// An ephemeral run lives in its call: there is nothing else to read from.
    Ephemeral {
        stream: Box<Streaming<StartRunResponse>>,
        next_seq: u64,
        ended: bool,
    },
    /// The response as it was after event `sequence_number`, until it was shown; then what follows.
    AfterSnapshot {
        snapshot: Option<Box<pb::Response>>,
        sequence_number: u64,
        events: Box<Events>,
    },
    /// Nothing is left to show.
    Ended,
}

/// What comes next on a stream.
pub enum Next {
    Events(Vec<Event>),
    Snapshot {
        response: Box<pb::Response>,
        sequence_number: u64,
    },
    /// The stream ends as it should.
    End,
    /// It ends, and nothing will ever say how the run ended.
    Broken {
        next_seq: u64,
    },
}

impl Events {
    /// What comes next; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Next {
        match self {
            Self::AfterSnapshot {
                snapshot,
                sequence_number,
                events,
            } => match snapshot.take() {
                Some(response) => Next::Snapshot {
                    response,
                    sequence_number: *sequence_number,
                },
                None => Box::pin(events.next()).await,
            },
            Self::Stored(follow) => match follow.next().await {
                Some(events) => Next::Events(events),
                None => Next::End,
            },
            Self::Ephemeral { ended: true, .. } | Self::Ended => Next::End,
            Self::Ephemeral {
                stream,
                next_seq,
                ended,
            } => loop {
                let Ok(Some(message)) = stream.message().await else {
                    *ended = true;
                    return Next::Broken {
                        next_seq: *next_seq,
                    };
                };
                let Some(Message::Events(chunk)) = message.message else {
                    continue;
                };
                let Ok(events) = chunk.events() else {
                    *ended = true;
                    return Next::Broken {
                        next_seq: *next_seq,
                    };
                };
                if let Some(last) = events.last() {
                    *next_seq = last.sequence_number + 1;
                    *ended = is_terminal_event(last);
                    return Next::Events(events);
                }
            },
        }
    }
}

/// An SSE answer that shows `events`. It ends early, without inventing an end, when the façade stops.
pub fn event_stream(events: Events, keepalive: Duration, stop: CancellationToken) -> Response {
    let frames = stream::unfold(Some((events, stop)), move |state| async move {
        let (mut events, stop) = state?;
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            next = tokio::time::timeout(keepalive, events.next()) => next,
        };
        let (frames, more) = match next {
            Err(_) => (Bytes::from_static(KEEPALIVE.as_bytes()), true),
            Ok(Next::Events(shown)) => (frames(&shown), true),
            Ok(Next::Snapshot {
                response,
                sequence_number,
            }) => (
                Bytes::from(snapshot_frame(&response, sequence_number)),
                true,
            ),
            Ok(Next::End) => (Bytes::from_static(DONE.as_bytes()), false),
            Ok(Next::Broken { next_seq }) => {
                let message = "The run was lost with the server that executed it.";
                (Bytes::from(error_frame(next_seq, message) + DONE), false)
            }
        };
        Some((
            Ok::<_, std::convert::Infallible>(frames),
            more.then_some((events, stop)),
        ))
    });
    sse_answer(frames)
}

/// An answer whose body is an event stream of these pieces.
pub fn sse_answer(
    frames: impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

/// Whole frames in one piece: one write, so that no reader ever sees half a frame for long.
fn frames(events: &[Event]) -> Bytes {
    let mut text = String::with_capacity(events.len() * 256);
    for event in events {
        push_frame(&mut text, event);
    }
    Bytes::from(text)
}
