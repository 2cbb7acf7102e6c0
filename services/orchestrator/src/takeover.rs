//! Staying alive in the store's eyes, and taking over from those that did not.

use std::sync::Arc;
use std::time::Duration;

use talaria_domain::ids::ResponseId;
use talaria_domain::model::server_error;
use talaria_domain::run::{End, Run};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{
    ClaimRunsRequest, ClaimedRun, ContextItem, EndLeaseRequest, RenewLeaseRequest,
};
use talaria_runtime::clock;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::execution::{Execution, Left, Sink, Stored};
use crate::feed::Feed;
use crate::journal::{deadline, within};
use crate::service::Shared;

/// Runs that one claim brings, each with its whole log and context.
const CLAIM_AT_ONCE: usize = 8;
/// How often runs without an owner are looked for.
const CLAIM_EVERY: Duration = Duration::from_secs(1);

/// Renews this process's lease for as long as it is polled, and claims orphaned runs until the process drains.
///
/// Two loops, because reading what others left may take longer than a lease. Dropping it is harmless: what was claimed
/// and is not executed is claimed again.
pub async fn run(shared: Arc<Shared>) {
    tokio::join!(keep_lease(&shared), claim_orphans(&shared));
}

async fn keep_lease(shared: &Shared) {
    let every = shared.config.lease / 4;
    loop {
        match renew(shared, every).await {
            // Only the first time sets it.
            Ok(()) => drop(shared.registered.set(())),
            Err(status) => tracing::warn!(code = ?status.code(), "could not renew the lease"),
        }
        tokio::time::sleep(every).await;
    }
}

async fn renew(shared: &Shared, longest: Duration) -> Result<(), Status> {
    let request = RenewLeaseRequest {
        incarnation: shared.incarnation.to_string(),
        address: shared.config.address.clone(),
        lease_ms: u32::try_from(shared.config.lease.as_millis()).unwrap_or(u32::MAX),
    };
    let mut client = shared.journal.client();
    within(longest, client.renew_lease(request)).await.map(drop)
}

async fn claim_orphans(shared: &Arc<Shared>) {
    shared.registered.wait().await;
    let mut alone = shared.config.alone;
    while !shared.draining.is_cancelled() {
        if alone {
            alone = end_other_leases(shared).await.is_err();
        }
        if let Err(status) = claim(shared).await {
            tracing::warn!(code = ?status.code(), "could not look for orphaned runs");
        }
        tokio::time::sleep(CLAIM_EVERY.min(shared.config.lease / 4)).await;
    }
}

async fn end_other_leases(shared: &Shared) -> Result<(), Status> {
    let request = EndLeaseRequest {
        incarnation: String::new(),
        all_except: Some(shared.incarnation.to_string()),
    };
    deadline(shared.journal.client().end_lease(request))
        .await
        .map(drop)
}

/// Gives up this process's lease, so that whatever it leaves can be taken over at once.
pub async fn end_lease(shared: &Shared) {
    let incarnation = shared.incarnation.to_string();
    let request = EndLeaseRequest {
        incarnation,
        all_except: None,
    };
    if let Err(status) = deadline(shared.journal.client().end_lease(request)).await {
        tracing::warn!(code = ?status.code(), "could not end the lease");
    }
}

async fn claim(shared: &Arc<Shared>) -> Result<(), Status> {
    let free = shared.places.available_permits();
    if free == 0 {
        return Ok(());
    }
    let (executing, as_of) = shared.active.ids();
    let request = ClaimRunsRequest {
        owner: shared.incarnation.to_string(),
        limit: u32::try_from(free.min(CLAIM_AT_ONCE)).unwrap_or(1),
        executing: executing
            .into_iter()
            .map(|id| ResponseId(id).to_string())
            .collect(),
        executing_as_of: as_of.to_string(),
    };
    let claimed = deadline(shared.journal.client().claim_runs(request))
        .await?
        .into_inner();
    for run in claimed.runs {
        let id = run.response_id.clone();
        if let Err(reason) = take_over(shared, run) {
            tracing::error!(response.id = id, reason, "could not take a run over");
        }
    }
    Ok(())
}

/// Goes on with a claimed run in a task of its own.
fn take_over(shared: &Arc<Shared>, claimed: ClaimedRun) -> Result<(), String> {
    let id = ResponseId::parse(&claimed.response_id)
        .ok_or("its id is broken")?
        .0;
    let request = claimed.request.ok_or("it has no request")?;
    let mut snapshot = Snapshot::default();
    for chunk in &claimed.events {
        for event in chunk.events().map_err(|error| error.to_string())? {
            snapshot.apply(&event).map_err(|error| error.to_string())?;
        }
    }
    let parameters = if request.parameters.is_empty() {
        b"{}"
    } else {
        &request.parameters[..]
    };
    let parameters = serde_json::from_slice(parameters).map_err(|error| error.to_string())?;
    // An agent that is gone leaves its runs to the default one.
    let agent = shared
        .agents
        .select(&request.model)
        .or_else(|_| shared.agents.select(""));
    let agent = agent.map_err(|_| "there is no agent")?;
    let feed = Feed::new(snapshot.next_sequence_number());
    let input = |item| ContextItem {
        item,
        upstream_id: String::new(),
    };
    let stored = Stored {
        response_id: claimed.response_id.clone(),
        epoch: claimed.epoch,
        journal: shared.journal.clone(),
        feed: Arc::clone(&feed),
        tasks: shared.tasks.clone(),
    };
    let execution = Execution {
        agent,
        run: Run::resume(id, snapshot),
        starts: true,
        input: request.input.into_iter().map(input).collect(),
        turns: claimed.turns,
        instructions: request.instructions,
        parameters,
        watched: true,
        sink: Sink::Stored(stored),
        cancel: CancellationToken::new(),
        release: shared.release.clone(),
    };
    tracing::info!(
        response.id = claimed.response_id,
        attempt = claimed.attempt,
        "took the run over"
    );
    let given_up = claimed.attempt > shared.config.max_attempts;
    // A takeover beyond the limit is better than a run that waits.
    let place = Arc::clone(&shared.places).try_acquire_owned().ok();
    shared.execute(
        id,
        claimed.tenant,
        feed,
        execution,
        place,
        move |execution| async move {
            if given_up {
                give_up(execution).await
            } else {
                execution.execute(clock::unix_seconds).await
            }
        },
    );
    Ok(())
}

/// Ends a run that ended every process that had it.
async fn give_up(mut execution: Execution) -> Result<(), Left> {
    let message = "The run was given up: each process that executed it died (run_crashed).";
    execution
        .run
        .finish(&End::Failed(server_error(message)), clock::unix_seconds());
    let events = execution.run.take_events();
    let response = execution.run.snapshot().response();
    let turn = talaria_proto::v1::Turn {
        input: execution.input,
        output: execution.run.output(),
    };
    execution.sink.finish(&events, response, turn).await
}
