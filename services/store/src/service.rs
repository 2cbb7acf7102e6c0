//! `talaria.v1.StoreService`.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_proto::v1::store_service_server::{StoreService, StoreServiceServer};
use talaria_proto::v1::{
    AdmitRunRequest, AdmitRunResponse, AppendEventsRequest, AppendEventsResponse,
    CheckReadyRequest, CheckReadyResponse, ClaimRunsRequest, ClaimRunsResponse, ClaimedRun,
    DeleteResponseRequest, DeleteResponseResponse, EndLeaseRequest, EndLeaseResponse,
    FinishRunRequest, FinishRunResponse, GetResponseRequest, GetResponseResponse,
    LoadContextRequest, LoadContextResponse, ReadEventsRequest, ReadEventsResponse,
    RenewLeaseRequest, RenewLeaseResponse,
};
use talaria_runtime::error::Reason;
use talaria_runtime::link::MAX_MESSAGE_BYTES;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::admit::{Admit, Conversation, FIRST_EPOCH};
use crate::append::Append;
use crate::database::{Database, Error, error_chain, read};
use crate::finish::Finish;
use crate::lane::{Lane, Outcome};
use crate::{Config, context, delete, events, lease, maintenance, response};

/// Deltas of all runs are gathered for this long: a statement costs far more than a row in it.
const APPEND_PACE: Duration = Duration::from_millis(5);

