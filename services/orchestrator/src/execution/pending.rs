//! A run that is executed before it is admitted: its first write is its admission.
//!
//! Nobody knows of such a run yet, so nothing is lost with it; and the model is asked meanwhile. One whose end alone is
//! waited for, and that ends in a moment, is written once instead of twice.

use talaria_proto::v1::{
    AdmitRunRequest, AppendEventsRequest, Event, EventChunk, FinishRunRequest,
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
    pub limit: Limit,
    /// Told as soon as it is decided.
    pub decided: oneshot::Sender<Result<(), Refusal>>,
}

impl Pending {
    /// Admits the run with its first events; returns when they are durable.
    pub async fn admit(
        self,
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
        tell(self.decided, admitted)
    }

    /// Admits the run and writes its end, both or neither: `events` are all it has. Returns when it is durable.
    pub async fn finish(
        self,
        journal: &Journal,
        events: &[Event],
        finish: FinishRunRequest,
    ) -> Result<(), Left> {
        let whole = FinishRunRequest {
            admission: Some(self.admission.clone()),
            ..finish.clone()
        };
        let finished = insist(journal, self.limit, || {
            let (mut client, whole) = (journal.client(), whole.clone());
            async move { client.finish_run(whole).await.map(drop) }
        });
        match finished.await {
            // A store of an earlier version does not see the admission, and knows of no such run.
            Err(refusal) if Reason::of(refusal.status()) == Some(Reason::RunLost) => {
                self.finish_in_two(journal, events, finish).await
            }
            finished => tell(self.decided, finished),
        }
    }

    async fn finish_in_two(
        self,
        journal: &Journal,
        events: &[Event],
        finish: FinishRunRequest,
    ) -> Result<(), Left> {
        let (first, last) = events.split_at(events.len().saturating_sub(1));
        let count = first.len() as u64;
        self.admit(journal, EventChunk::of(first), count).await?;
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
        // Whoever asked may have gone.
        let _ = self.decided.send(Err(Refusal::Refused(status)));
        Left::NotAdmitted {
            may_be_stored: false,
        }
    }
}

fn tell(
    decided: oneshot::Sender<Result<(), Refusal>>,
    admitted: Result<(), Refusal>,
) -> Result<(), Left> {
    let left = match &admitted {
        Ok(()) => Ok(()),
        Err(refusal) => Err(Left::NotAdmitted {
            may_be_stored: !matches!(refusal, Refusal::Refused(_)),
        }),
    };
    // Whoever asked may have gone.
    let _ = decided.send(admitted);
    left
}
