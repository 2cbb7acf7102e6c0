//! Asking a run to stop, wherever it is executed.

use std::sync::Arc;
use std::time::Duration;

use talaria_domain::ids::ResponseId;
use talaria_domain::run::has_ended;
use talaria_proto::v1::{GetResponseRequest, GetResponseResponse, RequestCancelRequest};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::admission::{CALL, is_unknown, store_status};
use crate::journal::within;
use crate::service::Shared;

/// How long a cancelled run may take to end.
const CANCEL: Duration = Duration::from_secs(20);
/// Pauses between looks at a run that ends elsewhere: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Cancels a run and returns when its end is durable. `RUN_NOT_HERE` when it had ended already.
pub async fn cancel(shared: &Arc<Shared>, tenant: &str, response_id: &str) -> Result<(), Status> {
    tokio::time::timeout(CANCEL, async {
        if cancel_here(shared, tenant, response_id).await {
            return Ok(());
        }
        cancel_elsewhere(shared, tenant, response_id).await
    })
    .await
    .unwrap_or_else(|_| Err(Status::deadline_exceeded("the run did not stop in time")))
}

/// Whether the run was executed here and has ended here.
async fn cancel_here(shared: &Shared, tenant: &str, response_id: &str) -> bool {
    let id = ResponseId::parse(response_id);
    let Some(run) = id.and_then(|id| shared.active.get(tenant, id.0)) else {
        return false;
    };
    let mut end = run.feed.subscribe(None);
    run.cancel.cancel();
    end.response().await.is_some()
}

/// Leaves word for whoever executes the run, or will, and watches for its end.
async fn cancel_elsewhere(
    shared: &Arc<Shared>,
    tenant: &str,
    response_id: &str,
) -> Result<(), Status> {
    let request = RequestCancelRequest {
        tenant: tenant.to_owned(),
        response_id: response_id.to_owned(),
    };
    let mut client = shared.journal.client();
    let asked = within(CALL, client.request_cancel(request))
        .await
        .map_err(store_status)?;
    // It may wait in a line, or for somebody to take it over.
    shared.nudge.notify_one();
    if let Ok(owner) = Uuid::parse_str(&asked.into_inner().owner) {
        shared.calls.call(owner);
    }
    let mut pause = PAUSES.0;
    while !is_over(shared, tenant, response_id).await? {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    Ok(())
}

async fn is_over(shared: &Shared, tenant: &str, response_id: &str) -> Result<bool, Status> {
    let request = GetResponseRequest {
        tenant: tenant.to_owned(),
        response_id: response_id.to_owned(),
    };
    let mut client = shared.journal.client();
    match within(CALL, client.get_response(request)).await {
        Ok(found) => {
            let GetResponseResponse { response, .. } = found.into_inner();
            Ok(response.is_some_and(|response| has_ended(&response)))
        }
        // Deleted: nothing runs any more.
        Err(status) if status.code() == Code::NotFound => Ok(true),
        Err(status) if is_unknown(&status) => Ok(false),
        Err(status) => Err(status),
    }
}
