//! Server-sent events from bytes that arrive in any pieces.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>. Other than
//! there, a last event without a blank line counts: some upstreams end so.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The largest event that is taken, unless another limit is given.
pub const DEFAULT_LIMIT_BYTES: usize = 16 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event with data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame<'a> {
    pub event: Option<Cow<'a, str>>,
    pub data: Cow<'a, str>,
}

/// An event was longer than the limit; the stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit_bytes} bytes")]
pub struct TooLong {
    pub limit_bytes: usize,
}

/// Takes bytes as they arrive and hands out events.
///
/// Events that lie whole in one piece are read where they are; only what is left over is copied.
#[derive(Debug)]
pub struct Decoder {
    limit_bytes: usize,
    /// The beginning of an event whose end has not arrived.
    rest: Vec<u8>,
    scan: Scan,
    at_start: bool,
}

/// How far an unfinished event was looked at, so that no byte is looked at twice.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    line_start: usize,
    searched: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_limit(DEFAULT_LIMIT_BYTES)
    }
}

impl Decoder {
    /// A decoder that refuses events of more than `limit_bytes`.
    pub fn with_limit(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            rest: Vec::new(),
            scan: Scan::default(),
            at_start: true,
        }
    }

    /// Takes the next bytes and calls `each` for every event that they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) -> Result<(), TooLong> {
        if self.rest.is_empty() {
            let consumed = self.frames(bytes, &mut each)?;
            self.rest.extend_from_slice(&bytes[consumed..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(bytes);
            let consumed = self.frames(&rest, &mut each)?;
            rest.drain(..consumed);
            self.rest = rest;
        }
        self.check(self.rest.len())
    }

    /// Calls `each` for the last event if the stream ended within it.
    pub fn finish(&mut self, mut each: impl FnMut(Frame<'_>)) {
        let rest = std::mem::take(&mut self.rest);
        self.scan = Scan::default();
        self.frame(&rest, &mut each);
    }

    /// Reads the events that are whole in `bytes` and returns where the first that is not begins.
    fn frames(&mut self, bytes: &[u8], each: &mut impl FnMut(Frame<'_>)) -> Result<usize, TooLong> {
        let mut start = 0;
        while let Some((end, next)) = self.scan.frame_end(&bytes[start..]) {
            self.check(end)?;
            self.frame(&bytes[start..start + end], each);
            start += next;
            self.scan = Scan::default();
        }
        Ok(start)
    }

    fn frame(&mut self, bytes: &[u8], each: &mut impl FnMut(Frame<'_>)) {
        let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
            Some(stripped) if self.at_start => stripped,
            _ => bytes,
        };
        self.at_start = false;
        if let Some(frame) = parse(bytes) {
            each(frame);
        }
    }

    fn check(&self, length: usize) -> Result<(), TooLong> {
        if length > self.limit_bytes {
            return Err(TooLong {
                limit_bytes: self.limit_bytes,
            });
        }
        Ok(())
    }
}

impl Scan {
    /// Where the event at the head of `bytes` ends and where the next one begins, if a blank line has arrived.
    ///
    /// A blank line is taken as soon as its first byte is there. Of a CRLF the LF is then left over and reads as one
    /// more blank line, which ends nothing.
    fn frame_end(&mut self, bytes: &[u8]) -> Option<(usize, usize)> {
        loop {
            let after_cr = self.line_start > 0 && bytes[self.line_start - 1] == b'\r';
            if after_cr && bytes.get(self.line_start) == Some(&b'\n') {
                self.line_start += 1;
                self.searched = self.line_start;
            }
            let Some(found) = memchr2(b'\n', b'\r', &bytes[self.searched..]) else {
                self.searched = bytes.len();
                return None;
            };
            let line_end = self.searched + found;
            if line_end == self.line_start {
                return Some((line_end, line_end + 1));
            }
            self.line_start = line_end + 1;
            self.searched = self.line_start;
        }
    }
}

/// The event in the lines of `bytes`, if they hold any data.
fn parse(mut bytes: &[u8]) -> Option<Frame<'_>> {
    let mut event = None;
    let mut data: Option<Cow<'_, str>> = None;
    while !bytes.is_empty() {
        let line = take_line(&mut bytes);
        let (name, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                let value = String::from_utf8_lossy(value);
                data = Some(match data {
                    None => value,
                    Some(before) => Cow::Owned(before.into_owned() + "\n" + &value),
                });
            }
            b"event" => event = Some(String::from_utf8_lossy(value)),
            _ => {}
        }
    }
    Some(Frame { event, data: data? })
}

