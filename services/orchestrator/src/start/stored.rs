//! Stored runs: admitted once, and executed whoever listens.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use talaria_domain::model::Object;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{
    EventChunk, Follow, Idempotency, Replayed, Response, RunRequest, StartRunResponse,
};
use talaria_runtime::clock;
use talaria_runtime::error::Reason;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use uuid::Uuid;

use super::{Room, Updates, admitted, choice, message, parameters, room};
use crate::active::ActiveRun;
use crate::admission::{Admission, Admitted, Asked, Limit, Refusal, admit, may_wait};
use crate::agents::Agent;
use crate::execution::{self, Decision, Execution, Listings, Pending, Sink, Starts, Stored};
use crate::feed::Feed;
use crate::keys;
use crate::request_mcp::{Credentials, check_labels, servers};
use crate::service::{Shared, events};
use crate::unheard::{self, Then, Unheard};

/// How long a run waits for the store to know this process.
const REGISTRATION: Duration = Duration::from_secs(5);

/// A stored run that is asked for.
pub struct Asking {
    pub tenant: String,
    pub request: RunRequest,
    pub credentials: Credentials,
    pub follow: Follow,
    pub idempotency: Option<Idempotency>,
    /// Whether it is cancelled if the call is dropped before the caller hears of it.
    pub attended: bool,
    /// Cancels it.
    pub cancel: CancellationToken,
}

/// What became of it.
enum Started {
    Begun {
        response: Box<Response>,
        feed: Arc<Feed>,
    },
    /// It stands in its conversation's line.
    Waits(Box<Response>),
    Replayed {
        response_id: String,
    },
}

/// Admits a stored run, has it executed, and follows it.
pub async fn start_stored(shared: &Arc<Shared>, asking: Asking) -> Result<Updates, Status> {
    let follow = asking.follow;
    let attended = asking.attended.then(|| asking.cancel.clone().drop_guard());
    let (reply, started) = oneshot::channel();
    let task = Arc::clone(shared);
    // Whoever asked may go at any moment; what was admitted is executed all the same.
    shared.tasks.spawn(async move {
        let started = find_or_admit(&task, asking).await;
        let _ = reply.send(started);
    });
    let started = started.await;
    attended.map(DropGuard::disarm);
    let (response, feed) = match started.map_err(|_| unknown())?? {
        Started::Begun { response, feed } => (response, feed),
        Started::Waits(response) => return Ok(only(admitted(*response))),
        Started::Replayed { response_id } => {
            return Ok(only(message(Message::Replayed(Replayed { response_id }))));
        }
    };
    let first = only(admitted(*response));
    Ok(match follow {
        Follow::Nothing => first,
        Follow::Events => {
            let events = events(feed.subscribe(None));
            first
                .chain(events.map(|events| Ok(message(Message::Events(events?)))))
                .boxed()
        }
        Follow::End => {
            let mut end = feed.subscribe(None);
            let last = stream::once(async move {
                match end.response().await {
                    Some(response) => Ok(message(Message::Final((*response).clone()))),
                    None => Err(Reason::RunNotHere.status("The run went on elsewhere.")),
                }
            });
            first.chain(last).boxed()
        }
    })
}

/// Finds the run that the request started before, or admits it.
async fn find_or_admit(shared: &Arc<Shared>, asking: Asking) -> Result<Started, Status> {
    let limit = Limit::begin();
    if let Some(idempotency) = &asking.idempotency
        && let Some(response_id) = keys::find(shared, &asking.tenant, idempotency, limit).await?
    {
        return Ok(Started::Replayed { response_id });
    }
    let (tenant, idempotency) = (asking.tenant.clone(), asking.idempotency.clone());
    let refusal = match admit_stored(shared, asking, limit).await {
        Ok(started) => return Ok(started),
        Err(Refusal::Unknown(status)) => return Err(status),
        Err(Refusal::Refused(status) | Refusal::RefusedLate(status)) => status,
    };
    keys::find_before_refusing(shared, &tenant, idempotency.as_ref(), refusal, limit)
        .await
        .map(|response_id| Started::Replayed { response_id })
}

