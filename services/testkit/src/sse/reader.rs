//! Frames of an HTTP answer as they arrive.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};

use super::{Decoder, Frame};
use crate::deadline::{DEADLINE, within_duration};

/// Reads the frames of an HTTP answer; comments are kept aside.
pub struct Reader {
    /// The comment lines so far, without their colon.
    pub comments: Vec<String>,
    /// How long each frame is waited for.
    pub deadline: Duration,
    body: BoxStream<'static, anyhow::Result<Bytes>>,
    decoder: Decoder,
    ready: VecDeque<Frame>,
    ended: Option<Ended>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With the end of the body, after a blank line.
    Cleanly,
    /// With the end of the body, in the middle of a frame whose bytes these are.
    InsideFrame(Vec<u8>),
    /// With a broken connection.
    Broken(String),
}

impl Reader {
    /// Reads `response`, which must be a 200 with the content type of an event stream.
    pub async fn new(response: reqwest::Response) -> anyhow::Result<Self> {
        let status = response.status();
        let content_type = response.headers().get("content-type").cloned();
        let is_stream = content_type
            .as_ref()
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if status != 200 || !is_stream {
            let body = response.text().await.unwrap_or_default();
            bail!("no event stream but {status}, content type {content_type:?}: {body}");
        }
        let body = response.bytes_stream();
        Ok(Self::from_bytes(
            body.map(|chunk| chunk.context("reading the body")),
        ))
    }

    /// Reads any stream of bytes.
    pub fn from_bytes(body: impl Stream<Item = anyhow::Result<Bytes>> + Send + 'static) -> Self {
        Self {
            comments: Vec::new(),
            deadline: DEADLINE,
            body: body.boxed(),
            decoder: Decoder::default(),
            ready: VecDeque::new(),
            ended: None,
        }
    }

    /// The next frame, or none when the stream ended cleanly. Fails when it broke or nothing came in time.
    ///
    /// Giving up on the returned future loses nothing.
    pub async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        match self.next_or_end().await? {
            Ok(frame) => Ok(Some(frame)),
            Err(Ended::Cleanly) => Ok(None),
            Err(ended) => bail!("the stream did not end cleanly: {ended:?}"),
        }
    }

    /// Reads up to and including the first frame that `wanted` accepts.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> anyhow::Result<Vec<Frame>> {
        let mut frames: Vec<Frame> = Vec::new();
        while !frames.last().is_some_and(&wanted) {
            let next = self.next().await.with_context(|| describe(&frames))?;
            let ended_before =
                || format!("the stream ended before the frame; {}", describe(&frames));
            frames.push(next.with_context(ended_before)?);
        }
        Ok(frames)
    }

    /// Reads up to and including the first frame of the event `event`.
    pub async fn until_event(&mut self, event: &str) -> anyhow::Result<Vec<Frame>> {
        self.until(|frame| frame.event.as_deref() == Some(event))
            .await
            .with_context(|| format!("waiting for {event}"))
    }

    /// Reads the rest of a stream that must end cleanly.
    pub async fn collect(mut self) -> anyhow::Result<Vec<Frame>> {
        let (frames, ended) = self.collect_however_it_ends().await?;
        ensure!(
            ended == Ended::Cleanly,
            "the stream did not end cleanly: {ended:?}; {}",
            describe(&frames)
        );
        Ok(frames)
    }

    /// Reads the rest of the stream and says how it ended.
    pub async fn collect_however_it_ends(&mut self) -> anyhow::Result<(Vec<Frame>, Ended)> {
        let mut frames = Vec::new();
        loop {
            match self
                .next_or_end()
                .await
                .with_context(|| describe(&frames))?
            {
                Ok(frame) => frames.push(frame),
                Err(ended) => return Ok((frames, ended)),
            }
        }
    }

    async fn next_or_end(&mut self) -> anyhow::Result<Result<Frame, Ended>> {
        within_duration("the next frame", self.deadline, async {
            loop {
                if let Some(frame) = self.ready.pop_front() {
                    return Ok(frame);
                }
                if let Some(ended) = &self.ended {
                    return Err(ended.clone());
                }
                match self.body.next().await {
                    Some(Ok(bytes)) => {
                        let blocks = self.decoder.push(&bytes);
                        for block in blocks {
                            self.sort(block);
                        }
                    }
                    Some(Err(error)) => self.ended = Some(Ended::Broken(format!("{error:#}"))),
                    None if self.decoder.unfinished().is_empty() => {
                        self.ended = Some(Ended::Cleanly);
                    }
                    None => {
                        self.ended = Some(Ended::InsideFrame(self.decoder.unfinished().to_owned()));
                    }
                }
            }
        })
        .await
    }

    fn sort(&mut self, block: Frame) {
        let text = String::from_utf8_lossy(&block.raw).into_owned();
        let comments = text.lines().filter_map(|line| line.strip_prefix(':'));
        self.comments
            .extend(comments.map(|comment| comment.trim().to_owned()));
        if block.event.is_some() || block.data.is_some() {
            self.ready.push_back(block);
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reader")
            .field("comments", &self.comments)
            .field("ready", &self.ready)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

fn describe(frames: &[Frame]) -> String {
    let last = frames
        .last()
        .map(|frame| String::from_utf8_lossy(&frame.raw));
    format!("{} frames so far, the last was {last:?}", frames.len())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use futures::stream;

    use super::*;

    fn reader(chunks: Vec<anyhow::Result<&'static str>>) -> Reader {
        Reader::from_bytes(stream::iter(chunks).map(|chunk| chunk.map(Bytes::from)))
    }

    #[tokio::test]
    async fn comments_are_kept_aside() -> anyhow::Result<()> {
        let mut reader = reader(vec![Ok(": keep-alive\n\nda"), Ok("ta: 1\n\n:x\n\n")]);

        let (frames, ended) = reader.collect_however_it_ends().await?;

        assert_eq!(frames, super::super::frames(b"data: 1\n\n"));
        assert_eq!(ended, Ended::Cleanly);
        assert_eq!(reader.comments, ["keep-alive", "x"]);
        Ok(())
    }

    #[tokio::test]
    async fn reading_until_an_event_leaves_the_rest_for_later() -> anyhow::Result<()> {
        let mut reader = reader(vec![Ok("event: a\n\nevent: b\n\nevent: c\n\n")]);

        assert_eq!(reader.until_event("b").await?.len(), 2);

        assert_eq!(
            reader.collect().await?,
            super::super::frames(b"event: c\n\n")
        );
        Ok(())
    }

    #[tokio::test]
    async fn an_unclean_end_is_told_apart() -> anyhow::Result<()> {
        let mut cut = reader(vec![Ok("data: 1\n\ndata: 2\n")]);
        let mut broken = reader(vec![Ok("data: 1\n\n"), Err(anyhow!("reset"))]);

        let cut_end = cut.collect_however_it_ends().await?.1;
        let broken_end = broken.collect_however_it_ends().await?.1;

        assert_eq!(cut_end, Ended::InsideFrame(b"data: 2\n".to_vec()));
        assert_eq!(broken_end, Ended::Broken("reset".into()));
        assert!(broken.collect().await.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_with_what_came_before() {
        let silent = stream::iter([Ok(Bytes::from("event: a\n\n"))]).chain(stream::pending());
        let mut reader = Reader::from_bytes(silent);
        reader.deadline = Duration::from_millis(1);

        let waited = reader.until_event("b").await;

        let message = waited
            .map_err(|error| format!("{error:#}"))
            .err()
            .unwrap_or_default();
        assert!(
            message.contains("event: a") && message.contains("in vain"),
            "{message}"
        );
    }
}
