//! What the server does with one request, step by step.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

/// An answer: its head, and how its body comes.
///
/// A script without [`cut`](Self::cut) ends cleanly after its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The status of the answer.
    pub status: u16,
    /// The headers of the answer.
    pub headers: Vec<(String, String)>,
    /// What happens before the head is sent: pauses, gates, or a cut. Bytes are not possible here.
    pub before_head: Vec<Step>,
    /// What happens after the head.
    pub steps: Vec<Step>,
}

/// One step of a [`Script`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sends these bytes, as one write.
    Send(Bytes),
    /// Says nothing for this time.
    Pause(Duration),
    /// Says nothing until the test opens the gate of this name.
    Gate(String),
    /// Breaks the connection; what comes after it never happens.
    Cut,
}

impl Script {
    /// An event stream that says nothing yet.
    pub fn sse() -> Self {
        Self::answer(200, "text/event-stream; charset=utf-8")
    }

    /// A whole JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, "application/json").raw(body.to_string())
    }

    /// An error in the usual envelope.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let error = serde_json::json!({
            "message": message, "type": "scripted_error", "param": null, "code": code,
        });
        Self::json(status, &serde_json::json!({ "error": error }))
    }

    /// A connection that is closed without a byte of an answer.
    pub fn hang_up() -> Self {
        let mut script = Self::sse();
        script.before_head.push(Step::Cut);
        script
    }

    /// Sets a header of the answer, such as `retry-after`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Holds the whole answer, its head too, until the test opens `gate`.
    #[must_use]
    pub fn hold_head(mut self, gate: &str) -> Self {
        self.before_head.push(Step::Gate(gate.to_owned()));
        self
    }

    /// Sends raw bytes.
    #[must_use]
    pub fn raw(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    /// Sends an event with an `event` line.
    #[must_use]
    pub fn event(self, name: &str, data: &Value) -> Self {
        self.raw(format!("event: {name}\ndata: {data}\n\n"))
    }

    /// Sends an event without an `event` line.
    #[must_use]
    pub fn data(self, data: &Value) -> Self {
        self.raw(format!("data: {data}\n\n"))
    }

    /// Sends `data: [DONE]`.
    #[must_use]
    pub fn done_mark(self) -> Self {
        self.raw("data: [DONE]\n\n")
    }

    /// Says nothing for `duration`; nothing at all happens when it is zero.
    #[must_use]
    pub fn pause(self, duration: Duration) -> Self {
        if duration.is_zero() {
            return self;
        }
        self.step(Step::Pause(duration))
    }

    /// Says nothing until the test opens `gate`.
    #[must_use]
    pub fn gate(self, gate: &str) -> Self {
        self.step(Step::Gate(gate.to_owned()))
    }

    /// Breaks the connection after what was sent.
    #[must_use]
    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    fn answer(status: u16, content_type: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            before_head: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}
