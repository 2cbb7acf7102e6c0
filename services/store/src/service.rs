//! `talaria.v1.StoreService`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::BoxStream;
use talaria_domain::ids::ResponseId;
use talaria_domain::run::PendingCall;
use talaria_proto::v1::store_service_server::{StoreService, StoreServiceServer};
use talaria_proto::v1::{
    AddConversationItemsRequest, AddConversationItemsResponse, AdmitRunRequest, AdmitRunResponse,
    AppendBatchRequest, AppendBatchResponse, AppendEventsRequest, AppendEventsResponse,
    AppendFailure, AwaitApprovalsRequest, AwaitApprovalsResponse, CheckReadyRequest,
    CheckReadyResponse, ClaimRunsRequest, ClaimRunsResponse, Conversation,
    CreateConversationRequest, DecideApprovalRequest, DecideApprovalResponse,
    DeleteConversationItemRequest, DeleteConversationRequest, DeleteConversationResponse,
    DeleteResponseRequest, DeleteResponseResponse, EndLeaseRequest, EndLeaseResponse,
    FindIdempotencyKeyRequest, FindIdempotencyKeyResponse, FindRunRequest, FindRunResponse,
    FinishRunRequest, FinishRunResponse, GetConversationRequest, GetResponseRequest,
    GetResponseResponse, ListApprovalGrantsRequest, ListApprovalGrantsResponse,
    ListConversationItemsRequest, ListConversationItemsResponse, ListInputItemsRequest,
    ListInputItemsResponse, ListResponsesRequest, ListResponsesResponse, LoadContextRequest,
    LoadContextResponse, Peer, PendingApproval, ReadEventsRequest, ReadEventsResponse,
    ReleaseRunsRequest, ReleaseRunsResponse, ReleasedRun, RenewLeaseRequest, RenewLeaseResponse,
    RequestCancelRequest, RequestCancelResponse, UpdateConversationRequest,
};
use talaria_runtime::error::Reason;
use talaria_runtime::link::MAX_MESSAGE_BYTES;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status};

use crate::admit::{Admission, Admit, FIRST_EPOCH};
use crate::append::Append;
use crate::cancel::CancelRequest;
use crate::context::KnownTurns;
use crate::database::{Database, Error, Server, error_chain, read, unavailable};
use crate::finish::Finish;
use crate::lane::{Lane, Outcome};
use crate::lease::Ending;
use crate::maintenance::Upkeep;
use crate::parse::{self, parse_uuid, required, response_id, response_not_found};
use crate::response::Lookup;
use crate::whole::Whole;
use crate::{
    Config, approval, cancel, claim, context, conversation, delete, events, items, keys, lease,
    list, maintenance, response,
};

/// Deltas of all runs are gathered for this long: a statement costs far more than a row in it.
const APPEND_PACE: Duration = Duration::from_millis(5);

/// Connections for writes that have no lane: decisions, conversations, deletes, claims.
const WRITE_CONNECTIONS: usize = 4;
/// Connections for renewing and ending leases: two, so that one that hangs keeps nobody from living on.
const LEASE_CONNECTIONS: usize = 2;

/// Trips under way at once that look responses up: more, and fewer share one.
const LOOKUP_TRIPS: usize = 4;

/// How often it is looked whether the database is there.
const HEALTH_LOOK: Duration = Duration::from_millis(250);

