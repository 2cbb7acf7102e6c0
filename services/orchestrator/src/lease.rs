//! Staying alive in the store's eyes.

use std::time::Duration;

use talaria_proto::v1::{EndLeaseRequest, RenewLeaseRequest};
use tonic::Status;

use crate::journal::{deadline, within};
use crate::service::Shared;

/// Renews this process's lease for as long as it is polled.
pub async fn keep(shared: &Shared) {
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

/// Ends the leases of all other processes: only where none can be alive.
pub async fn end_others(shared: &Shared) -> Result<(), Status> {
    let request = EndLeaseRequest {
        incarnation: String::new(),
        all_except: Some(shared.incarnation.to_string()),
    };
    deadline(shared.journal.client().end_lease(request))
        .await
        .map(drop)
}

/// Gives up this process's lease, so that whatever it leaves can be taken over at once.
pub async fn end(shared: &Shared) {
    let incarnation = shared.incarnation.to_string();
    let request = EndLeaseRequest {
        incarnation,
        all_except: None,
    };
    if let Err(status) = deadline(shared.journal.client().end_lease(request)).await {
        tracing::warn!(code = ?status.code(), "could not end the lease");
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
