//! Idempotency keys: requests that are one run however often they come.

use std::time::Duration;

use talaria_proto::v1::{FindIdempotencyKeyRequest, Idempotency};
use talaria_runtime::error::Reason;
use tonic::Status;

use crate::admission::Limit;
use crate::service::Shared;

/// How often, and how far apart, a key is looked up before its request is refused for want of a place: what holds the
/// place may be the same request, on its way into the store.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The id of the response that an earlier request with this key made, if it was the same request.
pub async fn find(
    shared: &Shared,
    tenant: &str,
    idempotency: &Idempotency,
    limit: Limit,
) -> Result<Option<String>, Status> {
    let request = FindIdempotencyKeyRequest {
        tenant: tenant.to_owned(),
        key: idempotency.key.clone(),
    };
    let find = || {
        let (mut client, request) = (shared.journal.client(), request.clone());
        async move { client.find_idempotency_key(request).await }
    };
    let found = limit.read(find).await?.into_inner();
    if found.response_id.is_empty() {
        return Ok(None);
    }
    if found.request_hash != idempotency.request_hash {
        let message = "The Idempotency-Key was used before, for another request.";
        return Err(Reason::IdempotencyKeyConflict.status(message));
    }
    Ok(Some(found.response_id))
}

/// Looks once more before a request is refused: the same request may have been faster.
pub async fn find_before_refusing(
    shared: &Shared,
    tenant: &str,
    idempotency: Option<&Idempotency>,
    refusal: Status,
    limit: Limit,
) -> Result<String, Status> {
    let Some(idempotency) = idempotency else {
        return Err(refusal);
    };
    let no_place = Reason::of(&refusal) == Some(Reason::RateLimitExceeded);
    let looks = if no_place { LOOKS } else { 1 };
    for look in 0..looks {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        if let Some(response_id) = find(shared, tenant, idempotency, limit).await? {
            return Ok(response_id);
        }
    }
    Err(refusal)
}
