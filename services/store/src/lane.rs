//! A lane of work for the database: many callers, few statements, one trip for all that waited.
//!
//! While one batch is under way, the next one gathers by itself: a lone job never waits, and under load the batches
//! grow. Each kind of job has its own lane, so that beginnings and ends never wait behind deltas. A lane may also keep a
//! pace: writes that nobody is waiting for cost least when many of them share a statement.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::database::{DEADLINE, Database, Error};

/// Jobs of one batch at most, and their bytes.
const BATCH_JOBS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Jobs that may wait for their batch.
const QUEUED_JOBS: usize = 4096;

/// A kind of job.
pub trait Job: Send + Sync + Sized + 'static {
    /// What can become of one.
    type Outcome: Send + 'static;

    /// How long one batch may take.
    const LONGEST: Duration = DEADLINE;

    /// Bytes that it moves, roughly.
    fn size_bytes(&self) -> usize;

    /// Does all of them in one commit. Answers for each what became of it.
    fn run(
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

struct Waiting<J: Job> {
    job: J,
    reply: Reply<J>,
}

type Reply<J> = oneshot::Sender<Result<<J as Job>::Outcome, Arc<Error>>>;

/// Where jobs of one kind are handed in.
pub struct Lane<J: Job> {
    /// Boxed, because the queue has room for all from the beginning.
    queue: async_channel::Sender<Box<Waiting<J>>>,
}

impl<J: Job> Lane<J> {
    /// Starts a lane with `workers` batches in flight at most, each of which begins one no sooner than `pace` after
    /// its last. It ends when it is closed, or its last handle is dropped.
    pub fn start(database: &Database, workers: usize, pace: Duration, tasks: &TaskTracker) -> Self {
        let (sender, queue) = async_channel::bounded(QUEUED_JOBS);
        for _ in 0..workers {
            tasks.spawn(work(database.clone(), queue.clone(), pace));
        }
        Self { queue: sender }
    }

    /// Takes no more; what was handed in is still done.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Hands in a job, and answers when it is done or refused.
    pub async fn submit(&self, job: J) -> Result<J::Outcome, Arc<Error>> {
        let (reply, answer) = oneshot::channel();
        let closed = || Arc::new(Error::Deadline);
        self.queue
            .send(Box::new(Waiting { job, reply }))
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Does what is still waited for: whoever waits no longer comes again, or was told that nothing is known of it.
async fn work<J: Job>(
    database: Database,
    queue: async_channel::Receiver<Box<Waiting<J>>>,
    pace: Duration,
) {
    let mut next_begin = Instant::now();
    while let Ok(first) = queue.recv().await {
        if first.reply.is_closed() {
            continue;
        }
        tokio::time::sleep_until(next_begin).await;
        next_begin = Instant::now() + pace;
        let mut bytes = first.job.size_bytes();
        let (mut jobs, mut replies) = (vec![first.job], vec![first.reply]);
        while jobs.len() < BATCH_JOBS && bytes < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            if next.reply.is_closed() {
                continue;
            }
            bytes += next.job.size_bytes();
            jobs.push(next.job);
            replies.push(next.reply);
        }
        match database
            .trip_within(J::LONGEST, J::run(&database, &jobs))
            .await
        {
            Ok(outcomes) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Whoever asked may have gone meanwhile; what was done stands all the same.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) if error.is_transient() || jobs.len() == 1 => {
                let error = Arc::new(error);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
            Err(_) => do_apart(&database, jobs, replies).await,
        }
    }
}

/// Does each alone, so that the one that the database refuses does not take the others with it.
async fn do_apart<J: Job>(database: &Database, jobs: Vec<J>, replies: Vec<Reply<J>>) {
    for (job, reply) in jobs.into_iter().zip(replies) {
        let outcomes = database
            .trip_within(J::LONGEST, J::run(database, &[job]))
            .await;
        let outcome = outcomes.map(|outcomes| outcomes.into_iter().next());
        if let Some(outcome) = outcome.transpose() {
            let _ = reply.send(outcome.map_err(Arc::new));
        }
    }
}
