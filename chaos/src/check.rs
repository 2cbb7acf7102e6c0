//! Turns what clients, the database, the model and the tools saw into violated invariants.

mod conversations;
mod execution;
mod identity;
mod logs;
mod streams;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::history::Entry;
use crate::model::Call;
use crate::tools::Execution;

pub use self::view::View;

/// Something that must never happen, and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// As `docs/reliability.md` numbers them.
    pub invariant: &'static str,
    pub response: Option<String>,
    pub what: String,
}

impl Violation {
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self {
            invariant,
            response: None,
            what: what.into(),
        }
    }

    /// Says which response it is about.
    #[must_use]
    pub fn of(mut self, response: &str) -> Self {
        self.response = Some(response.to_owned());
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let response = self.response.as_deref().unwrap_or("-");
        write!(formatter, "{} {response}: {}", self.invariant, self.what)
    }
}

/// A response's row at the end of an episode.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: Uuid,
    pub status: i16,
    pub epoch: i32,
    pub next_seq: i64,
    pub conversation: Option<Uuid>,
    pub parent_turn: Option<Uuid>,
    /// First and last number, and epoch, of each chunk of the log.
    pub chunks: Vec<(i64, i64, i32)>,
}

/// What one gateway shows of a response at the end.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Status and body of `GET /v1/responses/{id}`.
    pub object: (u16, Value),
    /// The whole stream; an error if it could not be read to its end.
    pub log: Result<Vec<Bytes>, String>,
}

/// A conversation at the end.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub id: Uuid,
    pub latest_completed: Option<Uuid>,
    pub head_turn: Option<Uuid>,
}

/// Everything that is known of an episode.
#[derive(Debug, Default)]
pub struct Facts {
    pub entries: Vec<Entry>,
    pub calls: Vec<Call>,
    pub executions: Vec<Execution>,
    pub rows: Vec<Row>,
    /// Parents of turns.
    pub turns: HashMap<Uuid, Option<Uuid>>,
    pub conversations: Vec<Conversation>,
    /// The runs of responses that no client heard of, by what they were made from.
    pub inputs: HashMap<String, String>,
    /// By response, what each gateway shows.
    pub shown: HashMap<String, Vec<Shown>>,
    /// What was done to gateways: clients' connections have no other reason to break.
    pub touches: Vec<Touch>,
}

/// Something was done to a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    pub gateway: usize,
    /// When it began and when it was over.
    pub from_ns: u64,
    pub to_ns: u64,
    /// The gateway was asked to end, which ends streams without their last event.
    pub drains: bool,
}

/// All violated invariants.
pub fn check(facts: &Facts) -> Vec<Violation> {
    let view = View::of(facts);
    let mut violations = Vec::new();
    identity::check(facts, &view, &mut violations);
    streams::check(facts, &view, &mut violations);
    logs::check(facts, &view, &mut violations);
    execution::check(facts, &view, &mut violations);
    conversations::check(facts, &view, &mut violations);
    violations
}

/// A response's id as clients see it.
pub fn response_id(id: Uuid) -> String {
    format!("resp_{}", id.simple())
}
