//! Starting runs: stored ones, which live by themselves, and ephemeral ones, which live in the call.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{Follow, RunRequest, StartRunResponse};
use talaria_runtime::error::Reason;
use talaria_runtime::{clock, ids};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::active::ActiveRun;
use crate::admission::{self, Admitted, Refusal, admit};
use crate::execution::{Ephemeral, Execution, Sink, Stored};
use crate::feed::Feed;
use crate::service::{Shared, events};

/// Messages of an ephemeral run that its caller has not read yet; then the run waits.
const EPHEMERAL_MESSAGES: usize = 16;
/// How long a run waits for the store to know this process.
const REGISTRATION: Duration = Duration::from_secs(5);

/// What a caller is told about a run it started.
pub type Updates = BoxStream<'static, Result<StartRunResponse, Status>>;

/// Admits a stored run, has it executed, and follows it.
pub async fn start_stored(
    shared: &Arc<Shared>,
    tenant: String,
    request: RunRequest,
    follow: Follow,
) -> Result<Updates, Status> {
    let (reply, started) = oneshot::channel();
    let task = Arc::clone(shared);
    // Whoever asked may go at any moment; what was admitted is executed all the same.
    shared.tasks.spawn(async move {
        let started = admit_stored(&task, tenant, request, follow).await;
        let _ = reply.send(started);
    });
    let stopped = |_| Reason::OrchestratorUnavailable.status("The server is stopping.");
    let (response, feed) = started.await.map_err(stopped)??;
    let admitted = message(Message::Admitted(talaria_proto::v1::Admitted {
        response: Some(response),
    }));
    let first = stream::once(async { Ok(admitted) });
    Ok(match follow {
        Follow::Nothing => first.boxed(),
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

/// Admits a stored run and begins to execute it.
async fn admit_stored(
    shared: &Arc<Shared>,
    tenant: String,
    request: RunRequest,
    follow: Follow,
) -> Result<(talaria_proto::v1::Response, Arc<Feed>), Status> {
    let agent = shared.agents.select(&request.model)?;
    let parameters = parameters(&request)?;
    tokio::time::timeout(REGISTRATION, shared.registered.wait())
        .await
        .map_err(|_| Reason::StoreUnavailable.status("The store is not available right now."))?;
    let place = place(shared)?;
    let feed = Feed::new(0);
    let cancel = CancellationToken::new();
    // Known before it is written, so that it never looks like a run that this process lost.
    let run = ActiveRun {
        tenant: tenant.clone(),
        feed: Arc::clone(&feed),
        cancel: cancel.clone(),
    };
    let id = shared.active.begin(run);
    let admitted = admit(
        &shared.journal,
        shared.incarnation,
        &tenant,
        &agent.name,
        id,
        &request,
    )
    .await;
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(Refusal::Refused(status)) => {
            shared.active.remove(id, &feed);
            return Err(status);
        }
        Err(Refusal::Unknown(status)) => {
            let task = Arc::clone(shared);
            shared.tasks.spawn(async move {
                admission::revoke(&task.journal, tenant, id).await;
                task.active.remove(id, &feed);
            });
            return Err(status);
        }
    };
    let Admitted {
        run,
        epoch,
        input,
        turns,
        response,
        events,
        event_count,
    } = admitted;
    feed.publish(events, event_count);
    let stored = Stored {
        response_id: response.id.clone(),
        epoch,
        journal: shared.journal.clone(),
        feed: Arc::clone(&feed),
        tasks: shared.tasks.clone(),
    };
    let execution = Execution {
        agent,
        run,
        starts: request.background,
        input,
        turns,
        instructions: request.instructions,
        parameters,
        watched: follow == Follow::Events,
        sink: Sink::Stored(stored),
        cancel,
        release: shared.release.clone(),
    };
    shared.execute(
        id,
        tenant,
        Arc::clone(&feed),
        execution,
        Some(place),
        |execution| execution.execute(clock::unix_seconds),
    );
    Ok((response, feed))
}

/// Checks an ephemeral run and executes it for as long as the caller listens.
pub async fn start_ephemeral(
    shared: &Arc<Shared>,
    tenant: &str,
    request: RunRequest,
    follow: Follow,
) -> Result<Updates, Status> {
    let agent = shared.agents.select(&request.model)?;
    let parameters = parameters(&request)?;
    let place = place(shared)?;
    let id = ids::new_id();
    let admitted = admit(
        &shared.journal,
        shared.incarnation,
        tenant,
        &agent.name,
        id,
        &request,
    )
    .await?;
    let Admitted {
        run,
        input,
        turns,
        response,
        events,
        ..
    } = admitted;
    let (to, updates) = mpsc::channel(EPHEMERAL_MESSAGES);
    let first = message(Message::Admitted(talaria_proto::v1::Admitted {
        response: Some(response),
    }));
    let mut firsts = vec![Ok(first)];
    if follow == Follow::Events {
        firsts.push(Ok(message(Message::Events(events))));
    }
    let owned = CancellationToken::new();
    let execution = Execution {
        agent,
        run,
        starts: false,
        input,
        turns,
        instructions: request.instructions,
        parameters,
        watched: follow == Follow::Events,
        sink: Sink::Ephemeral(Ephemeral {
            to,
            follow,
            tasks: shared.tasks.clone(),
        }),
        cancel: CancellationToken::new(),
        // The run belongs to this call: when it is dropped, the run is.
        release: owned.clone(),
    };
    let stopping = shared.release.clone();
    shared.tasks.spawn(async move {
        let _place = place;
        let execution = Box::pin(execution.execute(clock::unix_seconds));
        let execution = AssertUnwindSafe(execution).catch_unwind();
        tokio::select! {
            outcome = execution => {
                if outcome.is_err() {
                    tracing::error!("executing an ephemeral run panicked");
                }
            }
            () = stopping.cancelled() => {}
        }
    });
    let updates = stream::iter(firsts).chain(ReceiverStream::new(updates));
    Ok(Owned {
        updates: updates.boxed(),
        _owner: owned.drop_guard(),
    }
    .boxed())
}

/// Updates of a run that ends when they are dropped.
struct Owned {
    updates: Updates,
    _owner: DropGuard,
}

impl Stream for Owned {
    type Item = Result<StartRunResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.updates.poll_next_unpin(cx)
    }
}

fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(&shared.places).try_acquire_owned().map_err(|_| {
        let max = shared.config.max_concurrent;
        Reason::RateLimitExceeded.status(format!("Too many concurrent runs (max {max})"))
    })
}

fn parameters(request: &RunRequest) -> Result<talaria_domain::model::Object, Status> {
    if request.parameters.is_empty() {
        return Ok(talaria_domain::model::Object::new());
    }
    serde_json::from_slice(&request.parameters)
        .map_err(|_| Reason::InvalidValue.status_at("parameters", "The parameters are no JSON."))
}

fn message(message: Message) -> StartRunResponse {
    StartRunResponse {
        message: Some(message),
    }
}