/// The store service. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    admissions: Lane<Admit>,
    /// Deltas among deltas.
    appends: Lane<Append>,
    /// What somebody waits for: the first events after silence.
    first_appends: Lane<Append>,
    ends: Lane<Finish>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Store {
    /// Starts the store's own work on a migrated database. Nothing is connected until the first call.
    pub fn start(config: &Config) -> Result<Self, crate::Error> {
        let writers = config.writers_per_lane.max(1);
        let database = Database::new(&config.database_url, config.read_connections.max(1))?;
        // Lanes never wait for readers: they have connections of their own.
        let lanes = Database::new(&config.database_url, 3 * writers + 1)?;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        tasks.spawn(maintenance::run(database.clone(), stop.clone()));
        let inner = Inner {
            admissions: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            appends: Lane::start(&lanes, 1, APPEND_PACE, &tasks),
            first_appends: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            ends: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            database,
            tasks,
            stop,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The generated server around it.
    pub fn server(&self) -> StoreServiceServer<Self> {
        StoreServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Ends the store's own work; writes that were handed in are written first.
    pub async fn stop(&self) {
        let inner = &*self.inner;
        inner.stop.cancel();
        inner.admissions.close();
        inner.appends.close();
        inner.first_appends.close();
        inner.ends.close();
        inner.tasks.close();
        inner.tasks.wait().await;
    }
}

fn response_id(id: &str) -> Result<Uuid, Status> {
    ResponseId::parse(id)
        .map(|id| id.0)
        .ok_or_else(|| response_not_found(id))
}

fn response_not_found(id: &str) -> Status {
    Reason::ResponseNotFound.status(format!("Response not found: {id}"))
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Status> {
    field.ok_or_else(|| Reason::InvalidValue.status_at(name, format!("{name} is missing")))
}

fn parse_uuid(text: &str, name: &'static str) -> Result<Uuid, Status> {
    Uuid::try_parse(text)
        .map_err(|_| Reason::InvalidValue.status_at(name, format!("{name} is not a UUID")))
}

fn run_lost() -> Status {
    Reason::RunLost.status("The run has another owner, has ended, or was deleted.")
}

fn written(
    outcome: Result<Outcome, Arc<Error>>,
    refused: impl Fn() -> Status,
) -> Result<(), Status> {
    match outcome {
        Ok(Outcome::Stored) => Ok(()),
        Ok(Outcome::Refused) => Err(refused()),
        Err(error) if error.is_transient() => {
            tracing::debug!(error = error_chain(&*error), "a write has to be repeated");
            Err(Reason::StoreUnavailable.status("The store is not available right now."))
        }
        Err(error) => {
            tracing::error!(error = error_chain(&*error), "a write failed");
            Err(Status::internal("The store failed."))
        }
    }
}

fn append(request: AppendEventsRequest) -> Result<Append, Status> {
    let invalid = |name: &'static str| {
        Reason::InvalidValue.status_at(name, format!("{name} is out of range"))
    };
    if request.event_count == 0 {
        return Err(invalid("event_count"));
    }
    Ok(Append {
        response: response_id(&request.response_id)?,
        epoch: request.epoch,
        first_seq: i64::try_from(request.first_sequence_number)
            .map_err(|_| invalid("first_sequence_number"))?,
        event_count: i64::from(request.event_count),
        events: required(request.events, "events")?,
    })
}

#[tonic::async_trait]
impl StoreService for Store {
    async fn load_context(
        &self,
        request: Request<LoadContextRequest>,
    ) -> Result<Response<LoadContextResponse>, Status> {
        let request = request.into_inner();
        context::context_load(&self.inner.database, &request)
            .await
            .map(Response::new)
    }

    async fn admit_run(
        &self,
        request: Request<AdmitRunRequest>,
    ) -> Result<Response<AdmitRunResponse>, Status> {
        let request = request.into_inner();
        let parent = request
            .parent_response_id
            .as_deref()
            .map(response_id)
            .transpose()?;
        let conversation = match request.conversation_id.as_deref() {
            None => None,
            Some(id) => {
                let invalid = || {
                    Reason::InvalidValue.status_at("conversation_id", "conversation_id is no id")
                };
                let id = ConversationId::parse(id).ok_or_else(invalid)?.0;
                Some(Conversation {
                    id,
                    name: request.conversation_name,
                })
            }
        };
        let events = append(AppendEventsRequest {
            response_id: request.response_id,
            epoch: FIRST_EPOCH,
            first_sequence_number: 0,
            event_count: request.event_count,
            events: request.events,
            after_silence: false,
        })?;
        let admit = Admit {
            tenant: request.tenant,
            owner: parse_uuid(&request.owner, "owner")?,
            status: i16::try_from(request.status).unwrap_or_default(),
            request: required(request.request, "request")?,
            events,
            parent_turn: parent,
            conversation,
        };
        let outcome = self.inner.admissions.write(admit).await;
        if outcome
            .as_ref()
            .is_err_and(|error| error.is_missing_reference())
        {
            let message = "The previous response was deleted.";
            return Err(Reason::PreviousResponseNotFound.status_at("previous_response_id", message));
        }
        written(outcome, || {
            Reason::ConversationChanged.status("The conversation changed at the same moment.")
        })?;
        Ok(Response::new(AdmitRunResponse { epoch: FIRST_EPOCH }))
    }

    async fn append_events(
        &self,
        request: Request<AppendEventsRequest>,
    ) -> Result<Response<AppendEventsResponse>, Status> {
        let request = request.into_inner();
        let lane = if request.after_silence {
            &self.inner.first_appends
        } else {
            &self.inner.appends
        };
        written(lane.write(append(request)?).await, run_lost)?;
        Ok(Response::new(AppendEventsResponse {}))
    }

    async fn finish_run(
        &self,
        request: Request<FinishRunRequest>,
    ) -> Result<Response<FinishRunResponse>, Status> {
        let request = request.into_inner();
        let mut response = required(request.response, "response")?;
        response.output.clear();
        let finish = Finish {
            append: append(required(request.append, "append")?)?,
            response,
            turn: required(request.turn, "turn")?,
        };
        written(self.inner.ends.write(finish).await, run_lost)?;
        Ok(Response::new(FinishRunResponse {}))
    }

    async fn get_response(
        &self,
        request: Request<GetResponseRequest>,
    ) -> Result<Response<GetResponseResponse>, Status> {
        let GetResponseRequest {
            tenant,
            response_id: id,
        } = request.into_inner();
        let found =
            response::response_get(&self.inner.database, &tenant, response_id(&id)?).await?;
        let found = found.ok_or_else(|| response_not_found(&id))?;
        Ok(Response::new(GetResponseResponse {
            response: Some(found.response),
            next_sequence_number: u64::try_from(found.next_seq).unwrap_or_default(),
        }))
    }

    type ReadEventsStream = BoxStream<'static, Result<ReadEventsResponse, Status>>;

    async fn read_events(
        &self,
        request: Request<ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        let ReadEventsRequest {
            tenant,
            response_id: id,
            starting_after,
        } = request.into_inner();
        let database = self.inner.database.clone();
        let response = response_id(&id)?;
        if !response::response_exists(&database, &tenant, response).await? {
            return Err(response_not_found(&id));
        }
        let after = starting_after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let tasks = self.inner.tasks.clone();
        let pages = futures::stream::try_unfold(after, move |after| {
            let database = database.clone();
            // A task, because a reader that stalls must not hold a connection in the middle of a query.
            let page = async move { events::events_read(&database, response, after).await };
            let page = tasks.spawn(page);
            async move {
                let page = page.await;
                let chunks = page.map_err(|_| Status::internal("Reading the log failed."))??;
                let Some(last) = chunks.last().map(|chunk| chunk.last_seq) else {
                    return Ok::<_, Status>(None);
                };
                let page = chunks.into_iter().map(move |chunk| {
                    let events = Some(chunk.events_after(after)?);
                    Ok(ReadEventsResponse { events })
                });
                Ok(Some((futures::stream::iter(page), last)))
            }
        });
        Ok(Response::new(pages.try_flatten().boxed()))
    }

    async fn delete_response(
        &self,
        request: Request<DeleteResponseRequest>,
    ) -> Result<Response<DeleteResponseResponse>, Status> {
        let DeleteResponseRequest {
            tenant,
            response_id: id,
        } = request.into_inner();
        let deleted =
            delete::response_delete(&self.inner.database, &tenant, response_id(&id)?).await?;
        if deleted {
            Ok(Response::new(DeleteResponseResponse {}))
        } else {
            Err(response_not_found(&id))
        }
    }

    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let RenewLeaseRequest {
            incarnation,
            address,
            lease_ms,
        } = request.into_inner();
        let incarnation = parse_uuid(&incarnation, "incarnation")?;
        let lease_ms = i64::from(lease_ms);
        lease::lease_renew(&self.inner.database, incarnation, &address, lease_ms).await?;
        Ok(Response::new(RenewLeaseResponse {}))
    }

    async fn end_lease(
        &self,
        request: Request<EndLeaseRequest>,
    ) -> Result<Response<EndLeaseResponse>, Status> {
        let EndLeaseRequest {
            incarnation,
            all_except,
        } = request.into_inner();
        let incarnation = (!incarnation.is_empty())
            .then(|| parse_uuid(&incarnation, "incarnation"))
            .transpose()?;
        let all_except = all_except
            .map(|except| parse_uuid(&except, "all_except"))
            .transpose()?;
        lease::lease_end(&self.inner.database, incarnation, all_except).await?;
        Ok(Response::new(EndLeaseResponse {}))
    }

    async fn claim_runs(
        &self,
        request: Request<ClaimRunsRequest>,
    ) -> Result<Response<ClaimRunsResponse>, Status> {
        let ClaimRunsRequest {
            owner,
            limit,
            executing,
            executing_as_of,
        } = request.into_inner();
        let owner = parse_uuid(&owner, "owner")?;
        let executing: Vec<Uuid> = executing
            .iter()
            .map(|id| response_id(id))
            .collect::<Result<_, _>>()?;
        let as_of = (!executing_as_of.is_empty())
            .then(|| parse_uuid(&executing_as_of, "executing_as_of"))
            .transpose()?;
        let executing = lease::Executing {
            runs: &executing,
            as_of,
        };
        let database = &self.inner.database;
        let mut runs = Vec::new();
        for claimed in lease::runs_claim(database, owner, &executing, i64::from(limit)).await? {
            let id = claimed.response;
            // One run that cannot be read must not keep the others from their new owner.
            match claimed_run(database, claimed).await {
                Ok(run) => runs.push(run),
                Err(status) => {
                    let code = status.code();
                    tracing::error!(response.id = %ResponseId(id), ?code, "cannot hand a run over");
                }
            }
        }
        Ok(Response::new(ClaimRunsResponse { runs }))
    }

    async fn check_ready(
        &self,
        _: Request<CheckReadyRequest>,
    ) -> Result<Response<CheckReadyResponse>, Status> {
        read(&self.inner.database, "SELECT 1", &[]).await?;
        Ok(Response::new(CheckReadyResponse {}))
    }
}

/// A claimed run with all that its new owner needs.
async fn claimed_run(database: &Database, claimed: lease::Claimed) -> Result<ClaimedRun, Status> {
    let request = response::decode("run_request", claimed.response, &claimed.request)?;
    let mut chunks = Vec::new();
    let mut last = -1;
    loop {
        let page = events::events_read(database, claimed.response, last).await?;
        let Some(end) = page.last().map(|chunk| chunk.last_seq) else {
            break;
        };
        last = end;
        for chunk in page {
            chunks.push(chunk.events()?);
        }
    }
    let turns = match claimed.parent_turn {
        Some(parent) => context::turn_chain(database, &claimed.tenant, parent).await?,
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
    })
}