/// The store service. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// For what only reads, and for the store's own work.
    database: Database,
    /// For single writes: they never wait for readers.
    writes: Database,
    /// For renewals: they never wait for anything.
    leases: Database,
    admissions: Lane<Admit>,
    /// Those that take more than one statement, so that the others do not wait for them.
    keyed_admissions: Lane<Admit>,
    /// Deltas among deltas.
    appends: Lane<Append>,
    /// What somebody waits for: the first events after silence.
    first_appends: Lane<Append>,
    ends: Lane<Finish>,
    /// Runs that ended before they were admitted.
    wholes: Lane<Whole>,
    /// Responses that are asked for.
    lookups: Lane<Lookup>,
    known_turns: KnownTurns,
    upkeep: Arc<Upkeep>,
    healthy: watch::Sender<bool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Store {
    /// Starts the store's own work on a migrated database. Nothing is connected until the first call.
    pub fn start(config: &Config) -> Result<Self, crate::Error> {
        let writers = config.writers_per_lane.max(1);
        let server = Server::new(&config.database_url)?;
        let database = server.pool(config.read_connections.max(1))?;
        let lanes = server.pool(5 * writers + 1)?;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let upkeep = Arc::new(Upkeep::new(config));
        let known_turns = KnownTurns::new(config.turn_cache_bytes);
        maintenance::start(&database, &upkeep, &known_turns, &stop, &tasks);
        let healthy = watch::Sender::new(true);
        tasks.spawn(watch_health(
            database.clone(),
            healthy.clone(),
            stop.clone(),
        ));
        let inner = Inner {
            admissions: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            keyed_admissions: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            appends: Lane::start(&lanes, 1, APPEND_PACE, &tasks),
            first_appends: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            ends: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            wholes: Lane::start(&lanes, writers, Duration::ZERO, &tasks),
            lookups: Lane::start(&database, LOOKUP_TRIPS, Duration::ZERO, &tasks),
            database,
            writes: server.pool(WRITE_CONNECTIONS)?,
            leases: server.pool(LEASE_CONNECTIONS)?,
            known_turns,
            upkeep,
            healthy,
            tasks,
            stop,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether the database lets this store in, and it is not stopping.
    pub fn is_healthy(&self) -> watch::Receiver<bool> {
        self.inner.healthy.subscribe()
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
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
        inner.keyed_admissions.close();
        inner.appends.close();
        inner.first_appends.close();
        inner.ends.close();
        inner.wholes.close();
        inner.lookups.close();
        inner.tasks.close();
        inner.tasks.wait().await;
    }
}

/// Tells whether the database lets the store in. While it does not, it is asked again and again, since nobody else may
/// come to a store that says so.
async fn watch_health(database: Database, healthy: watch::Sender<bool>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_LOOK))
        .await
        .is_some()
    {
        let is_well = !database.is_away() || database_ready(&database).await.is_ok();
        healthy.send_if_modified(|was| std::mem::replace(was, is_well) != is_well);
    }
    healthy.send_replace(false);
}

async fn database_ready(database: &Database) -> Result<(), Error> {
    read(database, "SELECT 1", &[]).await.map(drop)
}

pub fn run_lost() -> Status {
    Reason::RunLost.status("The run has another owner, has ended, or was deleted.")
}

fn pending_approval(call: PendingCall) -> PendingApproval {
    PendingApproval {
        request_id: call.request_id,
        server_label: call.server_label,
        name: call.name,
        arguments: call.arguments,
        expires_at: call.until,
    }
}

fn written(outcome: Result<Outcome, Arc<Error>>) -> Result<(), Status> {
    match outcome {
        Ok(Outcome::Stored) => Ok(()),
        Ok(Outcome::Refused) => Err(run_lost()),
        Err(error) => Err(not_written(&error)),
    }
}

/// What a run continues from may be deleted while it is admitted.
fn refuse_missing_reference<T>(outcome: &Result<T, Arc<Error>>) -> Result<(), Status> {
    match outcome {
        Err(error) if error.is_missing_reference() => {
            let message = "The previous response was deleted.";
            Err(Reason::PreviousResponseNotFound.status_at("previous_response_id", message))
        }
        _ => Ok(()),
    }
}

fn not_written(error: &Error) -> Status {
    if error.is_transient() {
        tracing::debug!(error = error_chain(error), "a write has to be repeated");
        unavailable(error)
    } else {
        tracing::error!(error = error_chain(error), "a write failed");
        Status::internal("The store failed.")
    }
}

#[tonic::async_trait]
impl StoreService for Store {
    async fn load_context(
        &self,
        request: Request<LoadContextRequest>,
    ) -> Result<Response<LoadContextResponse>, Status> {
        let request = request.into_inner();
        context::context_load(&self.inner.database, &self.inner.known_turns, &request)
            .await
            .map(Response::new)
    }

