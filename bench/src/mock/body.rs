//! The body of a streamed answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Interval, interval_at};

use super::answer::Answer;

/// Sends an answer piece by piece: one a tick, or as fast as they are taken.
pub struct Streamed {
    answer: Arc<Answer>,
    next: usize,
    ticks: Option<Interval>,
}

impl Streamed {
    /// The first token goes out at once, each further one `pace` after the one before.
    pub fn new(answer: Arc<Answer>, pace: Duration) -> Self {
        Self {
            answer,
            next: 0,
            ticks: (!pace.is_zero()).then(|| interval_at(Instant::now() + pace, pace)),
        }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(piece) = this.answer.pieces.get(this.next) else {
            return Poll::Ready(None);
        };
        if let Some(ticks) = &mut this.ticks
            && this.next > 0
        {
            ready!(ticks.poll_tick(cx));
        }
        this.next += 1;
        Poll::Ready(Some(Ok(Frame::data(piece.clone()))))
    }
}
