//! `talaria.v1.RunService`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::peer_service_server::PeerServiceServer;
use talaria_proto::v1::run_service_server::{RunService, RunServiceServer};
use talaria_proto::v1::{
    Agent, CancelRunRequest, CancelRunResponse, DecideApprovalRequest, DecideApprovalResponse,
    GetStatusRequest, GetStatusResponse, ListAgentsRequest, ListAgentsResponse, Peer, ReleasedRun,
    StartRunRequest, SubscribeRunRequest, SubscribeRunResponse,
};
use talaria_runtime::error::Reason;
use talaria_runtime::link::{Link, MAX_MESSAGE_BYTES};
use talaria_runtime::{clock, ids};
use tokio::sync::{Notify, Semaphore, SetOnce, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::active::{ActiveRun, ActiveRuns};
use crate::admission::may_wait;
use crate::agents::Agents;
use crate::execution::{Execution, Left, Sink};
use crate::feed::{Feed, Next, Subscription};
use crate::fence::Fence;
use crate::journal::Journal;
use crate::lease::Keeper;
use crate::overload::Beginnings;
use crate::panics::Panics;
use crate::peers::Calls;
use crate::released::Released;
use crate::request_mcp::{KeptCredentials, take_credentials};
use crate::start::{Asking, Room, Updates, overloaded, start_ephemeral, start_stored};
use crate::unheard::{AllUnheard, Then, Unheard};
use crate::{Config, approval, cancel, claims, lease, peers, unheard, upstreams};

/// How often it is looked whether the fence has closed, which happens by time alone.
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How long a request waits for a renewal of the lease that is late.
const LATE_RENEWAL: Duration = Duration::from_secs(1);

/// The run orchestrator. Clones share everything.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    shared: Arc<Shared>,
}

/// Why an orchestrator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("preparing the agents")]
    Agents(#[from] upstreams::Error),
    #[error("starting the thread that renews the lease")]
    Thread(#[source] std::io::Error),
}

/// What all runs of this process share.
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub agents: Agents,
    pub journal: Journal,
    pub active: ActiveRuns,
    pub credentials: KeptCredentials,
    pub incarnation: Uuid,
    pub started_at: i64,
    pub places: Arc<Semaphore>,
    pub beginnings: Beginnings,
    pub tasks: TaskTracker,
    /// Renews the lease, for as long as anything runs under it.
    pub lease_keeper: TaskTracker,
    /// Asks for a claim at once: a line may move, or a run is to stop.
    pub nudge: Notify,
    /// Set when the store knows this process: a run of an unknown owner could be taken from it at once.
    pub registered: SetOnce<()>,
    /// No new runs.
    pub draining: CancellationToken,
    /// Leave what still runs to others.
    pub release: CancellationToken,
    /// Nothing runs here: the lease is not needed.
    pub idle: CancellationToken,
    /// It was ended: others need not watch this process any more.
    pub gone: CancellationToken,
    pub fence: Arc<Fence>,
    pub released: Released,
    pub unheard: AllUnheard,
    pub panics: Panics,
    /// The other processes, as the store knows them.
    pub peers: watch::Sender<Vec<Peer>>,
    pub calls: Calls,
}

