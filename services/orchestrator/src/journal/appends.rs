//! Appends of all runs of this process, gathered into few calls of the store.
//!
//! A token of each of a hundred streams would be a hundred calls; what they do is the same for all. The store gathers
//! those of several processes once more.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{AppendBatchRequest, AppendEventsRequest};
use talaria_runtime::link::Link;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::within;

/// How long appends gather: a call, and the statement that comes of it, cost far more than an append in it. Longer, the
/// more there are, so that a few streams are quick and many are cheap: the shortest, more for each append, the longest.
const PACE: Duration = Duration::from_millis(5);
const PACE_EACH: Duration = Duration::from_micros(300);
const LONGEST_PACE: Duration = Duration::from_millis(15);
/// Appends of one call at most, and their bytes.
const BATCH_APPENDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Appends that may wait for a call.
const QUEUED: usize = 1024;
/// Calls under way at most: one that hangs must not keep the others.
const CALLS: usize = 8;
/// How long a call may take: most runs wait for it, and another store may answer. What it wrote all the same is found
/// when it is repeated.
const CALL: Duration = Duration::from_secs(4);

/// Where appends are handed in.
#[derive(Clone, Debug)]
pub struct Appends(mpsc::Sender<Job>);

#[derive(Debug)]
struct Job {
    append: AppendEventsRequest,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<(), Status>>;

impl Appends {
    /// Where to hand them in, and what sends them: it has to be polled, and ends when the last handle is dropped.
    pub fn new(client: StoreServiceClient<Link>) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, queue) = mpsc::channel(QUEUED);
        (Self(jobs), send_all(client, queue))
    }

    /// Hands in an append, and answers what the store answers. Dropping this takes it back, unless it was sent.
    pub async fn append(&self, append: AppendEventsRequest) -> Result<(), Status> {
        let gone = || Status::unavailable("the process stops");
        let (reply, answer) = oneshot::channel();
        let job = Job { append, reply };
        self.0.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn send_all(client: StoreServiceClient<Link>, mut queue: mpsc::Receiver<Job>) {
    let mut calls = FuturesUnordered::new();
    let mut first = None;
    let mut next_begin = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(()) = calls.next() => {}
            job = queue.recv(), if first.is_none() && calls.len() < CALLS => match job {
                Some(job) => first = Some(job),
                None => break,
            },
            () = tokio::time::sleep_until(next_begin), if first.is_some() => {
                let jobs = gather(first.take(), &mut queue);
                next_begin = Instant::now() + pace_after(jobs.len());
                calls.push(send(client.clone(), jobs));
            }
        }
    }
    while calls.next().await.is_some() {}
}

/// How long to gather after a call with so many appends.
fn pace_after(appends: usize) -> Duration {
    let appends = u32::try_from(appends).unwrap_or(u32::MAX);
    LONGEST_PACE.min(PACE + PACE_EACH.saturating_mul(appends))
}

/// `first` and what else waits, as much as one call holds; without those that nobody waits for any more.
fn gather(first: Option<Job>, queue: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = 0;
    let mut jobs = Vec::new();
    let mut next = first;
    while let Some(job) = next {
        if !job.reply.is_closed() {
            bytes += job.append.encoded_len();
            jobs.push(job);
        }
        let has_room = jobs.len() < BATCH_APPENDS && bytes < BATCH_BYTES;
        next = has_room.then(|| queue.try_recv().ok()).flatten();
    }
    jobs
}

/// Sends them in one call, and tells each what became of it.
async fn send(mut client: StoreServiceClient<Link>, jobs: Vec<Job>) {
    let (appends, mut replies): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .map(|job| (job.append, Some(job.reply)))
        .unzip();
    if appends.is_empty() {
        return;
    }
    let request = AppendBatchRequest { appends };
    let answer = match within(CALL, client.append_batch(request.clone())).await {
        Err(status) if status.code() == Code::Unimplemented => {
            each_by_itself(&client, request.appends, replies).await;
            return;
        }
        answer => answer,
    };
    // Whoever waited may have gone.
    match answer {
        Ok(answer) => {
            for failure in answer.into_inner().failures {
                let place = usize::try_from(failure.index).unwrap_or(usize::MAX);
                if let Some(reply) = replies.get_mut(place).and_then(Option::take) {
                    let _ = reply.send(Err(Status::new(Code::from(failure.code), failure.message)));
                }
            }
            for reply in replies.into_iter().flatten() {
                let _ = reply.send(Ok(()));
            }
        }
        Err(status) => {
            for reply in replies.into_iter().flatten() {
                let _ = reply.send(Err(Status::new(status.code(), status.message())));
            }
        }
    }
}

/// Sends each in a call of its own, to a store of an earlier version.
async fn each_by_itself(
    client: &StoreServiceClient<Link>,
    appends: Vec<AppendEventsRequest>,
    replies: Vec<Option<Reply>>,
) {
    let calls = appends.into_iter().zip(replies).map(|(append, reply)| {
        let mut client = client.clone();
        async move {
            let written = within(CALL, client.append_events(append)).await;
            if let Some(reply) = reply {
                let _ = reply.send(written.map(drop));
            }
        }
    });
    join_all(calls).await;
}
