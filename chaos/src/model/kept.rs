//! An answer as far as it has been said, for any number of readers.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::Trouble;

#[derive(Debug)]
pub struct Kept {
    pieces: Mutex<Vec<Bytes>>,
    /// How many there are, and whether these are all.
    progress: watch::Sender<(usize, bool)>,
    /// Before which piece the first reader meets what.
    breaks_at: Option<(usize, Trouble)>,
    has_broken: AtomicBool,
    cancelled: AtomicBool,
    readers: AtomicUsize,
}

/// A reader of an answer.
#[derive(Debug)]
pub struct Reader {
    kept: Arc<Kept>,
    progress: watch::Receiver<(usize, bool)>,
    next: usize,
}

impl Kept {
    pub fn new(breaks_at: Option<(usize, Trouble)>) -> Arc<Self> {
        Arc::new(Self {
            pieces: Mutex::default(),
            progress: watch::Sender::new((0, false)),
            breaks_at,
            has_broken: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            // The one who asked.
            readers: AtomicUsize::new(0),
        })
    }

    pub fn push(&self, piece: Bytes) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.push(piece);
        let count = pieces.len();
        drop(pieces);
        self.progress.send_replace((count, false));
    }

    pub fn end(&self) {
        self.progress.send_modify(|(_, all)| *all = true);
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether nobody reads it any more.
    pub fn is_left(&self) -> bool {
        self.readers.load(Ordering::Relaxed) == 0
    }

    pub fn read(self: &Arc<Self>, from: usize) -> Reader {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reader {
            kept: Arc::clone(self),
            progress: self.progress.subscribe(),
            next: from,
        }
    }
}

impl Reader {
    /// The next piece; an error where the connection is to break.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some((place, trouble)) = self.kept.breaks_at
            && self.next >= place
            && !self.kept.has_broken.swap(true, Ordering::Relaxed)
        {
            match trouble {
                Trouble::Hang => return std::future::pending().await,
                Trouble::Cut | Trouble::Error | Trouble::Busy => {
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let wanted = self.next;
        let (count, _) = *self
            .progress
            .wait_for(|(count, all)| *count > wanted || *all)
            .await
            .ok()?;
        let pieces = self
            .kept
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let piece = pieces.get(self.next..count)?.first()?.clone();
        self.next += 1;
        Some(Ok(piece))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.kept.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
