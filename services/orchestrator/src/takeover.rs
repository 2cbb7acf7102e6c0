//! Executing claimed runs: those of processes that died, and those whose turn in a line it is.

use std::sync::Arc;

use talaria_domain::context::{call_items, check_pairs, leave_unanswered_calls_out};
use talaria_domain::ids::ResponseId;
use talaria_domain::model::server_error;
use talaria_domain::run::{End, Run};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{ClaimedRun, ContextItem, ResponseError, Status as RunStatus, Turn};
use talaria_runtime::clock;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admission::bad_context;
use crate::execution::{Asking, Execution, Listings, Sink, Starts, Stored};
use crate::feed::Feed;
use crate::request_mcp::servers;
use crate::service::Shared;
use crate::stamps::Stamps;
use crate::start::{Room, parameters};

/// Goes on with a claimed run, or begins it, in a task of its own.
pub fn take_over(shared: &Arc<Shared>, claimed: ClaimedRun) -> Result<(), String> {
    let id = ResponseId::parse(&claimed.response_id)
        .ok_or("its id is broken")?
        .0;
    let request = claimed.request.ok_or("it has no request")?;
    let mut snapshot = Snapshot::default();
    let mut latest_ms = 0;
    for chunk in &claimed.events {
        for event in chunk.events().map_err(|error| error.to_string())? {
            snapshot.apply(&event).map_err(|error| error.to_string())?;
            latest_ms = event.at_ms.max(latest_ms);
        }
    }
    let parameters = parameters(&request).map_err(|error| error.message().to_owned())?;
    // An agent that is gone leaves its runs to the default one.
    let agent = shared
        .agents
        .select(&request.model)
        .or_else(|_| shared.agents.select(""));
    let agent = agent.map_err(|_| "there is no agent")?;
    let tool_shape = agent.tool_shape(&request);
    let timing = shared.config.approval;
    let asking = Asking::of(&request, &claimed.tenant, shared.incarnation, timing);
    let feed = Feed::new(snapshot.next_sequence_number());
    let input = |item| ContextItem {
        item,
        upstream_id: String::new(),
    };
    let input: Vec<ContextItem> = request.input.into_iter().map(input).collect();
    let mut turns = claimed.turns;
    if request.continues_session {
        leave_unanswered_calls_out(&mut turns, &input);
    }
    let stored = Stored {
        response_id: claimed.response_id.clone(),
        epoch: claimed.epoch,
        journal: shared.journal.clone(),
        feed: Arc::clone(&feed),
        tasks: shared.tasks.clone(),
    };
    let end = if claimed.cancelled {
        Some(End::Cancelled)
    } else if is_hopeless(shared, id, &snapshot, claimed.attempt) {
        Some(End::Failed(crashed()))
    } else {
        unfit(snapshot.status(), &turns, &input).map(End::Failed)
    };
    let stamps = Stamps::new(snapshot.base().created_at, latest_ms);
    let run = Run::resume(id, snapshot);
    let before = turns
        .iter()
        .flat_map(|turn| turn.input.iter().chain(&turn.output));
    let servers = servers(
        &parameters,
        &request.mcp_servers_with_credentials,
        shared.credentials.of(id),
        shared.config.request_mcp.as_ref(),
        before.chain(&input).chain(&run.output()),
    );
    let execution = Box::new(Execution {
        toolbox: agent.toolbox_with(servers),
        listings: Listings::ToShow,
        agent,
        stamps,
        run,
        pending: None,
        starts: Starts::of_attempt(claimed.attempt),
        input,
        turns,
        instructions: request.instructions,
        parameters,
        tool_shape,
        streamed: request.stream,
        on_broken_stream: shared.config.on_broken_stream,
        asking,
        watched: true,
        sink: Sink::Stored(stored),
        cancel: CancellationToken::new(),
        now: clock::unix_millis,
        draining: shared.draining.clone(),
        release: shared.release.child_token(),
        fence: Some(Arc::clone(&shared.fence)),
    });
    let response_id = claimed.response_id;
    if claimed.begins {
        tracing::info!(response.id = response_id, "began a run that waited");
    } else {
        let attempt = claimed.attempt;
        tracing::info!(response.id = response_id, attempt, "took the run over");
    }
    // One run too many is better than one that nobody executes; and what only has to end needs no place.
    let room = Room::of_place(match end {
        None => Arc::clone(&shared.places).try_acquire_owned().ok(),
        Some(_) => None,
    });
    let tenant = claimed.tenant;
    shared.execute(id, tenant, feed, execution, room, |execution| async {
        match end {
            None => execution.execute().await,
            Some(end) => execution.end_at_once(end).await,
        }
    });
    Ok(())
}

/// Whether so many executions of a run crashed without getting any further that it is given up. `attempt` counts the
/// processes that died of it.
fn is_hopeless(shared: &Shared, id: Uuid, snapshot: &Snapshot, attempt: u32) -> bool {
    let panicked = shared.panics.of(id, snapshot.next_sequence_number());
    snapshot.fruitless_attempts(attempt.saturating_add(panicked)) > shared.config.max_attempts
}

/// Why a run is given up that processes die of. The code is one of OpenAI's, which clients may know a closed list of;
/// ours is in the message.
fn crashed() -> ResponseError {
    server_error(
        "The run was given up: each server that executed it died before it got any further (run_crashed).",
    )
}

/// Why no model can be asked for a run that waited: what it continues from does not fit its input.
///
/// Those that began at once were refused for it.
fn unfit(status: RunStatus, turns: &[Turn], input: &[ContextItem]) -> Option<ResponseError> {
    if status != RunStatus::Queued {
        return None;
    }
    let error = check_pairs(&call_items(turns, input)).err()?;
    Some(ResponseError {
        code: "invalid_prompt".to_owned(),
        message: bad_context(&error).message().to_owned(),
        r#type: "invalid_request_error".to_owned(),
        param: Some("input".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_turn_it_is_fails_if_its_input_answers_no_call() {
        let output = ContextItem {
            item: r#"{"type":"function_call_output","call_id":"a","output":""}"#.into(),
            ..ContextItem::default()
        };
        let call = ContextItem {
            item: r#"{"type":"function_call","call_id":"a","status":"completed"}"#.into(),
            ..ContextItem::default()
        };
        let before = Turn {
            output: vec![call],
            ..Turn::default()
        };
        let input = [output];

        assert_eq!(unfit(RunStatus::Queued, &[before], &input), None);
        assert_eq!(unfit(RunStatus::InProgress, &[], &input), None);
        assert_eq!(
            unfit(RunStatus::Queued, &[], &input),
            Some(ResponseError {
                code: "invalid_prompt".to_owned(),
                message: "No tool call found for function call output with call_id a.".to_owned(),
                r#type: "invalid_request_error".to_owned(),
                param: Some("input".to_owned()),
            })
        );
    }
}
