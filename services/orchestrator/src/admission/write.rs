//! Writing an admission down, and taking back one whose outcome stays unknown.

use std::time::Duration;

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{AdmitRunRequest, AdmitRunResponse, DeleteResponseRequest};
use talaria_runtime::error::Reason;
use talaria_runtime::link::is_unsent;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Limit, Refusal};
use crate::journal::{Journal, deadline};

/// How long an admission waits for a store that does not take it, before its last try.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a write which nobody waits for any more may still reach the database: two batches and a statement.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

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
            Err(status) if !is_unknown(&status) => return Err(Refusal::Refused(status)),
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
    if is_unknown(&status) && Reason::of(&status).is_none() {
        return Reason::StoreUnavailable.status("The store is not available right now.");
    }
    status
}

/// Whether a status leaves open what happened.
pub fn is_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}

/// Makes sure that a run whose admission was never answered does not exist. Goes on until the store says so.
///
/// That it is not there says nothing while the admission may still be on its way to the database.
pub async fn revoke(journal: &Journal, tenant: String, id: Uuid) {
    const LONGEST: Duration = Duration::from_hours(1);
    let started = tokio::time::Instant::now();
    let request = DeleteResponseRequest {
        tenant,
        response_id: ResponseId(id).to_string(),
    };
    while started.elapsed() < LONGEST {
        let mut client = journal.client();
        match deadline(client.delete_response(request.clone())).await {
            Ok(_) => return,
            Err(status) if !is_unknown(&status) && started.elapsed() > ON_ITS_WAY => return,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
