//! Admits runs: everything that can refuse one happens here, before anything is written.

use std::time::Duration;

use bytes::Bytes;
use talaria_domain::context::{self, InputItem, call_items, check_pairs, resolve_input};
use talaria_domain::echo;
use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_domain::run::Run;
use talaria_proto::v1::{
    AdmitRunRequest, ContextItem, DeleteResponseRequest, EventChunk, LoadContextRequest,
    LoadContextResponse, Response, RunRequest, Status as RunStatus, Turn,
};
use talaria_runtime::error::Reason;
use talaria_runtime::{clock, ids};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::journal::{Journal, deadline, within};

/// A conversation moves on under a request at most this often before the request is refused.
const CONVERSATION_TRIES: usize = 3;
/// How long one call may take, and how long an admission waits for a store that does not answer: together less than
/// a façade waits for an admission.
const CALL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a write which nobody waits for any more may still reach the database: two batches and a statement.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// A run that may begin.
#[derive(Debug)]
pub struct Admitted {
    pub run: Run,
    pub epoch: i32,
    pub input: Vec<ContextItem>,
    pub turns: Vec<Turn>,
    /// The response as it was created.
    pub response: Response,
    /// The first events, which are durable if the run is.
    pub events: EventChunk,
    pub event_count: u64,
}

/// Why a run did not begin.
#[derive(Debug)]
pub enum Refusal {
    /// It was refused, and nothing of it was written.
    Refused(Status),
    /// The store never said what became of it.
    Unknown(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Refused(status) | Refusal::Unknown(status) => status,
        }
    }
}

/// Checks a request against what it continues from, and writes the run down unless it is ephemeral.
///
/// A refusal leaves nothing behind.
pub async fn admit(
    journal: &Journal,
    owner: Uuid,
    tenant: &str,
    agent_name: &str,
    id: Uuid,
    request: &RunRequest,
) -> Result<Admitted, Refusal> {
    for _ in 0..CONVERSATION_TRIES {
        match admit_once(journal, owner, tenant, agent_name, id, request).await {
            Err(Refusal::Refused(status))
                if Reason::of(&status) == Some(Reason::ConversationChanged) => {}
            outcome => return outcome,
        }
    }
    let message = "The conversation's active response is not completed yet.";
    Err(Refusal::Refused(
        Reason::ConversationResponseNotCompleted.status_at("conversation", message),
    ))
}

async fn admit_once(
    journal: &Journal,
    owner: Uuid,
    tenant: &str,
    agent_name: &str,
    id: Uuid,
    request: &RunRequest,
) -> Result<Admitted, Refusal> {
    let input = context::input_items(&request.input).map_err(|error| bad_context(&error))?;
    let mut context = load_context(journal, tenant, request, &input).await?;
    let items = std::mem::take(&mut context.items);
    let input = resolve_input(id, input, items).map_err(|error| bad_context(&error))?;
    check_pairs(&call_items(&context.turns, &input)).map_err(|error| bad_context(&error))?;

    let (conversation_id, conversation_name) = match (&request.conversation, &context) {
        (None, _) => (None, None),
        (
            Some(_),
            LoadContextResponse {
                conversation_id: Some(found),
                ..
            },
        ) => (Some(found.clone()), None),
        // An ephemeral turn leaves no trace: it does not make the conversation either.
        (Some(_), _) if !request.store => (None, None),
        (Some(name), _) => (
            Some(ConversationId(ids::new_id()).to_string()),
            Some(name.clone()),
        ),
    };
    let response = created(agent_name, id, request, conversation_id.clone())?;
    let mut run = Run::create(id, response.clone());
    if !request.background {
        run.start();
    }
    let events = run.take_events();
    let event_count = events.len() as u64;
    let events = EventChunk::of(&events);
    let mut epoch = 0;
    if request.store {
        let mut stored = request.clone();
        stored.input = input.iter().map(|item| item.item.clone()).collect();
        let admission = AdmitRunRequest {
            tenant: tenant.to_owned(),
            response_id: ResponseId(id).to_string(),
            owner: owner.to_string(),
            status: response.status,
            request: Some(stored),
            events: Some(events.clone()),
            event_count: u32::try_from(event_count).unwrap_or(u32::MAX),
            parent_response_id: context.parent_response_id,
            conversation_id,
            conversation_name,
        };
        epoch = write(journal, admission).await?;
    }
    Ok(Admitted {
        run,
        epoch,
        input,
        turns: context.turns,
        response,
        events,
        event_count,
    })
}

