//! Staying alive in the store's eyes.
//!
//! Renewals have a thread of their own, and a connection: nothing that runs do can keep them waiting.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    ClaimRunsRequest, EndLeaseRequest, Peer, ReleaseRunsRequest, RenewLeaseRequest,
};
use talaria_runtime::clock;
use talaria_runtime::dial::is_of_one_process;
use talaria_runtime::failpoint;
use talaria_runtime::link::Link;
use talaria_runtime::machine;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::journal::{OUTAGE, deadline, within};
use crate::service::Shared;

/// The longest pause after a renewal that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is tried to hand runs over; then it takes until the lease ends.
const RELEASES: u32 = 5;

/// The thread that renews the lease. Its end can be awaited.
#[derive(Debug)]
pub struct Keeper {
    ended: oneshot::Receiver<()>,
}

impl Keeper {
    /// Starts to renew the lease of `shared` through the link that `store` makes, until the process is idle.
    pub fn start<E>(
        shared: &Arc<Shared>,
        store: impl FnOnce() -> Result<Link, E> + Send + 'static,
    ) -> std::io::Result<Self>
    where
        E: std::fmt::Display,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ending, ended) = oneshot::channel();
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                let idle = shared.idle.clone();
                runtime.block_on(idle.run_until_cancelled(async {
                    match store() {
                        Ok(store) => keep(&shared, StoreServiceClient::new(store)).await,
                        Err(error) => tracing::error!(%error, "the lease cannot be renewed"),
                    }
                }));
                // The connections of a store of this process that it opened go with it: before others are told, so that
                // nobody takes one that is going. What may still be looked up is not waited for.
                runtime.shutdown_background();
                // Whoever waits may have given up.
                let _ = ending.send(());
            })?;
        Ok(Self { ended })
    }

    /// Returns when the thread has ended.
    pub async fn ended(self) {
        // It says so, or has gone without.
        let _ = self.ended.await;
    }
}

async fn keep(shared: &Shared, mut store: StoreServiceClient<Link>) {
    let every = shared.config.lease / 4;
    let machine = machine::identity().unwrap_or_default();
    loop {
        let started = clock::since_boot();
        let kept = match renew(shared, &mut store, &machine, every).await {
            Ok(peers) => {
                shared.peers.send_replace(peers);
                // Only the first time sets it.
                let _ = shared.registered.set(());
                if shared.fence.renewed(started) {
                    look_after_runs(shared, &mut store, every).await
                } else {
                    Ok(())
                }
            }
            Err(status) => Err(status),
        };
        if let Err(status) = &kept {
            tracing::warn!(code = ?status.code(), "could not renew the lease");
            if shared.fence.age().is_some_and(|age| age > OUTAGE) {
                shared.active.leave_all();
            }
        }
        let pause = if kept.is_ok() {
            every
        } else {
            RETRY.min(every / 2)
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(
    shared: &Shared,
    store: &mut StoreServiceClient<Link>,
    machine: &str,
    longest: Duration,
) -> Result<Vec<Peer>, Status> {
    if failpoint::hit("lease.renew").await {
        return Err(Status::unavailable("a failpoint"));
    }
    let address = shared.config.address.clone();
    let request = RenewLeaseRequest {
        incarnation: shared.incarnation.to_string(),
        lease_ms: u32::try_from(shared.config.lease.as_millis()).unwrap_or(u32::MAX),
        // This process listens there, so no other of this machine does; once it is registered, all that come later say the
        // same of it.
        has_address_alone: !shared.registered.initialized() && is_of_one_process(&address),
        address,
        machine: machine.to_owned(),
    };
    let renewed = within(longest, store.renew_lease(request)).await?;
    Ok(renewed.into_inner().peers)
}

/// Finds out which runs were lost while the lease could not be relied on, has them left, and lets the others go on.
async fn look_after_runs(
    shared: &Shared,
    store: &mut StoreServiceClient<Link>,
    longest: Duration,
) -> Result<(), Status> {
    let executing = shared.active.executing();
    let request = ClaimRunsRequest {
        owner: shared.incarnation.to_string(),
        limit: 0,
        executing: executing
            .into_iter()
            .map(|id| ResponseId(id).to_string())
            .collect(),
        check_executing: true,
        ..Default::default()
    };
    let found = within(longest, store.claim_runs(request))
        .await?
        .into_inner();
    let lost = found.lost.iter().filter_map(|id| ResponseId::parse(id));
    for id in lost {
        tracing::info!(response.id = %id, "lost the run while the lease could not be renewed");
        shared.active.leave(id.0);
    }
    shared.fence.reopen();
    // None were claimed while it was closed.
    shared.nudge.notify_one();
    Ok(())
}

/// Ends the leases of all other processes: only where none can be alive.
pub async fn end_others(shared: &Shared) -> Result<(), Status> {
    let request = EndLeaseRequest {
        all_except: Some(shared.incarnation.to_string()),
        ..Default::default()
    };
    deadline(shared.journal.client().end_lease(request))
        .await
        .map(drop)
}

/// Gives up this process's lease, so that whatever it leaves can be taken over at once.
pub async fn end(shared: &Shared) {
    let request = EndLeaseRequest {
        incarnation: shared.incarnation.to_string(),
        ..Default::default()
    };
    if let Err(status) = deadline(shared.journal.client().end_lease(request)).await {
        tracing::warn!(code = ?status.code(), "could not end the lease");
    }
}

/// Hands over what this process has left: all runs that there are at that moment.
pub async fn release(shared: &Shared) {
    let Ok(_turn) = shared.released.turn.acquire().await else {
        return;
    };
    let runs = shared.released.take();
    if runs.is_empty() {
        return;
    }
    for attempt in 1..=RELEASES {
        let request = ReleaseRunsRequest { runs: runs.clone() };
        match deadline(shared.journal.client().release_runs(request)).await {
            Ok(_) => break,
            // An earlier version: they are free when the lease ends.
            Err(status) if status.code() == Code::Unimplemented => break,
            Err(status) => {
                tracing::warn!(code = ?status.code(), "could not hand runs over");
                tokio::time::sleep(RETRY * attempt).await;
            }
        }
    }
    shared.released.done();
    shared.calls.call_all();
    // One that left its run by mistake may take it itself.
    shared.nudge.notify_one();
}