impl Orchestrator {
    /// Prepares the agents and starts to look for orphaned runs. `renewals` makes a link to the store for the lease
    /// alone, on the thread that uses it.
    pub fn start<E: std::fmt::Display>(
        config: Config,
        store: Link,
        renewals: impl FnOnce() -> Result<Link, E> + Send + 'static,
    ) -> Result<Self, StartError> {
        let (journal, sending) = Journal::new(store);
        let shared = Arc::new(Shared {
            agents: Agents::new(&config.agents, config.strict_models)?,
            journal,
            active: ActiveRuns::default(),
            credentials: KeptCredentials::default(),
            incarnation: ids::new_id(),
            started_at: clock::unix_seconds(),
            places: Arc::new(Semaphore::new(config.max_concurrent)),
            beginnings: Beginnings::new(config.max_starting, config.max_concurrent),
            tasks: TaskTracker::new(),
            lease_keeper: TaskTracker::new(),
            nudge: Notify::new(),
            registered: SetOnce::new(),
            draining: CancellationToken::new(),
            release: CancellationToken::new(),
            idle: CancellationToken::new(),
            gone: CancellationToken::new(),
            fence: Arc::new(Fence::new(config.lease, clock::since_boot)),
            released: Released::default(),
            unheard: AllUnheard::default(),
            panics: Panics::default(),
            peers: watch::Sender::default(),
            calls: Calls::default(),
            config,
        });
        let keeper = Keeper::start(&shared, renewals).map_err(StartError::Thread)?;
        shared.lease_keeper.spawn(keeper.ended());
        let looker = Arc::clone(&shared);
        let looking = async move { tokio::join!(claims::run(&looker), peers::watch_all(&looker)) };
        let looking = shared.idle.clone().run_until_cancelled_owned(looking);
        shared.lease_keeper.spawn(looking);
        let watched = Arc::clone(&shared);
        let watching = async move { watched.beginnings.watch().await };
        let watching = shared.idle.clone().run_until_cancelled_owned(watching);
        shared.lease_keeper.spawn(watching);
        // What still writes when nothing runs here any more has to stop.
        let sending = shared.idle.clone().run_until_cancelled_owned(sending);
        shared.lease_keeper.spawn(sending);
        Ok(Self { shared })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What other orchestrators ask, as a generated server.
    pub fn peer_server(&self) -> PeerServiceServer<Self> {
        PeerServiceServer::new(self.clone())
    }

    /// The generated server around it.
    pub fn server(&self) -> RunServiceServer<Self> {
        RunServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Tells for as long as it is polled whether new runs may be taken: not before the store knows this process, and not
    /// while its lease is not renewed.
    pub async fn tell_health(&self, is_healthy: &watch::Sender<bool>) {
        let fence = &self.shared.fence;
        loop {
            is_healthy.send_replace(false);
            fence.opened().await;
            is_healthy.send_replace(true);
            while fence.is_open() {
                tokio::time::sleep(HEALTH_EVERY).await;
            }
        }
    }

    /// Admits no more, lets runs go on for `grace`, then leaves the rest to be taken over, and ends the lease.
    pub async fn stop(&self, grace: Duration) {
        let shared = &self.shared;
        shared.draining.cancel();
        shared.tasks.close();
        let finished = tokio::time::timeout(grace, shared.tasks.wait())
            .await
            .is_ok();
        if !finished {
            shared.release.cancel();
            if tokio::time::timeout(Duration::from_secs(5), shared.tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!("some runs did not stop in time");
            }
        }
        shared.idle.cancel();
        shared.lease_keeper.close();
        shared.lease_keeper.wait().await;
        lease::end(shared).await;
        // What did not stop in time is for others by now.
        shared.calls.call_all();
        shared.gone.cancel();
    }
}

impl Shared {
    /// Executes a run in a task of its own, reachable under its id until it ends or leaves.
    pub fn execute<F>(
        self: &Arc<Self>,
        id: Uuid,
        tenant: String,
        feed: Arc<Feed>,
        execution: Box<Execution>,
        room: Room,
        work: impl FnOnce(Box<Execution>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), Left>> + Send + 'static,
    {
        let cancel = execution.cancel.clone();
        let began_at = execution.run.snapshot().next_sequence_number();
        let in_conversation = execution.run.snapshot().base().conversation_id.is_some();
        // Only what is stored can be taken over, by whomever.
        let released = match &execution.sink {
            Sink::Stored(stored) => Some(ReleasedRun {
                response_id: stored.response_id.clone(),
                epoch: stored.epoch,
            }),
            Sink::Ephemeral(_) => None,
        };
        // One that is not admitted is known as it is: nobody can have taken it over.
        if execution.pending.is_none() {
            self.active.insert(
                id,
                ActiveRun {
                    tenant: tenant.clone(),
                    feed: Arc::clone(&feed),
                    cancel,
                    leave: Some(execution.release.clone()),
                },
            );
        }
        let is_admitted = execution.pending.as_ref();
        let is_admitted = is_admitted.map(|pending| pending.decided.is_admitted());
        let is_admitted = move || is_admitted.is_none_or(|it| it.load(Ordering::Acquire));
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            // Boxed once: a task holds what it awaits more than once otherwise, for as long as the run lasts.
            let work = Box::pin(work(execution));
            let Room {
                place,
                mut beginning,
            } = room;
            let outcome = AssertUnwindSafe(beginning.during(work))
                .catch_unwind()
                .await;
            drop(beginning);
            let response = ResponseId(id);
            if !matches!(outcome, Ok(Err(Left::Waits))) {
                shared.credentials.forget(id);
            }
            let is_admitted = is_admitted();
            if outcome.is_ok() {
                shared.panics.forget(id);
            } else if released.is_some() && is_admitted {
                shared.panics.add(id, began_at);
            }
            let is_released = matches!(outcome, Ok(Err(Left::Released)));
            let is_unheard = match outcome {
                Ok(Err(Left::NotAdmitted { may_be_stored })) => may_be_stored,
                // Whoever asked for it was told that nothing is known of it.
                Err(_) => !is_admitted,
                Ok(_) => false,
            };
            match outcome {
                Ok(Ok(())) => tracing::debug!(response.id = %response, "the run ended"),
                Ok(Err(Left::Lost(reason))) => {
                    tracing::info!(response.id = %response, %reason, "lost the run");
                }
                Ok(Err(Left::Released)) => {
                    tracing::info!(response.id = %response, "released the run");
                }
                Ok(Err(Left::Waits)) => {
                    tracing::info!(response.id = %response, "the run waits for a person");
                }
                Ok(Err(Left::Abandoned)) => tracing::debug!("an ephemeral run was abandoned"),
                Ok(Err(Left::NotAdmitted { .. })) => {
                    tracing::info!(response.id = %response, "the run was not admitted");
                }
                // Once admitted, it stays under this process's name without being executed, and is claimed again.
                Err(_) => tracing::error!(response.id = %response, "executing the run panicked"),
            }
            if is_unheard {
                let then = Then::Delete(feed);
                unheard::see_to(&shared, Unheard { tenant, id, then }, place);
                return;
            }
            let released = released.filter(|_| is_released);
            if let Some(released) = released {
                // Before it is active no more: claims must not take it for one that this process lost.
                shared.released.add(id, released);
            }
            shared.active.remove(id, &feed);
            feed.leave();
            drop(place);
            if is_released {
                // Boxed, because it is large and every run would hold the room for it.
                Box::pin(lease::release(&shared)).await;
            }
            if in_conversation {
                // Somebody may wait for it in line.
                shared.look_for_runs();
            }
        });
    }

    /// Notes it if a run was refused for want of room.
    fn noting<T>(&self, started: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &started
            && Reason::of(status) == Some(Reason::RateLimitExceeded)
        {
            self.beginnings.note_refusal();
        }
        started
    }

    /// How many places are taken.
    pub fn running(&self) -> usize {
        let free = self.places.available_permits();
        self.config.max_concurrent.saturating_sub(free)
    }

    /// Returns when new runs may be taken: a renewal that is late, or the first, is waited for, but not for long.
    async fn until_open(&self) -> Result<(), Status> {
        if !self.registered.initialized() && self.config.address.is_empty() {
            // There is no other process to ask; whoever admits the run waits for it.
            return Ok(());
        }
        tokio::time::timeout(LATE_RENEWAL, self.fence.opened())
            .await
            .map_err(|_| {
                let message = "The server has no contact with its store.";
                Reason::OrchestratorUnavailable.status(message)
            })
    }

    /// Has it looked at once whether there are runs to execute, by others where there is no room here.
    pub fn look_for_runs(&self) {
        self.nudge.notify_one();
        if self.draining.is_cancelled() || self.places.available_permits() == 0 {
            self.calls.call_all();
        }
    }
}

#[tonic::async_trait]
impl RunService for Orchestrator {
    type StartRunStream = Updates;

