//! The body of a streamed chat completion.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::time::{Instant, timeout_at};

use super::chunks::Chunks;
use super::leave::Leaving;
use crate::Gateway;
use crate::events::{Events, Next, sse_answer};
use crate::render::KEEPALIVE;

/// An SSE answer that shows `events` as chunks. Like every other it ends early, without inventing an end, when the
/// façade stops.
pub fn chunk_stream(
    gateway: &Gateway,
    events: Events,
    chunks: Chunks,
    leaving: Leaving,
) -> Response {
    let reader = Reader {
        events,
        chunks,
        leaving,
    };
    let (keepalive, stop) = (gateway.config.keepalive, gateway.stop.clone());
    let frames = stream::unfold(Some(reader), move |reader| {
        let stop = stop.clone();
        async move {
            let mut reader = reader?;
            let (frames, more) = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    reader.leaving.stays();
                    return None;
                }
                next = reader.next(keepalive) => next,
            };
            Some((Ok(frames), more.then_some(reader)))
        }
    });
    sse_answer(frames)
}

struct Reader {
    events: Events,
    chunks: Chunks,
    leaving: Leaving,
}

impl Reader {
    /// The next frames, and whether there are more. Cancel-safe.
    ///
    /// Events that show as nothing do not count as a sign of life: the arguments of a hidden tool may take long.
    async fn next(&mut self, keepalive: Duration) -> (Bytes, bool) {
        let silent_until = Instant::now() + keepalive;
        let mut out = String::new();
        let mut more = true;
        while out.is_empty() && more {
            match timeout_at(silent_until, self.events.next()).await {
                Err(_) => out.push_str(KEEPALIVE),
                Ok(Next::Events(events)) => {
                    for event in &events {
                        self.chunks.push(&mut out, event);
                    }
                }
                // Completions are never resumed from a snapshot.
                Ok(Next::Snapshot { .. }) => {}
                Ok(Next::End) => {
                    self.chunks.break_off(&mut out, "The run is gone.");
                    more = false;
                }
                Ok(Next::Broken { .. }) => {
                    let message = "The run was lost with the server that executed it.";
                    self.chunks.break_off(&mut out, message);
                    more = false;
                }
            }
        }
        if self.chunks.has_ended() {
            self.leaving.stays();
        }
        (Bytes::from(out), more)
    }
}
