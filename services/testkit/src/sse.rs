//! Reading server-sent events as a client does, without losing a byte of them.

mod decoder;
mod reader;

use bytes::Bytes;
use serde_json::Value;

pub use decoder::Decoder;
pub use reader::{Ended, Reader};

/// One block of a stream, up to and including its blank line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What was on the wire.
    pub raw: Bytes,
    /// The last `event` line.
    pub event: Option<String>,
    /// The `data` lines, joined by newlines.
    pub data: Option<String>,
}

impl Frame {
    /// Whether this is the end mark `data: [DONE]`.
    pub fn is_done_mark(&self) -> bool {
        self.data.as_deref() == Some("[DONE]")
    }

    /// The data as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        self.data
            .as_deref()
            .and_then(|data| serde_json::from_str(data).ok())
            .unwrap_or(Value::Null)
    }
}

/// Splits `bytes` into frames; comments and what comes after the last blank line are left out.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let blocks = Decoder::default().push(bytes);
    blocks
        .into_iter()
        .filter(|block| block.data.is_some() || block.event.is_some())
        .collect()
}