    async fn start_run(
        &self,
        request: Request<StartRunRequest>,
    ) -> Result<Response<Updates>, Status> {
        let request = request.into_inner();
        let follow = request.follow();
        let StartRunRequest {
            tenant,
            run,
            idempotency,
            attended,
            ..
        } = request;
        let mut run = run.ok_or_else(|| Reason::InvalidValue.status_at("run", "run is missing"))?;
        // First of all, so that nothing else ever sees them.
        let egress = self.shared.config.request_mcp.as_ref();
        let credentials = take_credentials(&mut run, egress)?;
        if self.shared.draining.is_cancelled() {
            return Err(Reason::OrchestratorUnavailable.status("The server is stopping."));
        }
        if run.store {
            self.shared.until_open().await?;
        }
        let beginnings = &self.shared.beginnings;
        // What is sure to be refused costs least here. What has a key may be known already.
        if beginnings.is_full() && idempotency.is_none() && !may_wait(&run) {
            beginnings.note_refusal();
            return Err(overloaded());
        }
        if run.store {
            let asking = Asking {
                tenant,
                request: run,
                credentials,
                follow,
                idempotency,
                attended,
                cancel: CancellationToken::new(),
            };
            let started = start_stored(&self.shared, asking).await;
            return self.shared.noting(started).map(Response::new);
        }
        if idempotency.is_some() {
            let message = "An idempotency key is only for runs that are stored.";
            return Err(Reason::InvalidValue.status_at("idempotency", message));
        }
        let started = start_ephemeral(&self.shared, &tenant, run, credentials, follow).await;
        self.shared.noting(started).map(Response::new)
    }

