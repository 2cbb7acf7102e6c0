//! What clients did and saw, in the order in which it happened.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::plan::Plan;

/// One thing that a client did or saw.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Nanoseconds since the harness began.
    pub at_ns: u64,
    pub client: usize,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A request is sent.
    Sent {
        op: u64,
        gateway: usize,
        action: Action,
        response: Option<String>,
        run: Option<String>,
        key: Option<String>,
        /// What the run that it makes is to do.
        order: Option<Order>,
    },
    /// Its answer, with the body where it is not a stream.
    Answered {
        op: u64,
        status: u16,
        retry_after: bool,
        body: Value,
    },
    /// No answer, or not all of it.
    Broken { op: u64, why: String },
    /// A frame of the answer's stream.
    Frame {
        op: u64,
        seq: u64,
        #[serde(serialize_with = "as_text")]
        raw: Bytes,
    },
    /// The stream ended in an orderly way.
    Ended {
        op: u64,
        done: bool,
        comments: Vec<String>,
    },
    /// The client went away in the middle.
    Left { op: u64 },
}

/// What a request that makes a run asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    pub plan: Plan,
    /// `previous_response_id`
    pub previous: Option<String>,
    /// The name of a conversation.
    pub conversation: Option<String>,
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `POST /v1/responses` with `stream`.
    Stream,
    /// `POST /v1/responses` that is answered at the end.
    Wait,
    /// `POST /v1/responses` with `background`.
    Background,
    /// `GET …?stream=true`, after this number.
    Attach {
        after: Option<u64>,
    },
    Get,
    Cancel,
    Delete,
    Chat,
}

impl Action {
    /// Whether it makes a response.
    pub fn creates(self) -> bool {
        match self {
            Self::Stream | Self::Wait | Self::Background => true,
            Self::Attach { .. } | Self::Get | Self::Cancel | Self::Delete | Self::Chat => false,
        }
    }
}

/// All entries of an episode.
#[derive(Debug)]
pub struct History {
    started: Instant,
    ops: AtomicU64,
    entries: Mutex<Vec<Entry>>,
}

impl History {
    /// An empty history; times are counted from `started`.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            ops: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }

    /// A number for the next request.
    pub fn op(&self) -> u64 {
        self.ops.fetch_add(1, Ordering::Relaxed)
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn note(&self, client: usize, what: What) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that entries are in order.
        let at_ns = self.now_ns();
        entries.push(Entry {
            at_ns,
            client,
            what,
        });
    }

    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clone()
    }
}

/// Writes one JSON value a line.
pub fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for line in lines {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

fn as_text<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}
