//! Reads a server's lines without ever holding a long one whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};

use super::oversized;

/// Passes lines on as they are, and those longer than `max_bytes` in a shortened form.
///
/// A message that is too long is usually the answer to a call. Were it dropped, its caller would wait for nothing
/// until the deadline.
#[derive(Debug)]
pub(super) struct BoundedLines<R> {
    inner: BufReader<R>,
    max_bytes: usize,
    line: Vec<u8>,
    /// Set while the line is too long.
    overflow: Option<Overflow>,
    /// A whole line that is being handed out from this position.
    whole: Vec<u8>,
    position: usize,
}

#[derive(Debug)]
struct Overflow {
    tail: Vec<u8>,
    total_bytes: u64,
}

impl<R: AsyncRead> BoundedLines<R> {
    pub(super) fn new(inner: R, max_bytes: usize) -> Self {
        Self {
            inner: BufReader::with_capacity(64 * 1024, inner),
            max_bytes,
            line: Vec::new(),
            overflow: None,
            whole: Vec::new(),
            position: 0,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match &mut self.overflow {
            Some(overflow) => overflow.take(bytes),
            None if self.line.len() + bytes.len() <= self.max_bytes => {
                self.line.extend_from_slice(bytes);
            }
            None => {
                let mut overflow = Overflow {
                    tail: Vec::new(),
                    total_bytes: 0,
                };
                overflow.take(&self.line);
                overflow.take(bytes);
                self.overflow = Some(overflow);
                self.line.extend_from_slice(bytes);
                self.line.truncate(oversized::HEAD_BYTES);
                self.line.shrink_to_fit();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.position = 0;
        self.whole = match self.overflow.take() {
            None => line,
            Some(Overflow { tail, total_bytes }) => {
                tracing::warn!(
                    bytes = total_bytes,
                    "a message of an MCP server is too long"
                );
                oversized::shortened(&line, &tail, total_bytes).unwrap_or_default()
            }
        };
        self.whole.push(b'\n');
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for BoundedLines<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            let left = &this.whole[this.position..];
            if !left.is_empty() {
                let length = left.len().min(buf.remaining());
                buf.put_slice(&left[..length]);
                this.position += length;
                return Poll::Ready(Ok(()));
            }
            this.whole = Vec::new();
            this.position = 0;

            let available = ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
            if available.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let newline = memchr::memchr(b'\n', available);
            let bytes = available[..newline.unwrap_or(available.len())].to_vec();
            Pin::new(&mut this.inner).consume(bytes.len() + usize::from(newline.is_some()));
            this.take(&bytes);
            if newline.is_some() {
                this.end_line();
            }
        }
    }
}

impl Overflow {
    fn take(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let last = &bytes[bytes.len().saturating_sub(oversized::TAIL_BYTES)..];
        self.tail.extend_from_slice(last);
        let excess = self.tail.len().saturating_sub(oversized::TAIL_BYTES);
        self.tail.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn lines_pass_and_long_ones_are_shortened() {
        let long = format!(
            r#"{{"jsonrpc":"2.0","id":7,"result":{{"content":[{{"type":"text","text":"{}"}}]}}}}"#,
            "x".repeat(3_000_000)
        );
        let input = format!("short\n\n{long}\nunended");
        let mut read = String::new();
        let mut lines = BoundedLines::new(input.as_bytes(), 1_500_000);
        lines.read_to_string(&mut read).await.unwrap();

        let lines: Vec<&str> = read.split('\n').collect();
        assert_eq!(
            (lines.len(), lines[0], lines[1], lines[3]),
            (4, "short", "", "")
        );
        let shortened: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!(shortened["id"], 7);
        assert_eq!(
            shortened["result"]["_meta"][oversized::TOTAL_KEY],
            long.len()
        );
        assert!(lines[2].len() <= oversized::HEAD_BYTES + 200);
    }
}
