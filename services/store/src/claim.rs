//! Answering a claim: every run that its new owner can have, with all that it needs.

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{ClaimRunsRequest, ClaimRunsResponse, ClaimedRun};
use talaria_runtime::failpoint;
use tonic::Status;
use uuid::Uuid;

use crate::context::{Chain, Head, KnownTurns, turn_chain};
use crate::database::Database;
use crate::events::events_read;
use crate::line::runs_begin;
use crate::orphans::{Claimed, Executing, runs_claim, runs_lost, runs_to_stop};
use crate::parse::{parse_uuid, response_id};
use crate::response::decode;

/// Answers a `ClaimRuns` that only asks which runs the caller has lost.
pub async fn check(
    database: &Database,
    request: &ClaimRunsRequest,
) -> Result<ClaimRunsResponse, Status> {
    let owner = parse_uuid(&request.owner, "owner")?;
    let executing = executing(request)?;
    let lost = runs_lost(database, owner, &executing).await?;
    Ok(ClaimRunsResponse {
        lost: lost
            .into_iter()
            .map(|id| ResponseId(id).to_string())
            .collect(),
        ..Default::default()
    })
}

/// Answers `ClaimRuns`: runs without a living owner first, then those whose turn it is.
pub async fn claim(
    database: &Database,
    known: &KnownTurns,
    request: &ClaimRunsRequest,
) -> Result<ClaimRunsResponse, Status> {
    let owner = parse_uuid(&request.owner, "owner")?;
    let executing = executing(request)?;
    let as_of = (!request.executing_as_of.is_empty())
        .then(|| parse_uuid(&request.executing_as_of, "executing_as_of"))
        .transpose()?;
    let executing = Executing {
        runs: &executing,
        as_of,
    };
    let limit = i64::from(request.limit);
    let to_stop = runs_to_stop(database, owner).await?;
    let mut claimed = runs_claim(database, owner, &executing, limit).await?;
    failpoint::hit("claim.after_commit").await;
    let left = limit - i64::try_from(claimed.len()).unwrap_or(limit);
    if left > 0 {
        match runs_begin(database, owner, left).await {
            Ok(begun) => claimed.extend(begun),
            Err(error) if claimed.is_empty() => return Err(error.into()),
            // Those that are claimed must not wait for the next answer.
            Err(error) => tracing::warn!(%error, "could not begin runs that wait"),
        }
    }
    let cancelled = to_stop
        .into_iter()
        .filter(|id| claimed.iter().all(|run| run.response != *id))
        .map(|id| ResponseId(id).to_string())
        .collect();
    let mut runs = Vec::new();
    for run in claimed {
        let id = run.response;
        // One run that cannot be read must not keep the others from their new owner.
        match claimed_run(database, known, run).await {
            Ok(run) => runs.push(run),
            Err(status) => {
                let code = status.code();
                tracing::error!(response.id = %ResponseId(id), ?code, "cannot hand a run over");
            }
        }
    }
    Ok(ClaimRunsResponse {
        runs,
        cancelled,
        ..Default::default()
    })
}

fn executing(request: &ClaimRunsRequest) -> Result<Vec<Uuid>, Status> {
    request.executing.iter().map(|id| response_id(id)).collect()
}

/// A claimed run with all that its new owner needs.
async fn claimed_run(
    database: &Database,
    known: &KnownTurns,
    claimed: Claimed,
) -> Result<ClaimedRun, Status> {
    let request = decode("run_request", claimed.response, &claimed.request)?;
    let mut chunks = Vec::new();
    let mut last = -1;
    loop {
        let page = events_read(database, claimed.response, last).await?;
        let Some(end) = page.last().map(|chunk| chunk.last_seq) else {
            break;
        };
        last = end;
        for chunk in page {
            chunks.push(chunk.events()?);
        }
    }
    let turns = match claimed.parent_turn {
        Some(parent) => {
            let chain = Chain {
                tenant: &claimed.tenant,
                conversation: claimed.conversation,
                head: Head::Id(parent),
            };
            turn_chain(database, known, chain).await?
        }
        None => Vec::new(),
    };
    Ok(ClaimedRun {
        tenant: claimed.tenant,
        response_id: ResponseId(claimed.response).to_string(),
        epoch: claimed.epoch,
        attempt: u32::try_from(claimed.attempt).unwrap_or_default(),
        request: Some(request),
        events: chunks,
        turns,
        cancelled: claimed.cancelled,
        begins: claimed.begins,
    })
}