/// Admits a stored run and begins to execute it, unless it waits in line.
async fn admit_stored(
    shared: &Arc<Shared>,
    asking: Asking,
    limit: Limit,
) -> Result<Started, Refusal> {
    let agent = shared.agents.select(&asking.request.model)?;
    let parameters = parameters(&asking.request)?;
    choice::check(&parameters, |name| agent.toolbox.may_have(name))?;
    check_labels(&parameters, &agent)?;
    tokio::time::timeout(REGISTRATION.min(limit.left()), shared.registered.wait())
        .await
        .map_err(|_| Reason::StoreUnavailable.status("The store is not available right now."))?;
    let (mut room, no_place) = match room(shared).await {
        Ok(room) => (room, None),
        Err(status) if may_wait(&asking.request) => (Room::of_place(None), Some(status)),
        Err(status) => return Err(status.into()),
    };
    let feed = Feed::new(0);
    let cancel = asking.cancel.clone();
    // Known before it is written, so that it never looks like a run that this process lost.
    let run = ActiveRun {
        tenant: asking.tenant.clone(),
        feed: Arc::clone(&feed),
        cancel: cancel.clone(),
        leave: None,
    };
    let id = shared.active.begin(run);
    let asked = Asked {
        id,
        owner: shared.incarnation,
        tenant: &asking.tenant,
        agent_name: &agent.name,
        inherit_instructions: agent.inherit_instructions,
        request: &asking.request,
        idempotency: asking.idempotency.as_ref(),
        no_place,
        may_be_pending: may_be_pending(shared, &asking),
        limit,
    };
    let forget = || {
        shared.active.remove(id, &feed);
        feed.leave();
    };
    let admitting = admit(&shared.journal, &asked);
    let admitted = match room.beginning.during(admitting).await {
        Ok(Admission::Begins(admitted)) => *admitted,
        Ok(Admission::Waits(response)) => {
            forget();
            drop(room);
            shared.look_for_runs();
            return Ok(Started::Waits(response));
        }
        Ok(Admission::Replayed { response_id }) => {
            forget();
            return Ok(Started::Replayed { response_id });
        }
        Err(Refusal::Refused(status)) => {
            forget();
            return Err(Refusal::Refused(status));
        }
        // If it was stored, its key names it from anywhere, so it has to stay: it is claimed as a run of this process
        // that it does not execute.
        Err(refusal) if asking.idempotency.is_some() => {
            shared.credentials.keep(id, &asking.credentials);
            if !asking.credentials.is_empty() {
                let then = Then::KeepCredentials;
                let tenant = asking.tenant;
                unheard::see_to(shared, Unheard { tenant, id, then }, room.place);
            }
            forget();
            return Err(refusal);
        }
        Err(refusal) => {
            let then = Then::Delete(feed);
            let tenant = asking.tenant;
            unheard::see_to(shared, Unheard { tenant, id, then }, room.place);
            return Err(refusal);
        }
    };
    let ready = Ready {
        id,
        agent,
        parameters,
        room,
        feed,
        cancel,
        limit,
    };
    begin(shared, asking, ready, admitted).await
}

/// Whether a run may be executed before it is admitted: nobody else knows of it then, and the store is likely to take
/// it, so that the model is not asked in vain.
fn may_be_pending(shared: &Shared, asking: &Asking) -> bool {
    asking.follow != Follow::Nothing && !asking.request.background && shared.journal.is_answered()
}

/// What is there for a run before it is admitted.
struct Ready {
    id: Uuid,
    agent: Arc<Agent>,
    parameters: Object,
    room: Room,
    feed: Arc<Feed>,
    cancel: CancellationToken,
    limit: Limit,
}

/// Begins to execute a run; returns when it is admitted, or refused after all.
async fn begin(
    shared: &Arc<Shared>,
    asking: Asking,
    ready: Ready,
    admitted: Admitted,
) -> Result<Started, Refusal> {
    let feed = ready.feed;
    let (decided, decision) = Decision::new();
    let pending = if let Some(admission) = admitted.pending {
        Some(Box::new(Pending {
            admission: *admission,
            first: admitted.events,
            limit: ready.limit,
            decided,
        }))
    } else {
        let (events, count) = (&admitted.events, admitted.events.len() as u64);
        feed.publish(EventChunk::of(events), count);
        None
    };
    let is_pending = pending.is_some();
    let stored = Stored {
        response_id: admitted.response.id.clone(),
        epoch: admitted.epoch,
        journal: shared.journal.clone(),
        feed: Arc::clone(&feed),
        tasks: shared.tasks.clone(),
    };
    let tool_shape = ready.agent.tool_shape(&asking.request);
    let asking_people = execution::Asking {
        approved: admitted.approved,
        ..execution::Asking::of(
            &asking.request,
            &asking.tenant,
            shared.incarnation,
            shared.config.approval,
        )
    };
    shared.credentials.keep(ready.id, &asking.credentials);
    let servers = servers(
        &ready.parameters,
        &asking.request.mcp_servers_with_credentials,
        asking.credentials,
        shared.config.request_mcp.as_ref(),
        [],
    );
    let execution = Box::new(Execution {
        toolbox: ready.agent.toolbox_with(servers),
        listings: Listings::ToShow,
        agent: ready.agent,
        run: admitted.run,
        pending,
        starts: if asking.request.background {
            Starts::First
        } else {
            Starts::Began
        },
        input: admitted.input,
        turns: admitted.turns,
        instructions: admitted.instructions,
        parameters: ready.parameters,
        tool_shape,
        streamed: asking.request.stream,
        on_broken_stream: shared.config.on_broken_stream,
        asking: asking_people,
        watched: asking.follow == Follow::Events,
        sink: Sink::Stored(stored),
        cancel: ready.cancel,
        stamps: admitted.stamps,
        now: clock::unix_millis,
        draining: shared.draining.clone(),
        release: shared.release.child_token(),
        fence: Some(Arc::clone(&shared.fence)),
    });
    let leave = execution.release.clone();
    shared.execute(
        ready.id,
        asking.tenant,
        Arc::clone(&feed),
        execution,
        ready.room,
        Execution::execute,
    );
    if is_pending {
        // It panicked, and may be stored.
        let unknown = |_| Err(Refusal::Unknown(unknown()));
        decision.await.unwrap_or_else(unknown)?;
        shared.active.execute(ready.id, &feed, leave);
    }
    Ok(Started::Begun {
        response: Box::new(admitted.response),
        feed,
    })
}

/// What is said of a request that panicked, perhaps after the run was stored: to be asked for again only under its key.
fn unknown() -> Status {
    Reason::StoreUnavailable.status("What became of the request is not known.")
}

fn only(message: StartRunResponse) -> Updates {
    stream::once(async { Ok(message) }).boxed()
}
