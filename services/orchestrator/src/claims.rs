//! Looking for runs that are to be executed here, and for those of ours that are to stop.

use std::sync::Arc;
use std::time::Duration;

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{ClaimRunsRequest, ClaimRunsResponse};
use talaria_runtime::failpoint;
use tokio::time::Instant;
use tonic::Status;

use crate::journal::deadline;
use crate::lease;
use crate::service::Shared;
use crate::takeover::take_over;

/// Runs that one claim brings, each with its whole log and context. Few, so that all who have room take some.
const CLAIM_AT_ONCE: usize = 4;
/// How often claims are made when nothing asks for them.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// How long at least is between two claims, whatever asks for them.
const SHORTEST: Duration = Duration::from_millis(20);
/// How often runs that say nothing let go of what they said long ago.
const FORGET_EVERY: Duration = Duration::from_secs(5);

/// Claims runs for as long as it is polled; only word of those that are to stop once the process drains.
///
/// Dropping it is harmless: what was claimed and is not executed is claimed again.
pub async fn run(shared: &Arc<Shared>) {
    shared.registered.wait().await;
    let mut alone = shared.config.alone;
    let every = CLAIM_EVERY.min(shared.config.lease / 4);
    let mut forgot = Instant::now();
    loop {
        let started = Instant::now();
        if forgot + FORGET_EVERY < started {
            shared.active.forget_old_events();
            forgot = started;
        }
        if alone {
            alone = lease::end_others(shared).await.is_err();
        }
        match claim(shared).await {
            // Whoever left many runs has many readers, who wait.
            Ok(true) => continue,
            Ok(false) => {}
            Err(status) => {
                tracing::warn!(code = ?status.code(), "could not look for runs to execute");
            }
        }
        // That nobody asked for it in time is what happens most often.
        let _ = tokio::time::timeout(every, shared.nudge.notified()).await;
        tokio::time::sleep_until(started + SHORTEST).await;
    }
}

/// Claims what there is room for. Answers whether there may be more.
async fn claim(shared: &Arc<Shared>) -> Result<bool, Status> {
    // What is claimed while the lease may have run out is soon claimed again.
    let free = if shared.draining.is_cancelled() || !shared.fence.is_open() {
        0
    } else {
        shared.places.available_permits().min(CLAIM_AT_ONCE)
    };
    let (mut executing, as_of) = shared.active.ids();
    // Read after those that are active: a run that leaves is released first.
    executing.extend(shared.released.ids());
    let request = ClaimRunsRequest {
        owner: shared.incarnation.to_string(),
        limit: u32::try_from(free).unwrap_or(1),
        executing: executing
            .into_iter()
            .map(|id| ResponseId(id).to_string())
            .collect(),
        executing_as_of: as_of.to_string(),
        check_executing: false,
    };
    let ClaimRunsResponse {
        runs, cancelled, ..
    } = deadline(shared.journal.client().claim_runs(request))
        .await?
        .into_inner();
    for id in cancelled.iter().filter_map(|id| ResponseId::parse(id)) {
        shared.active.cancel(id.0);
    }
    let more = free > 0 && runs.len() >= free;
    for run in runs {
        let id = run.response_id.clone();
        failpoint::hit("seal.before").await;
        if let Err(reason) = take_over(shared, run) {
            tracing::error!(response.id = id, reason, "could not take a run over");
        }
    }
    Ok(more)
}
