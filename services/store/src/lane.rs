//! A lane of writes: many callers, few statements, one commit for all that waited.
//!
//! While one batch commits, the next one gathers by itself: a lone write never waits, and under load the batches grow.
//! Each kind of write has its own lane, so that beginnings and ends never wait behind deltas. A lane may also keep a
//! pace: writes that nobody is waiting for cost least when many of them share a statement.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::database::{Database, Error};

/// Writes of one batch at most, and their bytes.
const BATCH_WRITES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Writes that may wait for their batch.
const QUEUED_WRITES: usize = 4096;

/// A kind of write.
pub trait Write: Send + Sync + Sized + 'static {
    /// What can become of one.
    type Outcome: Send + 'static;

    /// Bytes that it writes, roughly.
    fn size_bytes(&self) -> usize;

    /// Writes all of them in one commit. Answers for each what became of it.
    fn write(
        database: &Database,
        batch: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, Error>> + Send;
}

/// What became of a write that the database took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable, by this call or an earlier one that it repeats.
    Stored,
    /// It does not fit what is stored; nothing of it was.
    Refused,
}

struct Job<W: Write> {
    write: W,
    reply: Reply<W>,
}

type Reply<W> = oneshot::Sender<Result<<W as Write>::Outcome, Arc<Error>>>;

/// Where writes of one kind are handed in.
pub struct Lane<W: Write> {
    jobs: async_channel::Sender<Job<W>>,
}

impl<W: Write> Lane<W> {
    /// Starts a lane with `writers` batches in flight at most, each of which begins one no sooner than `pace` after
    /// its last. It ends when it is closed, or its last handle is dropped.
    pub fn start(database: &Database, writers: usize, pace: Duration, tasks: &TaskTracker) -> Self {
        let (jobs, queue) = async_channel::bounded::<Job<W>>(QUEUED_WRITES);
        for _ in 0..writers {
            tasks.spawn(run(database.clone(), queue.clone(), pace));
        }
        Self { jobs }
    }

    /// Takes no more; what was handed in is still written.
    pub fn close(&self) {
        self.jobs.close();
    }

    /// Hands in a write, and answers when it is durable or refused.
    pub async fn write(&self, write: W) -> Result<W::Outcome, Arc<Error>> {
        let (reply, answer) = oneshot::channel();
        let closed = || Arc::new(Error::Deadline);
        self.jobs
            .send(Job { write, reply })
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Writes whoever still waits: one that waits no longer comes again, or was told that nothing is known of its write.
async fn run<W: Write>(database: Database, queue: async_channel::Receiver<Job<W>>, pace: Duration) {
    let mut next_begin = Instant::now();
    while let Ok(first) = queue.recv().await {
        if first.reply.is_closed() {
            continue;
        }
        tokio::time::sleep_until(next_begin).await;
        next_begin = Instant::now() + pace;
        let mut bytes = first.write.size_bytes();
        let (mut writes, mut replies) = (vec![first.write], vec![first.reply]);
        while writes.len() < BATCH_WRITES && bytes < BATCH_BYTES {
            let Ok(job) = queue.try_recv() else { break };
            if job.reply.is_closed() {
                continue;
            }
            bytes += job.write.size_bytes();
            writes.push(job.write);
            replies.push(job.reply);
        }
        match database.trip(W::write(&database, &writes)).await {
            Ok(outcomes) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Whoever asked may have gone meanwhile; the write stands all the same.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) if error.is_transient() || writes.len() == 1 => {
                let error = Arc::new(error);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
            Err(_) => write_apart(&database, writes, replies).await,
        }
    }
}

/// Writes each alone, so that the one that the database refuses does not take the others with it.
async fn write_apart<W: Write>(database: &Database, writes: Vec<W>, replies: Vec<Reply<W>>) {
    for (write, reply) in writes.into_iter().zip(replies) {
        let outcomes = database.trip(W::write(database, &[write])).await;
        let outcome = outcomes.map(|outcomes| outcomes.into_iter().next());
        if let Some(outcome) = outcome.transpose() {
            let _ = reply.send(outcome.map_err(Arc::new));
        }
    }
}
