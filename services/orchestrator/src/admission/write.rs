//! Writing an admission down.

use std::time::Duration;

use talaria_proto::v1::{AdmitRunRequest, AdmitRunResponse};
use talaria_runtime::error::{Reason, is_unheard};
use talaria_runtime::link::is_unsent;
use tonic::{Code, Status};

use super::{Limit, Refusal};
use crate::journal::Journal;

/// How long an admission waits for a store that does not take it, before its last try.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Writes the run down; repeats itself while the store does not say what became of it, or cannot take it.
pub async fn write(
    journal: &Journal,
    admission: AdmitRunRequest,
    limit: Limit,
) -> Result<AdmitRunResponse, Refusal> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(20);
    let mut maybe_stored = false;
    loop {
        let mut client = journal.client();
        let call = client.admit_run(admission.clone());
        let status = match limit.call(call).await {
            Ok(admitted) => return Ok(admitted.into_inner()),
            Err(status) if !is_unknown(&status) => {
                return Err(Refusal::Refused(status).after(maybe_stored));
            }
            Err(status) => status,
        };
        maybe_stored |= Reason::of(&status) != Some(Reason::StoreRefused) && !is_unsent(&status);
        if started.elapsed() > PATIENCE || limit.left().is_zero() {
            let status = store_status(status);
            return Err(if maybe_stored {
                Refusal::Unknown(status)
            } else {
                Refusal::Refused(status)
            });
        }
        tokio::time::sleep(pause.min(limit.left())).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// A store that did not answer, as callers are told of it.
pub fn store_status(status: Status) -> Status {
    if is_unheard(&status) {
        return Reason::StoreUnavailable.status("The store is not available right now.");
    }
    status
}

/// Whether a status leaves open what happened.
pub fn is_unknown(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_unheard(status)
}
