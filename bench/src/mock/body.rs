//! The body of a streamed answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use super::answer::Answer;
use super::asked::Pace;

/// Sends an answer piece by piece: one a tick, or as fast as they are taken.
pub struct Streamed {
    answer: Arc<Answer>,
    next: usize,
    ticks: Option<Interval>,
    pace: Pace,
    /// While it pauses.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Streamed {
    /// The first token goes out at once, each further one a tick after the one before.
    pub fn new(answer: Arc<Answer>, pace: Pace) -> Self {
        let Pace { tick, .. } = pace;
        Self {
            answer,
            next: 0,
            ticks: (!tick.is_zero()).then(|| interval_at(Instant::now() + tick, tick)),
            pace,
            pause: None,
        }
    }

    /// Begins to pause if so many tokens have been sent; only once.
    fn begin_pause(&mut self) {
        let is_due = |at| self.next == at as usize;
        if self.pace.pause_at.is_some_and(is_due) {
            self.pace.pause_at = None;
            self.pause = Some(Box::pin(sleep(self.pace.pause)));
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
        this.begin_pause();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
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
