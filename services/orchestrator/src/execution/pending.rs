//! A run that is executed before it is admitted: its first write is its admission.
//!
//! Nobody knows of such a run yet, so nothing is lost with it; and the model is asked meanwhile. One whose end alone is
//! waited for, and that ends in a moment, is written once instead of twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use talaria_proto::v1::{
    AdmitRunRequest, AppendEventsRequest, Event, EventChunk, FinishRunRequest, RunRequest,
};
use talaria_runtime::error::Reason;
use tokio::sync::oneshot;

use super::Left;
use crate::admission::{Limit, Refusal, insist};
use crate::journal::Journal;

/// An admission that has yet to be written.
#[derive(Debug)]
pub struct Pending {
    /// But for its events.
    pub admission: AdmitRunRequest,
    /// The events that go with it.
    pub first: Vec<Event>,
    pub limit: Limit,
    /// Told as soon as it is decided.
    pub decided: Decision,
}

/// Whoever waits for an admission to be decided.
#[derive(Debug)]
pub struct Decision {
    asked: oneshot::Sender<Result<(), Refusal>>,
    is_admitted: Arc<AtomicBool>,
}

impl Decision {
    /// One to be made, and where it is heard.
    pub fn new() -> (Self, oneshot::Receiver<Result<(), Refusal>>) {
        let (asked, decision) = oneshot::channel();
        let is_admitted = Arc::default();
        (Self { asked, is_admitted }, decision)
    }

    /// Set before anybody hears that the run is admitted.
    pub fn is_admitted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_admitted)
    }

    fn tell(self, admitted: Result<(), Refusal>) -> Result<(), Left> {
        let left = match &admitted {
            Ok(()) => Ok(()),
            Err(refusal) => Err(Left::NotAdmitted {
                may_be_stored: !matches!(refusal, Refusal::Refused(_)),
            }),
        };
        self.is_admitted.store(left.is_ok(), Ordering::Release);
        // Whoever asked may have gone.
        let _ = self.asked.send(admitted);
        left
    }
}

impl Pending {
    /// Admits the run with its first events; returns when they are durable.
    pub async fn admit(
        self,
        journal: &Journal,
        events: EventChunk,
        count: u64,
    ) -> Result<(), Left> {
        self.admit_after(false, journal, events, count).await
    }

    /// The same after a try that may have stored it, if there was one.
    async fn admit_after(
        self,
        maybe_stored: bool,
        journal: &Journal,
        events: EventChunk,
        count: u64,
    ) -> Result<(), Left> {
        let admission = AdmitRunRequest {
            events: Some(events),
            event_count: u32::try_from(count).unwrap_or(u32::MAX),
            ..self.admission
        };
        let admitted = insist(journal, self.limit, || {
            let (mut client, admission) = (journal.client(), admission.clone());
            async move { client.admit_run(admission).await.map(drop) }
        });
        let admitted = admitted.await;
        self.decided
            .tell(admitted.map_err(|refusal| refusal.after(maybe_stored)))
    }

    /// Admits the run and writes its end, both or neither: `events` are all it has. Returns when it is durable.
    pub async fn finish(
        mut self,
        journal: &Journal,
        events: &[Event],
        finish: FinishRunRequest,
    ) -> Result<(), Left> {
        // Only who executes a run needs its request.
        let request = self.admission.request.replace(RunRequest::default());
        let whole = FinishRunRequest {
            admission: Some(self.admission.clone()),
            ..finish
        };
        let finished = insist(journal, self.limit, || journal.finish_once(whole.clone()));
        match finished.await {
            // A store of an earlier version does not see the admission, and knows of no such run.
            Err(refusal) if Reason::of(refusal.status()) == Some(Reason::RunLost) => {
                let maybe_stored = !matches!(refusal, Refusal::Refused(_));
                self.admission.request = request;
                let finish = FinishRunRequest {
                    admission: None,
                    ..whole
                };
                self.finish_in_two(maybe_stored, journal, events, finish)
                    .await
            }
            finished => self.decided.tell(finished),
        }
    }

    async fn finish_in_two(
        self,
        maybe_stored: bool,
        journal: &Journal,
        events: &[Event],
        finish: FinishRunRequest,
    ) -> Result<(), Left> {
        let (first, last) = events.split_at(events.len().saturating_sub(1));
        let count = first.len() as u64;
        self.admit_after(maybe_stored, journal, EventChunk::of(first), count)
            .await?;
        let append = finish.append.map(|append| AppendEventsRequest {
            first_sequence_number: count,
            event_count: 1,
            events: Some(EventChunk::of(last)),
            ..append
        });
        let finish = FinishRunRequest { append, ..finish };
        journal.finish(finish).await.map_err(Left::Lost)
    }

    /// Gives the run up, whose admission was never begun.
    pub fn give_up(self) -> Left {
        let status = Reason::OrchestratorUnavailable.status("The server is stopping.");
        let refused = self.decided.tell(Err(Refusal::Refused(status)));
        refused.err().unwrap_or(Left::Released)
    }
}
