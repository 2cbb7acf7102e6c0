//! Deciding about calls of a run, wherever it is.

use std::sync::Arc;

use talaria_proto::v1::{DecideApprovalRequest, DecideApprovalResponse, GetResponseRequest};
use tonic::Status;

use crate::admission::{CALL, store_status};
use crate::journal::within;
use crate::service::Shared;

/// Writes the decision down and looks at once whether the run can go on here.
pub async fn decide(
    shared: &Arc<Shared>,
    mut request: DecideApprovalRequest,
) -> Result<DecideApprovalResponse, Status> {
    let mut client = shared.journal.client();
    let get = GetResponseRequest {
        tenant: request.tenant.clone(),
        response_id: request.response_id.clone(),
    };
    let found = within(CALL, client.get_response(get))
        .await
        .map_err(store_status)?
        .into_inner();
    let model = found
        .response
        .map(|response| response.model)
        .unwrap_or_default();
    let agent = shared
        .agents
        .select(&model)
        .or_else(|_| shared.agents.select(""));
    request.agent = agent.map(|agent| agent.name.clone())?;
    let decided = within(CALL, client.decide_approval(request))
        .await
        .map_err(store_status)?
        .into_inner();
    // Whoever had it before goes first, if it lives.
    shared.calls.call_all();
    shared.nudge.notify_one();
    Ok(decided)
}
