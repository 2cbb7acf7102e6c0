//! Reading a stream frame by frame, until its end, a break, or the moment to leave.

use std::time::Duration;

use serde_json::Value;
use talaria_testkit::sse::Decoder;
use tokio::time::timeout;

use super::{Client, PATIENCE};
use crate::history::What;

/// How a stream is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub op: u64,
    /// After how many bytes the client goes away.
    pub leaves: Option<usize>,
    pub slow: bool,
}

/// What a stream told.
#[derive(Clone, Debug, Default)]
pub struct Read {
    pub id: Option<String>,
    pub last: Option<u64>,
    /// The last event of the response was seen.
    pub over: bool,
}

impl Client {
    /// Reads a stream; what it showed is written down.
    pub(super) async fn read_stream(
        &mut self,
        mut answer: reqwest::Response,
        reading: Reading,
    ) -> Read {
        let op = reading.op;
        let mut decoder = Decoder::default();
        let mut read = Read::default();
        let mut comments = Vec::new();
        let mut done = false;
        let mut bytes = 0;
        let end = loop {
            if reading.leaves.is_some_and(|limit| bytes > limit) {
                break What::Left { op };
            }
            if reading.slow {
                let pause = self.random.millis(20, 400);
                tokio::time::sleep(pause).await;
            }
            let piece = match timeout(PATIENCE, answer.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => break What::Ended { op, done, comments },
                Ok(Err(error)) => {
                    break What::Broken {
                        op,
                        why: format!("{error:?}"),
                    };
                }
                Err(_) => {
                    break What::Broken {
                        op,
                        why: "silence".to_owned(),
                    };
                }
            };
            bytes += piece.len();
            for frame in decoder.push(&piece) {
                let text = String::from_utf8_lossy(&frame.raw).into_owned();
                let said = text.lines().filter_map(|line| line.strip_prefix(':'));
                comments.extend(said.map(|comment| comment.trim().to_owned()));
                if frame.is_done_mark() {
                    done = true;
                    continue;
                }
                let data = frame.json();
                let Some(seq) = data["sequence_number"].as_u64() else {
                    if frame.data.is_some() {
                        let why = format!("a frame without a number: {text}");
                        self.history.note(self.index, What::Broken { op, why });
                    }
                    continue;
                };
                read.last = Some(seq);
                if read.id.is_none() {
                    read.id = data["response"]["id"].as_str().map(str::to_owned);
                }
                read.over |= is_last(&data);
                let raw = frame.raw;
                self.history.note(self.index, What::Frame { op, seq, raw });
            }
        };
        // It may have gone away between the last event and the mark of the end.
        self.history.note(self.index, end);
        if !read.over {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        read
    }
}

/// Whether an event is the last of its response.
pub fn is_last(event: &Value) -> bool {
    matches!(
        event["type"].as_str(),
        Some("response.completed" | "response.failed" | "response.incomplete")
    )
}