async fn load_context(
    journal: &Journal,
    tenant: &str,
    request: &RunRequest,
    input: &[InputItem],
) -> Result<LoadContextResponse, Status> {
    let reference = |item: &InputItem| match item {
        InputItem::Reference(id) => Some(id.clone()),
        InputItem::Item(_) => None,
    };
    let item_ids: Vec<String> = input.iter().filter_map(reference).collect();
    let starts_fresh = request.previous_response_id.is_none() && request.conversation.is_none();
    if starts_fresh && item_ids.is_empty() {
        return Ok(LoadContextResponse::default());
    }
    let load = LoadContextRequest {
        tenant: tenant.to_owned(),
        previous_response_id: request.previous_response_id.clone(),
        conversation: request.conversation.clone(),
        item_ids,
    };
    within(CALL, journal.load_context(load))
        .await
        .map_err(store_status)
}

/// The response as it looks when it is created.
fn created(
    agent_name: &str,
    id: Uuid,
    request: &RunRequest,
    conversation_id: Option<String>,
) -> Result<Response, Status> {
    let settings = echo::settings(request.instructions.as_deref(), &request.parameters)
        .map_err(|_| Reason::InvalidValue.status_at("parameters", "The parameters are no JSON."))?;
    let model = if request.model.is_empty() {
        agent_name
    } else {
        &request.model
    };
    let status = if request.background {
        RunStatus::Queued
    } else {
        RunStatus::InProgress
    };
    Ok(Response {
        id: ResponseId(id).to_string(),
        status: status.into(),
        created_at: clock::unix_seconds(),
        model: model.to_owned(),
        settings: Bytes::from(settings),
        previous_response_id: request.previous_response_id.clone(),
        conversation_id,
        background: request.background,
        store: request.store,
        ..Response::default()
    })
}

fn bad_context(error: &context::Error) -> Status {
    let reason = match error {
        context::Error::NoToolCall { .. } => Reason::NoToolCall,
        context::Error::NoToolOutput { .. } => Reason::NoToolOutput,
        context::Error::NotAnObject { .. } => Reason::InvalidValue,
    };
    reason.status_at("input", error.to_string())
}

/// Writes the run down; repeats itself while the store does not say what became of it.
async fn write(journal: &Journal, admission: AdmitRunRequest) -> Result<i32, Refusal> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let mut client = journal.client();
        let call = client.admit_run(admission.clone());
        match within(CALL, call).await {
            Ok(admitted) => return Ok(admitted.into_inner().epoch),
            Err(status) if !is_unknown(&status) => return Err(Refusal::Refused(status)),
            Err(status) if started.elapsed() > PATIENCE => {
                return Err(Refusal::Unknown(store_status(status)));
            }
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// A store that did not answer, as callers are told of it.
fn store_status(status: Status) -> Status {
    if is_unknown(&status) && Reason::of(&status).is_none() {
        return Reason::StoreUnavailable.status("The store is not available right now.");
    }
    status
}

/// Whether a status leaves open what happened.
fn is_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}

/// Makes sure that a run whose admission was never answered does not exist. Goes on until the store says so.
///
/// That it is not there says nothing while the admission may still be on its way to the database.
pub async fn revoke(journal: &Journal, tenant: String, id: Uuid) {
    const LONGEST: Duration = Duration::from_hours(1);
    let started = tokio::time::Instant::now();
    let request = DeleteResponseRequest {
        tenant,
        response_id: ResponseId(id).to_string(),
    };
    while started.elapsed() < LONGEST {
        let mut client = journal.client();
        match deadline(client.delete_response(request.clone())).await {
            Ok(_) => return,
            Err(status) if !is_unknown(&status) && started.elapsed() > ON_ITS_WAY => return,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
