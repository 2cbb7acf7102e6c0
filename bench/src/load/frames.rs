//! Reads a stream of response events, only as closely as is needed to know that nothing is missing.

use std::sync::LazyLock;

use anyhow::{Context, bail, ensure};
use memchr::memmem::{Finder, find};

const DELTA: &[u8] = b"response.output_text.delta";
const COMPLETED: &[u8] = b"response.completed";
/// Never matches inside a JSON string, where quotes are escaped.
static NUMBER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"sequence_number\":"));
static ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"id\":\""));
static FRAME_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\n"));

/// What has been seen of one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frames {
    pub events: u64,
    pub deltas: u32,
    /// As which response the first event names it.
    pub response_id: Option<String>,
    completed: bool,
    done: bool,
    /// The kinds of all events that are no deltas, for the message when something is wrong.
    others: String,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes of the stream. Fails at the first gap.
    pub fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let taken = self.take_frames(bytes)?;
            self.rest.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.rest);
        let searched = joined.len().saturating_sub(1);
        joined.extend_from_slice(bytes);
        // A frame may be long, and come in many pieces.
        if FRAME_END.find(&joined[searched..]).is_some() {
            let taken = self.take_frames(&joined)?;
            joined.drain(..taken);
        }
        self.rest = joined;
        Ok(())
    }

    /// The connection was given up: what follows comes over another, from the next event on.
    pub fn cut(&mut self) {
        self.rest.clear();
    }

    /// Whether the stream is complete, with this number of deltas.
    pub fn finish(&self, deltas: u32) -> anyhow::Result<()> {
        ensure!(
            self.completed && self.done && self.rest.is_empty(),
            "the stream ended after {} events without response.completed and [DONE]; besides deltas it had{}",
            self.events,
            self.others
        );
        ensure!(
            self.deltas == deltas,
            "the stream had {} deltas instead of {deltas}, and besides them{}",
            self.deltas,
            self.others
        );
        Ok(())
    }

    fn take_frames(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut taken = 0;
        while let Some(length) = FRAME_END.find(&bytes[taken..]) {
            self.take(&bytes[taken..taken + length])?;
            taken += length + b"\n\n".len();
        }
        Ok(taken)
    }

    fn take(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        if frame.starts_with(b":") {
            return Ok(());
        }
        ensure!(!self.done, "something came after [DONE]");
        if frame == b"data: [DONE]" {
            self.done = true;
            return Ok(());
        }
        let named = frame
            .strip_prefix(b"event: ")
            .and_then(|rest| Some((rest, find(rest, b"\ndata: ")?)));
        let Some((rest, end)) = named else {
            bail!("not a frame: {}", String::from_utf8_lossy(frame));
        };
        let (kind, data) = rest.split_at(end);
        let number = sequence_number(data).context("an event without a sequence number")?;
        ensure!(
            number == self.events,
            "the event {} has the sequence number {number}",
            self.events
        );
        ensure!(!self.completed, "an event came after response.completed");
        if number == 0 {
            self.response_id = response_id(data).map(str::to_owned);
        }
        self.events += 1;
        if kind == DELTA {
            self.deltas += 1;
        } else {
            self.others.push(' ');
            self.others.push_str(&String::from_utf8_lossy(kind));
        }
        self.completed = kind == COMPLETED;
        Ok(())
    }
}

fn sequence_number(data: &[u8]) -> Option<u64> {
    let digits = &data[NUMBER.find(data)? + NUMBER.needle().len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// The first id in the data of `response.created`.
fn response_id(data: &[u8]) -> Option<&str> {
    let id = &data[ID.find(data)? + ID.needle().len()..];
    let end = id.iter().position(|&byte| byte == b'"')?;
    str::from_utf8(&id[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::answer::Text;
    use crate::mock::responses;

    fn seen(pieces: &[&[u8]]) -> anyhow::Result<Frames> {
        let mut frames = Frames::default();
        for piece in pieces {
            frames.feed(piece)?;
        }
        Ok(frames)
    }

    #[test]
    fn a_complete_stream_is_complete_however_it_is_cut() {
        let stream = responses::answer(Text::plain(3)).pieces.concat();
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);

            let frames = seen(&[a, b]).unwrap();

            frames.finish(3).unwrap();
            assert_eq!(frames.events, 11);
            let id = "resp_0123456789abcdef0123456789abcdef0123456789abcdef";
            assert_eq!(frames.response_id.as_deref(), Some(id));
        }
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let stream = String::from_utf8(responses::answer(Text::plain(3)).pieces.concat()).unwrap();
        let complaint = |stream: &str| {
            seen(&[stream.as_bytes()])
                .and_then(|frames| frames.finish(3))
                .unwrap_err()
                .to_string()
        };
        let frames: Vec<_> = stream.split_inclusive("\n\n").collect();
        let without = |index: usize| {
            let mut frames = frames.clone();
            frames.remove(index);
            complaint(&frames.concat())
        };

        assert_eq!(without(5), "the event 5 has the sequence number 6");
        for (cut, events) in [(frames.len() - 1, 11), (frames.len() - 2, 10)] {
            let expected =
                format!("the stream ended after {events} events without response.completed and");
            assert!(without(cut).starts_with(&expected), "{}", without(cut));
        }
        assert_eq!(
            complaint(&format!("{stream}event: x\ndata: {{}}\n\n")),
            "something came after [DONE]"
        );
        let failed = stream.replace("event: response.completed", "event: response.failed");
        assert!(complaint(&failed).ends_with("response.output_item.done response.failed"));
        let other = String::from_utf8(responses::answer(Text::plain(2)).pieces.concat()).unwrap();
        assert!(complaint(&other).starts_with(
            "the stream had 2 deltas instead of 3, and besides them response.created "
        ));
    }

    #[test]
    fn a_stream_goes_on_over_another_connection() {
        let stream = responses::answer(Text::plain(3)).pieces.concat();
        let text = String::from_utf8(stream.clone()).unwrap();
        let fifth = text.match_indices("event: ").nth(5).unwrap().0;

        let mut frames = seen(&[&stream[..fifth + 20]]).unwrap();
        frames.cut();
        assert_eq!(frames.events, 5);
        frames.feed(&stream[fifth..]).unwrap();

        frames.finish(3).unwrap();
    }

    #[test]
    fn comments_are_passed_over() {
        let stream = responses::answer(Text::plain(0)).pieces.concat();

        let frames = seen(&[b": keepalive\n\n", &stream]).unwrap();

        frames.finish(0).unwrap();
    }
}
