//! Writing an admission down.

use std::time::Duration;

use talaria_runtime::error::{Reason, is_unheard};
use talaria_runtime::link::is_unsent;
use tonic::{Code, Status};

use super::{Limit, Refusal};
use crate::journal::Journal;

/// How long an admission waits for a store that does not take it, before its last try.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a call that admits a run; repeats it while the store does not say what became of it, or cannot take it.
pub async fn insist<T, F>(
    journal: &Journal,
    limit: Limit,
    call: impl Fn() -> F,
) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Status>>,
{
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(20);
    let mut maybe_stored = false;
    loop {
        let answer = limit.call(call()).await;
        journal.note_answer(&answer);
        let status = match answer {
            Ok(admitted) => return Ok(admitted),
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
