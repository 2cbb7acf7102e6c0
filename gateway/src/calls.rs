//! What handlers ask of the services behind the façade.

use std::time::Duration;

use talaria_domain::run::has_ended;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{
    self as pb, CancelRunRequest, GetResponseRequest, GetResponseResponse, ReadEventsRequest,
    StartRunRequest, StartRunResponse,
};
use talaria_runtime::error::{Reason, is_unheard};
use talaria_runtime::link;
use tonic::{Code, Status, Streaming};

use crate::error::ApiError;
use crate::follow::{Follow, in_time, read_end, within};
use crate::orchestrators::Runs;
use crate::{Gateway, Tenant};

/// How long an admission may take.
const ADMISSION: Duration = Duration::from_secs(20);
/// How long a run that is cancelled may take to stop.
const CANCEL: Duration = Duration::from_secs(25);
/// How much of that the run's owner may take.
const ASK_OWNER: Duration = Duration::from_secs(5);
/// How often a run is started whose key names a response that is gone.
const KEYED_TRIES: usize = 3;
/// How long a store that does not answer is left alone.
const POLL: Duration = Duration::from_millis(250);

/// What became of a request to run.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart as soon as it is there"
)]
pub enum Started {
    New {
        /// As it was created.
        created: Box<pb::Response>,
        updates: Streaming<StartRunResponse>,
    },
    /// The idempotency key names a response, which stood so: nothing was started.
    Replayed { found: Box<GetResponseResponse> },
}

/// What an orchestrator answers.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart as soon as it is there"
)]
enum Answer {
    Started(Started),
    /// The idempotency key names the response of this id.
    Named(String),
}

