//! Ephemeral runs: never written anywhere, and gone with the call that started them.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::stream::{self, Stream, StreamExt};
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{EventChunk, Follow, RunRequest, StartRunResponse};
use talaria_runtime::{clock, ids};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::{Room, Updates, admitted, choice, message, parameters, room};
use crate::admission::{Admission, Admitted, Asked, Limit, admit};
use crate::execution::{Asking, Ephemeral, Execution, Listings, Sink, Starts};
use crate::request_mcp::{Credentials, check_labels, servers};
use crate::service::Shared;

/// Messages of an ephemeral run that its caller has not read yet; then the run waits.
const EPHEMERAL_MESSAGES: usize = 16;

/// Checks an ephemeral run and executes it for as long as the caller listens.
pub async fn start_ephemeral(
    shared: &Arc<Shared>,
    tenant: &str,
    request: RunRequest,
    credentials: Credentials,
    follow: Follow,
) -> Result<Updates, Status> {
    let agent = shared.agents.select(&request.model)?;
    let parameters = parameters(&request)?;
    choice::check(&parameters, |name| agent.toolbox.may_have(name))?;
    check_labels(&parameters, &agent)?;
    let Room {
        place,
        mut beginning,
    } = room(shared).await?;
    let asked = Asked {
        id: ids::new_id(),
        owner: shared.incarnation,
        tenant,
        agent_name: &agent.name,
        inherit_instructions: agent.inherit_instructions,
        request: &request,
        idempotency: None,
        no_place: None,
        may_be_pending: false,
        limit: Limit::begin(),
    };
    let Admission::Begins(begun) = admit(&shared.journal, &asked).await? else {
        return Err(Status::internal("an ephemeral run can only begin"));
    };
    let Admitted {
        run,
        input,
        turns,
        instructions,
        response,
        events,
        stamps,
        ..
    } = *begun;
    let (to, updates) = mpsc::channel(EPHEMERAL_MESSAGES);
    let mut firsts = vec![Ok(admitted(response))];
    if follow == Follow::Events {
        firsts.push(Ok(message(Message::Events(EventChunk::of(&events)))));
    }
    let owned = CancellationToken::new();
    let tool_shape = agent.tool_shape(&request);
    let with_credentials = &request.mcp_servers_with_credentials;
    let egress = shared.config.request_mcp.as_ref();
    let servers = servers(&parameters, with_credentials, credentials, egress, []);
    let execution = Box::new(Execution {
        toolbox: agent.toolbox_with(servers),
        listings: Listings::ToShow,
        agent,
        run,
        pending: None,
        starts: Starts::Began,
        input,
        turns,
        instructions,
        parameters,
        tool_shape,
        streamed: request.stream,
        on_broken_stream: shared.config.on_broken_stream,
        asking: Asking::nobody(shared.incarnation, shared.config.approval),
        watched: follow == Follow::Events,
        sink: Sink::Ephemeral(Ephemeral {
            to,
            follow,
            tasks: shared.tasks.clone(),
        }),
        cancel: CancellationToken::new(),
        stamps,
        now: clock::unix_millis,
        draining: shared.draining.clone(),
        // The run belongs to this call: when it is dropped, the run is.
        release: owned.clone(),
        // Nobody can take it over.
        fence: None,
    });
    let stopping = shared.release.clone();
    shared.tasks.spawn(async move {
        let _place = place;
        let execution = Box::pin(execution.execute());
        let execution = AssertUnwindSafe(beginning.during(execution)).catch_unwind();
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
