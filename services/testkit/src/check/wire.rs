//! How events are written: the bytes of a frame, and the numbers.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::sse::Frame;

/// An event whose frame is well-formed and whose number is right.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) kind: String,
    number: u64,
    pub(super) data: Value,
}

impl Event {
    pub(super) fn describe(&self) -> String {
        format!("event {} ({})", self.number, self.kind)
    }

    /// A required member that is a string.
    pub(super) fn string(&self, field: &str) -> anyhow::Result<&str> {
        self.data[field]
            .as_str()
            .with_context(|| format!("{field} is not a string"))
    }

    /// A required member that is an index.
    pub(super) fn index(&self, field: &str) -> anyhow::Result<usize> {
        let index = self.data[field].as_u64();
        index
            .and_then(|index| usize::try_from(index).ok())
            .with_context(|| format!("{field} is not an index"))
    }
}

/// Reads events that are numbered from `first` on, and the end mark after them.
pub(super) fn read(frames: &[Frame], first: u64) -> anyhow::Result<Vec<Event>> {
    let Some((mark, frames)) = frames.split_last() else {
        bail!("the stream is empty");
    };
    ensure!(
        mark.raw == "data: [DONE]\n\n",
        "the stream does not end with `data: [DONE]` but with {:?}",
        mark.raw
    );
    let numbered = (first..).zip(frames);
    numbered
        .map(|(number, frame)| {
            read_event(frame, number).with_context(|| format!("frame {:?}", frame.raw))
        })
        .collect()
}

fn read_event(frame: &Frame, number: u64) -> anyhow::Result<Event> {
    ensure!(!frame.is_done_mark(), "the end mark comes before the end");
    let kind = frame.event.clone().context("there is no event line")?;
    let text = frame.data.as_deref().context("there is no data line")?;
    ensure!(
        frame.raw == format!("event: {kind}\ndata: {text}\n\n"),
        "the frame is not one event line, one data line and a blank line"
    );
    let data: Value = serde_json::from_str(text).context("the data is not JSON")?;
    ensure!(
        data["type"] == kind.as_str(),
        "the event line says {kind}, the data's type {}",
        data["type"]
    );
    ensure!(
        data["sequence_number"].as_u64() == Some(number),
        "sequence_number is {}, not {number}",
        data["sequence_number"]
    );
    Ok(Event { kind, number, data })
}
