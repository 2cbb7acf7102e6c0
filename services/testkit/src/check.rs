//! Judges a stream by the rules of the Responses API that real clients depend on.
//!
//! The rules are those of the published schemas and of the state machines in the official Python and Node SDKs, taken
//! together: a stream that passes here is accepted by all of them.

mod items;
mod snapshot;
#[cfg(test)]
mod tests;
mod wire;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::sse::Frame;
use items::Items;
use snapshot::Point;
use wire::Event;

/// What a good stream said.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The id of the response.
    pub response_id: String,
    /// The status that the last event shows.
    pub status: String,
    /// How many numbered events there were.
    pub events: usize,
    /// How many attempts there were: the number of `response.in_progress` events.
    pub attempts: usize,
    /// The text of all messages, one after the other.
    pub text: String,
    /// The finished items.
    pub items: Vec<Value>,
    /// The response of the last event.
    pub response: Value,
}

/// Checks a whole stream, from `response.created` to `data: [DONE]`; the error names the event and the broken rule.
pub fn stream(frames: &[Frame]) -> Result<Summary, String> {
    check_stream(frames).map_err(|error| format!("{error:#}"))
}

/// Checks the rest of a stream that begins with event number `first`; returns the response of its last event.
///
/// Without what came before, items cannot be judged; for that, check both ends joined with [`stream`].
pub fn rest(frames: &[Frame], first: u64) -> Result<Value, String> {
    check_rest(frames, first).map_err(|error| format!("{error:#}"))
}

fn check_stream(frames: &[Frame]) -> anyhow::Result<Summary> {
    let events = wire::read(frames, 0)?;
    let mut checker = Checker::default();
    for (position, event) in events.iter().enumerate() {
        let next = events.get(position + 1);
        checker
            .apply(event, next)
            .with_context(|| event.describe())?;
    }
    checker.finish(events.len())
}

fn check_rest(frames: &[Frame], first: u64) -> anyhow::Result<Value> {
    let events = wire::read(frames, first)?;
    let mut last = None;
    for event in &events {
        ensure!(last.is_none(), "{}: comes after the end", event.describe());
        if let Some(point) = Point::of(&event.kind) {
            let response = &event.data["response"];
            snapshot::check(point, response).with_context(|| event.describe())?;
            last = point.is_end().then(|| response.clone());
        }
    }
    last.context("the stream has no last event")
}

/// What is known after some events.
#[derive(Debug, Default)]
struct Checker {
    response: Option<Value>,
    has_ended: bool,
    attempts: usize,
    items: Items,
}

impl Checker {
    fn apply(&mut self, event: &Event, next: Option<&Event>) -> anyhow::Result<()> {
        ensure!(!self.has_ended, "comes after the end");
        if event.kind == "error" {
            return check_error(event, next);
        }
        if let Some(point) = Point::of(&event.kind) {
            return self.apply_lifecycle(point, &event.data["response"]);
        }
        ensure!(self.attempts > 0, "comes before response.in_progress");
        self.items.apply(event)
    }

    fn apply_lifecycle(&mut self, point: Point, response: &Value) -> anyhow::Result<()> {
        snapshot::check(point, response)?;
        match &self.response {
            None => ensure!(point == Point::Created, "comes before response.created"),
            Some(before) => {
                ensure!(point != Point::Created, "the response was created before");
                for field in ["id", "created_at", "background"] {
                    ensure!(
                        response[field] == before[field],
                        "the response's {field} changed from {}",
                        before[field]
                    );
                }
            }
        }
        match point {
            Point::Created => {}
            Point::Queued => ensure!(self.attempts == 0, "a response that ran is queued again"),
            Point::InProgress => self.attempts += 1,
            Point::Completed | Point::Incomplete => self.items.check_output(&response["output"])?,
            Point::Failed => self.items.check_output_of_failure(&response["output"])?,
        }
        self.has_ended = point.is_end();
        self.response = Some(response.clone());
        Ok(())
    }

    fn finish(self, events: usize) -> anyhow::Result<Summary> {
        let Some(response) = self.response else {
            bail!("the stream has no events");
        };
        ensure!(self.has_ended, "the stream has no last event");
        let text_of = |field: &str| response[field].as_str().unwrap_or_default().to_owned();
        Ok(Summary {
            response_id: text_of("id"),
            status: text_of("status"),
            events,
            attempts: self.attempts,
            text: self.items.text(),
            items: self.items.finished(),
            response,
        })
    }
}

/// An `error` event carries both shapes that clients read, and the failed response follows.
fn check_error(event: &Event, next: Option<&Event>) -> anyhow::Result<()> {
    let data = &event.data;
    for field in ["code", "message", "param"] {
        ensure!(data.get(field).is_some(), "has no {field}");
        ensure!(data["error"].get(field).is_some(), "has no error.{field}");
    }
    ensure!(data["error"]["type"].is_string(), "has no error.type");
    ensure!(
        next.is_some_and(|next| next.kind == "response.failed"),
        "is not followed by response.failed"
    );
    Ok(())
}
