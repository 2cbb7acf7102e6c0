//! A run's events as they come: frames, comments while nothing comes, and a last comment when it has ended.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use talaria_proto::v1::{Event, ReadEventsRequest};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::event::Translator;
use crate::Gateway;
use crate::events::{Events, Next, sse_answer};
use crate::follow::in_time;
use crate::render::KEEPALIVE;

/// The end of every stream that ends as it should.
const CLOSED: &str = ": stream closed\n\n";

/// Shows a translator the events before number `next_seq`, so that it knows the calls that have begun.
pub async fn catch_up(
    gateway: &Gateway,
    translator: &mut Translator,
    mut request: ReadEventsRequest,
    next_seq: u64,
) -> Result<(), Status> {
    request.starting_after = None;
    let log = in_time(gateway.store.clone().read_events(request)).await?;
    let mut log = log.into_inner();
    while let Some(message) = in_time(log.message()).await? {
        let Some(chunk) = message.events else {
            continue;
        };
        let events = chunk.events();
        for event in events.map_err(|_| Status::internal("events that cannot be read"))? {
            if event.sequence_number >= next_seq {
                return Ok(());
            }
            let _ = translator.frame(&event);
        }
    }
    Ok(())
}

/// An SSE answer that shows `events`. It ends early, without inventing an end, when the façade stops.
pub fn run_stream(
    events: Events,
    translator: Translator,
    keepalive: Duration,
    stop: CancellationToken,
) -> Response {
    let frames = stream::unfold(Some((events, translator)), move |state| {
        let stop = stop.clone();
        async move {
            let (mut events, mut translator) = state?;
            // Events that have no frame are no sign of life: the arguments of a call may take long.
            let silent_until = Instant::now() + keepalive;
            let (frames, more) = loop {
                let next = tokio::select! {
                    biased;
                    () = stop.cancelled() => return None,
                    next = timeout_at(silent_until, events.next()) => next,
                };
                match next {
                    Err(_) => break (Bytes::from_static(KEEPALIVE.as_bytes()), true),
                    Ok(Next::Events(new)) => {
                        let frames = frames(&mut translator, &new);
                        if !frames.is_empty() {
                            break (Bytes::from(frames), true);
                        }
                    }
                    Ok(Next::Snapshot { .. }) => {}
                    Ok(Next::End | Next::Broken { .. }) => {
                        break (Bytes::from_static(CLOSED.as_bytes()), false);
                    }
                }
            };
            let frames = Ok::<_, std::convert::Infallible>(frames);
            Some((frames, more.then_some((events, translator))))
        }
    });
    sse_answer(frames)
}

/// Whole frames in one piece: one write.
fn frames(translator: &mut Translator, events: &[Event]) -> String {
    events
        .iter()
        .filter_map(|event| translator.frame(event))
        .collect()
}