/// Starts a run and waits until it is admitted.
///
/// A key may name a response that is deleted at this moment: then it names none, and the run is started.
pub async fn start_run(gateway: &Gateway, request: StartRunRequest) -> Result<Started, ApiError> {
    let tenant = Tenant(request.tenant.clone());
    for _ in 0..KEYED_TRIES {
        if gateway.stop.is_cancelled() {
            return Err(draining());
        }
        let id = match await_for(ADMISSION, admit(gateway, &request)).await? {
            Answer::Started(started) => return Ok(started),
            Answer::Named(id) => id,
        };
        match get_response(gateway, &tenant, &id).await {
            Ok(found) => {
                let found = Box::new(found);
                return Ok(Started::Replayed { found });
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    let message = "The response of this Idempotency-Key is deleted at this moment.";
    Err(ApiError::unavailable("store_unavailable", message))
}

/// Has a run admitted by the orchestrator with the most room that takes it.
async fn admit(gateway: &Gateway, request: &StartRunRequest) -> Result<Answer, Status> {
    let mut refusal = None;
    for runs in gateway.orchestrators.each_known().await {
        match admit_at(runs, request.clone()).await {
            Err(status) if may_start_elsewhere(&status, request.idempotency.is_some()) => {
                // That there is no room says more than that one cannot be reached.
                if refusal.as_ref().and_then(Reason::of) != Some(Reason::RateLimitExceeded) {
                    refusal = Some(status);
                }
            }
            outcome => return outcome,
        }
    }
    Err(refusal.unwrap_or_else(|| Reason::OrchestratorUnavailable.status("There is none.")))
}

async fn admit_at(mut runs: Runs, request: StartRunRequest) -> Result<Answer, Status> {
    let mut updates = runs.start_run(request).await?.into_inner();
    match updates.message().await?.and_then(|first| first.message) {
        Some(Message::Admitted(pb::Admitted {
            response: Some(created),
        })) => Ok(Answer::Started(Started::New {
            created: Box::new(created),
            updates,
        })),
        Some(Message::Replayed(replayed)) => Ok(Answer::Named(replayed.response_id)),
        _ => Err(Status::internal("a run began without its admission")),
    }
}

/// Whether a request that was answered so can be made at another orchestrator without becoming two runs.
fn may_start_elsewhere(status: &Status, has_key: bool) -> bool {
    match Reason::of(status) {
        Some(reason) => {
            matches!(
                reason,
                Reason::OrchestratorUnavailable | Reason::RateLimitExceeded
            )
        }
        None if has_key => is_unheard(status),
        None => link::is_unsent(status),
    }
}

/// The final response of a run that was just started: from its updates, or, where they break off and the run is stored,
/// from the store.
pub async fn final_response(
    gateway: &Gateway,
    tenant: &Tenant,
    created: pb::Response,
    mut updates: Streaming<StartRunResponse>,
) -> Result<pb::Response, ApiError> {
    let last = tokio::select! {
        last = updates.message() => last,
        () = gateway.stop.cancelled() => Err(Status::unavailable("stopping")),
    };
    match last.map(|last| last.and_then(|last| last.message)) {
        Ok(Some(Message::Final(response))) => {
            read_end(updates).await;
            Ok(response)
        }
        _ if created.store => wait_for_end(gateway, tenant, created.id).await,
        _ => Err(ApiError::unavailable(
            "orchestrator_unavailable",
            "The run was lost with the server that executed it.",
        )),
    }
}

/// The response as it stands.
pub async fn get_response(
    gateway: &Gateway,
    tenant: &Tenant,
    id: &str,
) -> Result<GetResponseResponse, Status> {
    let request = GetResponseRequest {
        tenant: tenant.0.clone(),
        response_id: id.to_owned(),
    };
    in_time(gateway.store.clone().get_response(request))
        .await
        .map(tonic::Response::into_inner)
        .map_err(of_store)
}

/// Reads a stored response's events after `starting_after`, or from the first.
pub fn follow(gateway: &Gateway, tenant: &Tenant, id: &str, starting_after: Option<u64>) -> Follow {
    Follow::new(
        tenant.0.clone(),
        id.to_owned(),
        starting_after,
        gateway.orchestrators.clone(),
        gateway.store.clone(),
    )
}

/// Where the events of a response that has ended end for readers, given where its log ended: without the log, what is
/// rebuilt may be longer than that was.
pub async fn shown_end(
    gateway: &Gateway,
    tenant: &Tenant,
    id: &str,
    log_end: u64,
) -> Result<u64, Status> {
    let read = ReadEventsRequest {
        tenant: tenant.0.clone(),
        response_id: id.to_owned(),
        starting_after: log_end.checked_sub(1),
    };
    let beyond = in_time(gateway.store.clone().read_events(read)).await;
    let mut beyond = beyond.map_err(of_store)?.into_inner();
    let mut end = log_end;
    while let Some(message) = in_time(beyond.message()).await.map_err(of_store)? {
        let events = message.events.unwrap_or_default().events();
        let events = events.map_err(|_| Status::internal("events that cannot be read"))?;
        end = events.last().map_or(end, |last| last.sequence_number + 1);
    }
    Ok(end)
}

/// The final response of a run that stood so a moment ago.
pub async fn end_of(
    gateway: &Gateway,
    tenant: &Tenant,
    found: GetResponseResponse,
) -> Result<pb::Response, ApiError> {
    let response = found.response.ok_or_else(ApiError::internal)?;
    if has_ended(&response) {
        return Ok(response);
    }
    wait_for_end(gateway, tenant, response.id).await
}

/// Waits for the end of a stored run.
pub async fn wait_for_end(
    gateway: &Gateway,
    tenant: &Tenant,
    id: String,
) -> Result<pb::Response, ApiError> {
    let waiting = async {
        loop {
            match get_response(gateway, tenant, &id).await {
                Ok(GetResponseResponse {
                    response: Some(response),
                    next_sequence_number,
                    ..
                }) => {
                    if has_ended(&response) {
                        return Ok(response);
                    }
                    let last = next_sequence_number.checked_sub(1);
                    let mut events = follow(gateway, tenant, &id, last);
                    while events.next().await.is_some() {}
                }
                Err(status) if status.code() == Code::NotFound => return Err(status.into()),
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    };
    let stopping = || {
        let message = "The server is stopping; the run goes on.";
        ApiError::unavailable("gateway_draining", message)
    };
    tokio::select! {
        response = waiting => response,
        () = gateway.stop.cancelled() => Err(stopping()),
    }
}

/// Asks a run to stop and waits until it has. Answers whether it was still active.
pub async fn cancel_run(gateway: &Gateway, tenant: &Tenant, id: &str) -> Result<bool, Status> {
    let cancel = CancelRunRequest {
        tenant: tenant.0.clone(),
        response_id: id.to_owned(),
    };
    let cancelling = async {
        let mut store = gateway.store.clone();
        let owner = gateway
            .orchestrators
            .owner(&mut store, &tenant.0, id)
            .await?;
        if let Some(mut owner) = owner {
            let asked = within(ASK_OWNER, owner.cancel_run(cancel.clone())).await;
            match asked {
                Ok(_) => return Ok(()),
                Err(status) if Reason::of(&status).is_some() => return Err(status),
                // It may be dead: another leaves word in the run's row.
                Err(_) => {}
            }
        }
        gateway
            .orchestrators
            .any()
            .cancel_run(cancel)
            .await
            .map(drop)
    };
    match await_for(CANCEL, cancelling).await {
        Ok(()) => Ok(true),
        Err(status) if Reason::of(&status) == Some(Reason::RunNotHere) => Ok(false),
        Err(status) => Err(status),
    }
}

/// A failed call to the store; one that did not answer says so itself.
pub fn of_store(status: Status) -> Status {
    if is_unheard(&status) {
        return Reason::StoreUnavailable.status(status.message());
    }
    status
}

/// 503: the façade takes no more work.
fn draining() -> ApiError {
    ApiError::unavailable("gateway_draining", "The server is stopping.")
}

/// Bounds a call by a time of its own.
async fn await_for<T>(
    longest: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = || Err(Status::unavailable("a service did not answer in time"));
    tokio::time::timeout(longest, call)
        .await
        .unwrap_or_else(|_| late())
}
