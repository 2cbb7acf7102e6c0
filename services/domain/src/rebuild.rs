//! The events of a finished response, rebuilt from its final object alone: for when its log is gone.

mod item;

use bytes::Bytes;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{Event, Response, Status};

use crate::run::has_ended;

/// What a reader that has the events up to `starting_after` (none: nothing yet) is shown.
///
/// A reader from the beginning gets a whole stream, numbered from 0, in which each text comes at once. Where the
/// numbers that a reader knows stood in the log that is gone cannot be told, so one that comes back gets the end alone,
/// under the number that it had in the log. A response that has not ended has nothing to be rebuilt from.
pub fn events(
    response: &Response,
    next_sequence_number: u64,
    starting_after: Option<u64>,
) -> Vec<Event> {
    if !has_ended(response) {
        return Vec::new();
    }
    let mut events = whole(response);
    let Some(after) = starting_after else {
        return events;
    };
    let Some(mut end) = events.pop() else {
        return events;
    };
    let in_log = next_sequence_number.saturating_sub(1);
    // What was rebuilt can be longer than the log was: a reader of it comes back with numbers of its own.
    if after < in_log {
        end.sequence_number = in_log;
    }
    if after < end.sequence_number {
        vec![end]
    } else {
        Vec::new()
    }
}

fn whole(response: &Response) -> Vec<Event> {
    let mut events = Events(Vec::new());
    let first = if response.background {
        Status::Queued
    } else {
        Status::InProgress
    };
    events.push(Kind::Created(before_its_end(response, first)));
    if response.background {
        events.push(Kind::Queued(before_its_end(response, first)));
    }
    events.push(Kind::InProgress(before_its_end(
        response,
        Status::InProgress,
    )));
    let mut output_index = 0;
    for item in &response.output {
        if item::push(&mut events, output_index, item).is_ok() {
            output_index += 1;
        }
    }
    let at_ms = response
        .completed_at
        .and_then(|end| u64::try_from(end - response.created_at).ok())
        .map_or(0, |seconds| seconds.saturating_mul(1000));
    let last = match response.status() {
        Status::Completed => Kind::Completed(response.clone()),
        Status::Incomplete => Kind::Incomplete(response.clone()),
        Status::Failed
        | Status::Cancelled
        | Status::Unspecified
        | Status::Queued
        | Status::InProgress => Kind::Failed(response.clone()),
    };
    events.push(last);
    if let Some(end) = events.0.last_mut() {
        end.at_ms = at_ms;
    }
    events.0
}

/// The response as it was before it had anything to show.
fn before_its_end(response: &Response, status: Status) -> Response {
    let mut response = response.clone();
    response.set_status(status);
    response.output = Vec::new();
    response.completed_at = None;
    response.usage = None;
    response.error = None;
    response.incomplete_reason = None;
    response
}

/// Events in the making, numbered as they come.
struct Events(Vec<Event>);

impl Events {
    fn push(&mut self, kind: Kind) {
        self.0.push(Event {
            sequence_number: self.0.len() as u64,
            kind: Some(kind),
            at_ms: 0,
            note: None,
        });
    }
}

/// JSON text as it was spelled.
fn bytes(json: &str) -> Bytes {
    Bytes::copy_from_slice(json.as_bytes())
}

#[cfg(test)]
mod tests;