    type SubscribeRunStream = BoxStream<'static, Result<SubscribeRunResponse, Status>>;

    async fn subscribe_run(
        &self,
        request: Request<SubscribeRunRequest>,
    ) -> Result<Response<Self::SubscribeRunStream>, Status> {
        let SubscribeRunRequest {
            tenant,
            response_id,
            starting_after,
        } = request.into_inner();
        let run = self.active(&tenant, &response_id)?;
        let updates = events(run.feed.subscribe(starting_after)).map(|events| {
            events.map(|events| SubscribeRunResponse {
                events: Some(events),
            })
        });
        Ok(Response::new(updates.boxed()))
    }

    async fn cancel_run(
        &self,
        request: Request<CancelRunRequest>,
    ) -> Result<Response<CancelRunResponse>, Status> {
        let CancelRunRequest {
            tenant,
            response_id,
        } = request.into_inner();
        cancel::cancel(&self.shared, &tenant, &response_id).await?;
        Ok(Response::new(CancelRunResponse {}))
    }

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Result<Response<DecideApprovalResponse>, Status> {
        approval::decide(&self.shared, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let created_at = self.shared.started_at;
        let agent = |name: &str| Agent {
            name: name.to_owned(),
            created_at,
        };
        let agents = self.shared.agents.names().map(agent).collect();
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let max = self.shared.config.max_concurrent;
        let taken = self.shared.running();
        let beginnings = &self.shared.beginnings;
        Ok(Response::new(GetStatusResponse {
            active_runs: u32::try_from(taken).unwrap_or(u32::MAX),
            max_concurrent: u32::try_from(max).unwrap_or(u32::MAX),
            draining: self.shared.draining.is_cancelled(),
            starting_runs: u32::try_from(beginnings.count()).unwrap_or(u32::MAX),
            refused_runs: beginnings.refused(),
        }))
    }
}

impl Orchestrator {
    fn active(&self, tenant: &str, response_id: &str) -> Result<ActiveRun, Status> {
        let run =
            ResponseId::parse(response_id).and_then(|id| self.shared.active.get(tenant, id.0));
        run.ok_or_else(|| Reason::RunNotHere.status("The run is not active here."))
    }
}

/// The events of a subscription until the run ends, or until it falls behind.
pub fn events(
    subscription: Subscription,
) -> impl Stream<Item = Result<talaria_proto::v1::EventChunk, Status>> + Send {
    stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        match subscription.next().await {
            Next::Events(events) => Some((Ok(events), Some(subscription))),
            Next::Behind => {
                let behind = Status::out_of_range("the events are only in the store by now");
                Some((Err(behind), None))
            }
            Next::Ended => None,
        }
    })
}
