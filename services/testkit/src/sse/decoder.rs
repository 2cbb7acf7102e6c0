//! Where a block of a stream ends, and what it says.

use bytes::{Bytes, BytesMut};

use super::Frame;

/// Cuts a byte stream into blocks, however it is chunked.
///
/// Lines end with LF or CRLF. Blocks that hold only comments come out too, with neither event nor data.
#[derive(Debug, Default)]
pub struct Decoder {
    unread: BytesMut,
    /// How much of `unread` was searched for a blank line already.
    searched: usize,
}

impl Decoder {
    /// Takes the next bytes and returns the blocks that they finish.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.unread.extend_from_slice(bytes);
        let mut blocks = Vec::new();
        while let Some(end) = self.next_block_end() {
            blocks.push(parse(self.unread.split_to(end).freeze()));
        }
        blocks
    }

    /// The bytes of the block that is not finished.
    pub fn unfinished(&self) -> &[u8] {
        &self.unread
    }

    fn next_block_end(&mut self) -> Option<usize> {
        let mut line_start = self.searched;
        while let Some(length) = self.unread[line_start..]
            .iter()
            .position(|&byte| byte == b'\n')
        {
            let next_line = line_start + length + 1;
            if matches!(&self.unread[line_start..next_line], b"\n" | b"\r\n") {
                self.searched = 0;
                return Some(next_line);
            }
            line_start = next_line;
        }
        self.searched = line_start;
        None
    }
}

fn parse(raw: Bytes) -> Frame {
    let text = String::from_utf8_lossy(&raw);
    let mut event = None;
    let mut data: Option<String> = None;
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event = Some(value.to_owned()),
            "data" => match &mut data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
    Frame { raw, event, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": hi\n\nevent: a\ndata: 1\n\ndata:2\r\ndata: 3\r\n\r\n:c\nevent: b\ndata: \xc3\xa4\n\nevent: cut";

    fn decode(chunk_size: usize) -> (Vec<Frame>, Vec<u8>) {
        let mut decoder = Decoder::default();
        let blocks = STREAM
            .chunks(chunk_size)
            .flat_map(|chunk| decoder.push(chunk))
            .collect();
        (blocks, decoder.unfinished().to_owned())
    }

    fn frame(raw: &'static [u8], event: Option<&str>, data: Option<&str>) -> Frame {
        Frame {
            raw: Bytes::from_static(raw),
            event: event.map(Into::into),
            data: data.map(Into::into),
        }
    }

    #[test]
    fn blocks_come_out_the_same_however_the_stream_is_chunked() {
        let expected = vec![
            frame(b": hi\n\n", None, None),
            frame(b"event: a\ndata: 1\n\n", Some("a"), Some("1")),
            frame(b"data:2\r\ndata: 3\r\n\r\n", None, Some("2\n3")),
            frame(b":c\nevent: b\ndata: \xc3\xa4\n\n", Some("b"), Some("ä")),
        ];
        for chunk_size in [1, 2, 3, 7, 20, STREAM.len()] {
            assert_eq!(
                decode(chunk_size),
                (expected.clone(), b"event: cut".to_vec())
            );
        }
    }
}