fn take_line<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let Some(end) = memchr2(b'\n', b'\r', bytes) else {
        return std::mem::take(bytes);
    };
    let line = &bytes[..end];
    let is_crlf = bytes[end..].starts_with(b"\r\n");
    *bytes = &bytes[end + if is_crlf { 2 } else { 1 }..];
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Event = (Option<String>, String);

    fn decode<'a>(
        limit: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Event>, TooLong> {
        let mut decoder = Decoder::with_limit(limit);
        let mut events = Vec::new();
        let mut each = |frame: Frame<'_>| {
            events.push((frame.event.map(Cow::into_owned), frame.data.into_owned()));
        };
        for piece in pieces {
            decoder.push(piece, &mut each)?;
        }
        decoder.finish(&mut each);
        Ok(events)
    }

    #[test]
    fn events_are_read_however_they_are_spelled() {
        type Case<'a> = (&'a [u8], &'a [(Option<&'a str>, &'a str)]);
        let cases: &[Case<'_>] = &[
            (b"data: a\n\ndata: b\n\n", &[(None, "a"), (None, "b")]),
            (
                b"data: a\r\n\r\ndata: b\r\n\r\n",
                &[(None, "a"), (None, "b")],
            ),
            (b"data: a\r\rdata: b\r\r", &[(None, "a"), (None, "b")]),
            (
                b"event: x\r\ndata:a\r\ndata:  b\r\n\r\n",
                &[(Some("x"), "a\n b")],
            ),
            (b"data: a\ndata\ndata: b\n\n", &[(None, "a\n\nb")]),
            (
                b": ping\n\n\n\nid: 1\nretry: 5\nevent: none\n\ndata: a\n\n",
                &[(None, "a")],
            ),
            (b"\xEF\xBB\xBFdata: a\n\n", &[(None, "a")]),
            (b"\n\xEF\xBB\xBFdata: a\n\n", &[]),
            (b"data: a\n\ndata: [DONE]", &[(None, "a"), (None, "[DONE]")]),
            (
                b"data: a\n\nevent: b\ndata: b\r",
                &[(None, "a"), (Some("b"), "b")],
            ),
            (b"data: \xFFz\n\n", &[(None, "\u{FFFD}z")]),
            (b"data\n\n", &[(None, "")]),
            (b"", &[]),
        ];
        for (bytes, expected) in cases {
            let expected: Vec<Event> = expected
                .iter()
                .map(|(event, data)| (event.map(str::to_owned), (*data).to_owned()))
                .collect();
            assert_eq!(
                decode(64, [*bytes]).unwrap(),
                expected,
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn an_event_is_handed_out_with_the_first_byte_of_its_blank_line() {
        let mut decoder = Decoder::default();
        let mut seen = 0;
        decoder.push(b"data: a\r\n\r", |_| seen += 1).unwrap();

        assert_eq!(seen, 1);
    }

    #[test]
    fn an_event_beyond_the_limit_is_an_error_whole_or_in_pieces() {
        let bytes: &[u8] = b"data: 0123456789\n\n";

        assert_eq!(decode(16, [bytes]), Err(TooLong { limit_bytes: 16 }));
        assert_eq!(
            decode(16, bytes.chunks(1)),
            Err(TooLong { limit_bytes: 16 })
        );
        assert_eq!(
            decode(17, [bytes]),
            Ok(vec![(None, "0123456789".to_owned())])
        );
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(&b"data: "[..]),
            Just(&b"data:"[..]),
            Just(&b"event: x"[..]),
            Just(&b":"[..]),
            Just(&b" "[..]),
            Just(&b"\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"\n\n"[..]),
            Just("é😀".as_bytes()),
            Just(&b"\xFF"[..]),
            Just(BYTE_ORDER_MARK),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_events(
            bytes in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);

            let whole = decode(60, [bytes.as_slice()]);
            prop_assert_eq!(&decode(60, pieces), &whole);
            prop_assert_eq!(&decode(60, bytes.chunks(1)), &whole);
        }
    }
}