    async fn find_idempotency_key(
        &self,
        request: Request<FindIdempotencyKeyRequest>,
    ) -> Result<Response<FindIdempotencyKeyResponse>, Status> {
        keys::idempotency_key_find(&self.inner.database, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn admit_run(
        &self,
        request: Request<AdmitRunRequest>,
    ) -> Result<Response<AdmitRunResponse>, Status> {
        let admit = parse::admission(request.into_inner())?;
        let lane = if admit.takes_transaction() {
            &self.inner.keyed_admissions
        } else {
            &self.inner.admissions
        };
        let outcome = lane.submit(admit).await;
        refuse_missing_reference(&outcome)?;
        let existing_response_id = match outcome.map_err(|error| not_written(&error))? {
            Admission::Stored => None,
            Admission::Duplicate(existing) => Some(ResponseId(existing).to_string()),
            Admission::Changed => {
                let message = "The conversation changed at the same moment.";
                return Err(Reason::ConversationChanged.status(message));
            }
            Admission::AnsweredBefore => {
                let message =
                    "What the input answers has been answered before, or its time is over.";
                return Err(Reason::ApprovalNotPending.status_at("input", message));
            }
            Admission::KeyConflict => {
                let message = "The idempotency key was used for another request.";
                return Err(Reason::IdempotencyKeyConflict.status(message));
            }
        };
        Ok(Response::new(AdmitRunResponse {
            epoch: FIRST_EPOCH,
            existing_response_id,
        }))
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
        written(lane.submit(parse::append(request)?).await)?;
        Ok(Response::new(AppendEventsResponse {}))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let appends = request.into_inner().appends;
        let writes = appends.into_iter().map(|append| async {
            let append = parse::append(append)?;
            written(self.inner.appends.submit(append).await)
        });
        let results: Vec<Result<(), Status>> = join_all(writes).await;
        let is_away = |result: &Result<(), Status>| {
            let status = result.as_ref().err();
            status.is_some_and(|status| status.code() == Code::Unavailable)
        };
        if results.iter().all(is_away)
            && let Some(Err(status)) = results.first()
        {
            // Whoever calls learns to go to another store.
            return Err(status.clone());
        }
        let failures = (0..).zip(results).filter_map(|(index, result)| {
            let status = result.err()?;
            Some(AppendFailure {
                index,
                code: status.code().into(),
                message: status.message().to_owned(),
            })
        });
        Ok(Response::new(AppendBatchResponse {
            failures: failures.collect(),
        }))
    }

    async fn finish_run(
        &self,
        request: Request<FinishRunRequest>,
    ) -> Result<Response<FinishRunResponse>, Status> {
        let request = request.into_inner();
        let mut response = required(request.response, "response")?;
        response.output.clear();
        let finish = Finish {
            append: parse::append(required(request.append, "append")?)?,
            response,
            turn: required(request.turn, "turn")?,
        };
        let outcome = match request.admission {
            None => self.inner.ends.submit(finish).await,
            Some(admission) => {
                let whole = Whole::new(admission, finish)?;
                self.inner.wholes.submit(whole).await
            }
        };
        refuse_missing_reference(&outcome)?;
        written(outcome)?;
        self.inner.upkeep.run_ended();
        Ok(Response::new(FinishRunResponse {}))
    }

    async fn find_run(
        &self,
        request: Request<FindRunRequest>,
    ) -> Result<Response<FindRunResponse>, Status> {
        let FindRunRequest {
            tenant,
            response_id: id,
        } = request.into_inner();
        let response = response_id(&id)?;
        let found = response::run_find(&self.inner.database, &tenant, response).await?;
        let owner_address = found.ok_or_else(|| response_not_found(&id))?;
        Ok(Response::new(FindRunResponse { owner_address }))
    }

    async fn get_response(
        &self,
        request: Request<GetResponseRequest>,
    ) -> Result<Response<GetResponseResponse>, Status> {
        let GetResponseRequest {
            tenant,
            response_id: id,
        } = request.into_inner();
        let response = response_id(&id)?;
        let Inner {
            lookups, database, ..
        } = &*self.inner;
        let found = response::response_get_together(lookups, database, tenant, response).await?;
        let found = found.ok_or_else(|| response_not_found(&id))?;
        self.inner.upkeep.touch(response);
        let pending = match found.pending {
            asked if asked.is_empty() => asked,
            asked => approval::calls_undecided(&self.inner.database, response, asked)
                .await?
                .unwrap_or_default(),
        };
        Ok(Response::new(GetResponseResponse {
            response: Some(found.response),
            next_sequence_number: u64::try_from(found.next_seq).unwrap_or_default(),
            updated_at_ms: found.updated_at_ms,
            cancel_requested: found.cancel_requested,
            pending_approvals: pending.into_iter().map(pending_approval).collect(),
        }))
    }

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Result<Response<DecideApprovalResponse>, Status> {
        approval::approval_decide(&self.inner.writes, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn await_approvals(
        &self,
        request: Request<AwaitApprovalsRequest>,
    ) -> Result<Response<AwaitApprovalsResponse>, Status> {
        approval::approvals_await(&self.inner.writes, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_approval_grants(
        &self,
        request: Request<ListApprovalGrantsRequest>,
    ) -> Result<Response<ListApprovalGrantsResponse>, Status> {
        approval::approval_grants_list(&self.inner.database, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn request_cancel(
        &self,
        request: Request<RequestCancelRequest>,
    ) -> Result<Response<RequestCancelResponse>, Status> {
        let RequestCancelRequest {
            tenant,
            response_id: id,
        } = request.into_inner();
        let database = &self.inner.writes;
        match cancel::cancel_request(database, &tenant, response_id(&id)?).await? {
            CancelRequest::Written { owner } => Ok(Response::new(RequestCancelResponse {
                owner: owner.map(|owner| owner.to_string()).unwrap_or_default(),
            })),
            CancelRequest::AlreadyEnded => {
                Err(Reason::RunNotHere.status("The run has ended already."))
            }
            CancelRequest::NotFound => Err(response_not_found(&id)),
        }
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
        let reader = events::Reader {
            tenant,
            response,
            starting_after,
        };
        let tasks = self.inner.tasks.clone();
        Ok(Response::new(events::events_stream(
            database, reader, tasks,
        )))
    }

    async fn list_responses(
        &self,
        request: Request<ListResponsesRequest>,
    ) -> Result<Response<ListResponsesResponse>, Status> {
        list::responses_list(&self.inner.database, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_input_items(
        &self,
        request: Request<ListInputItemsRequest>,
    ) -> Result<Response<ListInputItemsResponse>, Status> {
        items::input_items_list(
            &self.inner.database,
            &self.inner.known_turns,
            request.into_inner(),
        )
        .await
        .map(Response::new)
    }

    async fn create_conversation(
        &self,
        request: Request<CreateConversationRequest>,
    ) -> Result<Response<Conversation>, Status> {
        conversation::conversation_create(&self.inner.writes, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_conversation(
        &self,
        request: Request<GetConversationRequest>,
    ) -> Result<Response<Conversation>, Status> {
        conversation::conversation_get(&self.inner.database, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn update_conversation(
        &self,
        request: Request<UpdateConversationRequest>,
    ) -> Result<Response<Conversation>, Status> {
        conversation::conversation_update(&self.inner.writes, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn delete_conversation(
        &self,
        request: Request<DeleteConversationRequest>,
    ) -> Result<Response<DeleteConversationResponse>, Status> {
        conversation::conversation_delete(&self.inner.writes, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_conversation_items(
        &self,
        request: Request<ListConversationItemsRequest>,
    ) -> Result<Response<ListConversationItemsResponse>, Status> {
        conversation::items_list(
            &self.inner.database,
            &self.inner.known_turns,
            request.into_inner(),
        )
        .await
        .map(Response::new)
    }

    async fn add_conversation_items(
        &self,
        request: Request<AddConversationItemsRequest>,
    ) -> Result<Response<AddConversationItemsResponse>, Status> {
        conversation::items_add(&self.inner.writes, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn delete_conversation_item(
        &self,
        request: Request<DeleteConversationItemRequest>,
    ) -> Result<Response<Conversation>, Status> {
        conversation::item_delete(
            &self.inner.writes,
            &self.inner.known_turns,
            request.into_inner(),
        )
        .await
        .map(Response::new)
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
            delete::response_delete(&self.inner.writes, &tenant, response_id(&id)?).await?;
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
            has_address_alone,
            machine,
        } = request.into_inner();
        let renewal = lease::Renewal {
            incarnation: parse_uuid(&incarnation, "incarnation")?,
            address: &address,
            lease_ms: i64::from(lease_ms),
            machine: &machine,
            has_address_alone,
        };
        let peers = lease::lease_renew(&self.inner.leases, &renewal).await?;
        let peer = |peer: lease::Peer| Peer {
            incarnation: peer.incarnation.to_string(),
            address: peer.address,
        };
        Ok(Response::new(RenewLeaseResponse {
            peers: peers.into_iter().map(peer).collect(),
        }))
    }

    async fn end_lease(
        &self,
        request: Request<EndLeaseRequest>,
    ) -> Result<Response<EndLeaseResponse>, Status> {
        let EndLeaseRequest {
            incarnation,
            all_except,
            died,
        } = request.into_inner();
        let one = || parse_uuid(&incarnation, "incarnation");
        let ending = match (all_except, died) {
            (Some(except), _) => Ending::AllDiedExcept(parse_uuid(&except, "all_except")?),
            (None, true) => Ending::Died(one()?),
            (None, false) => Ending::Left(one()?),
        };
        lease::lease_end(&self.inner.leases, ending).await?;
        Ok(Response::new(EndLeaseResponse {}))
    }

    async fn release_runs(
        &self,
        request: Request<ReleaseRunsRequest>,
    ) -> Result<Response<ReleaseRunsResponse>, Status> {
        let runs = request.into_inner().runs;
        let run = |run: &ReleasedRun| Ok((response_id(&run.response_id)?, run.epoch));
        let runs: Vec<_> = runs.iter().map(run).collect::<Result<_, Status>>()?;
        lease::runs_release(&self.inner.writes, &runs).await?;
        Ok(Response::new(ReleaseRunsResponse {}))
    }

    async fn claim_runs(
        &self,
        request: Request<ClaimRunsRequest>,
    ) -> Result<Response<ClaimRunsResponse>, Status> {
        let request = request.into_inner();
        let answer = if request.check_executing {
            // A renewal waits for it.
            claim::check(&self.inner.leases, &request).await
        } else {
            claim::claim(&self.inner.writes, &self.inner.known_turns, &request).await
        };
        answer.map(Response::new)
    }

    async fn check_ready(
        &self,
        _: Request<CheckReadyRequest>,
    ) -> Result<Response<CheckReadyResponse>, Status> {
        database_ready(&self.inner.database).await?;
        Ok(Response::new(CheckReadyResponse {}))
    }
}
