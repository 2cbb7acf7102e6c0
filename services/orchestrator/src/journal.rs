//! Writing a run down, however long the store takes.

mod appends;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    AppendEventsRequest, ApprovalDecision, AwaitApprovalsRequest, FinishRunRequest,
    LoadContextRequest, LoadContextResponse,
};
use talaria_runtime::link::{Link, MAX_MESSAGE_BYTES};
use tonic::{Code, Status};

use self::appends::Appends;
use crate::admission::is_unknown;

/// How long one call to the store may take.
const CALL: Duration = Duration::from_secs(15);
/// How long a run waits for a store that is gone before it leaves the rest to another process.
pub const OUTAGE: Duration = Duration::from_mins(10);
/// Bytes of events above which an append goes by itself: then a call of its own is what costs least.
const GATHERED_BYTES: usize = 16 << 10;
/// Between two tries of a write at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A client of the store.
#[derive(Clone, Debug)]
pub struct Journal {
    client: StoreServiceClient<Link>,
    appends: Appends,
    /// The last write was not answered.
    unanswered: Arc<AtomicBool>,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Somebody else owns the run, or it has ended, or was deleted.
    #[error("the run is not ours to write: {}", .0.message())]
    Fenced(Status),
    #[error("the store did not come back within {} s", OUTAGE.as_secs())]
    Outage,
}

impl Journal {
    /// A journal, and what sends the appends that may wait for others: it has to be polled.
    pub fn new(link: Link) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let client = StoreServiceClient::new(link)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (appends, sending) = Appends::new(client.clone());
        let unanswered = Arc::default();
        let journal = Self {
            client,
            appends,
            unanswered,
        };
        (journal, sending)
    }

    /// The store's own calls, each with this deadline.
    pub fn client(&self) -> StoreServiceClient<Link> {
        self.client.clone()
    }

    /// Whether the last write of any run was answered: then the next most likely is, too.
    pub fn is_answered(&self) -> bool {
        !self.unanswered.load(Ordering::Relaxed)
    }

    /// Notes how a write was answered.
    pub fn note_answer<T>(&self, answer: &Result<T, Status>) {
        let unanswered = answer.as_ref().is_err_and(is_unknown);
        if self.unanswered.load(Ordering::Relaxed) != unanswered {
            self.unanswered.store(unanswered, Ordering::Relaxed);
        }
    }

    /// Appends events; returns when they are durable.
    ///
    /// An append is repeated until the store answers: it compares and sets, so a repetition changes nothing.
    pub async fn append(&self, append: AppendEventsRequest) -> Result<(), Lost> {
        self.insist(|| {
            let append = append.clone();
            async move {
                let bytes = append.events.as_ref().map_or(0, |e| e.encoded().len());
                if append.after_silence || bytes > GATHERED_BYTES {
                    self.client().append_events(append).await.map(drop)
                } else {
                    self.appends.append(append).await
                }
            }
        })
        .await
    }

    /// Writes the end of a run; returns when it is durable.
    pub async fn finish(&self, finish: FinishRunRequest) -> Result<(), Lost> {
        self.insist(|| self.finish_once(finish.clone())).await
    }

    /// The same in one try, without a deadline.
    pub async fn finish_once(&self, finish: FinishRunRequest) -> Result<(), Status> {
        self.client().finish_run(finish).await.map(drop)
    }

    /// Makes a run wait for people, as nobody's; or answers with what they decided.
    pub async fn await_approvals(
        &self,
        request: AwaitApprovalsRequest,
    ) -> Result<Vec<ApprovalDecision>, Lost> {
        self.insist(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move {
                let decided = client.await_approvals(request).await?;
                Ok(decided.into_inner().decisions)
            }
        })
        .await
    }

    /// Loads what a run starts from.
    pub async fn load_context(
        &self,
        request: LoadContextRequest,
    ) -> Result<LoadContextResponse, Status> {
        let mut client = self.client.clone();
        deadline(client.load_context(request))
            .await
            .map(tonic::Response::into_inner)
    }

    async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, Lost>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            // Boxed, because it is large and every run holds one.
            let answer = deadline(Box::pin(call())).await;
            self.note_answer(&answer);
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match status.code() {
                Code::Aborted | Code::NotFound => return Err(Lost::Fenced(status)),
                code if started.elapsed() > OUTAGE => {
                    tracing::error!(?code, "gave up writing to the store");
                    return Err(Lost::Outage);
                }
                code => {
                    tracing::warn!(?code, "writing to the store failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Bounds one call to the store.
pub async fn deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    within(CALL, call).await
}

/// Bounds one call to the store by a time of its own.
pub async fn within<T>(
    longest: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = || {
        Err(Status::deadline_exceeded(
            "the store did not answer in time",
        ))
    };
    tokio::time::timeout(longest, call)
        .await
        .unwrap_or_else(|_| late())
}
