//! Admits runs: everything that can refuse one happens here, before anything is written.

mod answers;
mod created;
mod limit;
mod write;

use talaria_domain::context::{
    self, ApprovalAnswer, InputItem, call_items, check_pairs, leave_unanswered_calls_out,
    resolve_input,
};
use talaria_domain::run::{ApprovedCall, Run};
use talaria_proto::v1::{
    AdmitRunRequest, AdmitRunResponse, ContextItem, Event, EventChunk, Idempotency,
    LoadContextRequest, LoadContextResponse, OnActive, Response, RunRequest, Turn, Wait,
};
use talaria_runtime::clock;
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use self::created::{Conversation, created, session};
pub use self::limit::{CALL, Limit};
use self::write::PATIENCE;
pub use self::write::{insist, is_unknown, store_status};
use crate::execution::approved_call_sent;
use crate::journal::Journal;
use crate::stamps::Stamps;

/// A conversation moves on under a request at most this often before the request waits in line, or is refused.
const TRIES_TO_BEGIN: usize = 3;
/// How often one tries that may wait.
const TRIES_TO_WAIT: usize = 10;
/// The epoch under which the first owner of a run writes.
const FIRST_EPOCH: i32 = 1;

/// Runs that wait in one conversation's line at most.
const LONGEST_LINE: u32 = 1000;

/// A request to run.
#[derive(Debug)]
pub struct Asked<'a> {
    pub id: Uuid,
    /// Incarnation of the process that will execute it.
    pub owner: Uuid,
    pub tenant: &'a str,
    pub agent_name: &'a str,
    /// Whether the instructions of what it continues from hold for a request without any.
    pub inherit_instructions: bool,
    pub request: &'a RunRequest,
    pub idempotency: Option<&'a Idempotency>,
    /// Why it cannot begin at once, if it cannot. It can still wait in line.
    pub no_place: Option<Status>,
    /// Whether its admission may be left to be written, where nothing but the store can refuse it.
    pub may_be_pending: bool,
    pub limit: Limit,
}

/// What became of a request that was not refused.
#[derive(Debug)]
pub enum Admission {
    Begins(Box<Admitted>),
    /// It stands in its conversation's line, as it was created.
    Waits(Box<Response>),
    /// Its idempotency key names this response to the same request; nothing was written.
    Replayed {
        response_id: String,
    },
}

/// A run that may begin.
#[derive(Debug)]
pub struct Admitted {
    pub run: Run,
    pub epoch: i32,
    /// What has yet to be written, with the first events.
    pub pending: Option<Box<AdmitRunRequest>>,
    pub input: Vec<ContextItem>,
    pub turns: Vec<Turn>,
    /// Calls that its input agrees to.
    pub approved: Vec<ApprovedCall>,
    /// The client's, or those of what the run continues from where the agent inherits them.
    pub instructions: Option<String>,
    /// The response as it was created.
    pub response: Response,
    /// The first events, which are durable if the run is.
    pub events: Vec<Event>,
    pub stamps: Stamps,
}

/// Why a run was not admitted.
#[derive(Debug)]
pub enum Refusal {
    /// It was refused, and nothing of it was written.
    Refused(Status),
    /// It was refused, but an earlier try may be stored yet: nobody heard how that ended.
    RefusedLate(Status),
    /// The store never said what became of it.
    Unknown(Status),
}

impl Refusal {
    /// What is said of it.
    pub fn status(&self) -> &Status {
        match self {
            Self::Refused(status) | Self::RefusedLate(status) | Self::Unknown(status) => status,
        }
    }

    /// The same after tries that may be stored yet, if there were any.
    pub fn after(self, maybe_stored: bool) -> Self {
        match self {
            Self::Refused(status) if maybe_stored => Self::RefusedLate(status),
            refusal => refusal,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Refused(status) | Refusal::RefusedLate(status) | Refusal::Unknown(status) => {
                status
            }
        }
    }
}

/// Checks a request against what it continues from, and writes the run down, unless it is ephemeral or that is left to
/// its execution.
///
/// A refusal leaves nothing behind.
pub async fn admit(journal: &Journal, asked: &Asked<'_>) -> Result<Admission, Refusal> {
    let tries = if may_wait(asked.request) {
        TRIES_TO_WAIT
    } else {
        TRIES_TO_BEGIN
    };
    let mut maybe_stored = false;
    for attempt in 1..=tries {
        let refusal = match admit_once(journal, asked, attempt >= TRIES_TO_BEGIN).await {
            Ok(admission) => return Ok(admission),
            Err(refusal) => refusal,
        };
        maybe_stored |= matches!(refusal, Refusal::RefusedLate(_));
        match refusal {
            Refusal::Refused(status) | Refusal::RefusedLate(status)
                if Reason::of(&status) == Some(Reason::ConversationChanged) => {}
            refusal => return Err(refusal.after(maybe_stored)),
        }
    }
    let message = "The conversation's active response is not completed yet.";
    let status = Reason::ConversationResponseNotCompleted.status_at("conversation", message);
    Err(Refusal::Refused(status).after(maybe_stored))
}

/// Whether a request would wait for its conversation. One that is not stored cannot: nothing of it would be left to
/// begin with.
pub fn may_wait(request: &RunRequest) -> bool {
    request.store && request.conversation.is_some() && request.on_active() != OnActive::Reject
}

/// A context that no model takes, as clients are told of it.
pub fn bad_context(error: &context::Error) -> Status {
    let reason = match error {
        context::Error::NoToolCall { .. } => Reason::NoToolCall,
        context::Error::NoToolOutput { .. } => Reason::NoToolOutput,
        context::Error::NotAnObject { .. } => Reason::InvalidValue,
    };
    reason.status_at("input", error.to_string())
}

async fn admit_once(
    journal: &Journal,
    asked: &Asked<'_>,
    in_any_case: bool,
) -> Result<Admission, Refusal> {
    let Asked { id, request, .. } = *asked;
    let input = context::input_items(&request.input).map_err(|error| bad_context(&error))?;
    let answers = answers::read(request)?;
    let mut context = load_context(journal, asked, &input, &answers).await?;
    let wait = wait(request, &context, in_any_case);
    check_room(asked, wait, &context)?;
    let mut items = std::mem::take(&mut context.items);
    let answered = answers::take(&answers, &mut items)?;
    let input = resolve_input(id, input, items).map_err(|error| bad_context(&error))?;
    if request.continues_session {
        leave_unanswered_calls_out(&mut context.turns, &input);
    }
    if wait == Wait::Not {
        // What a run that waits continues from is known when it begins.
        check_pairs(&call_items(&context.turns, &input)).map_err(|error| bad_context(&error))?;
    }

    let conversation = Conversation::of(request, &context);
    let queued = request.background || wait != Wait::Not;
    let now_ms = clock::unix_millis();
    let instructions = request.instructions.clone().or(context.instructions);
    let mut response = created(
        asked,
        instructions.as_deref(),
        queued,
        now_ms.div_euclid(1000),
    )?;
    response.conversation_id.clone_from(&conversation.id);
    response.session_id = session(id, request, context.session_id);
    let mut run = Run::create(id, response.clone());
    if !queued {
        run.start();
    }
    let mut stamps = Stamps::new(response.created_at, 0);
    let mut events = run.take_events();
    stamps.put(&mut events, now_ms);
    let mut epoch = FIRST_EPOCH;
    let mut pending = None;
    if request.store {
        let admission = AdmitRunRequest {
            tenant: asked.tenant.to_owned(),
            response_id: response.id.clone(),
            owner: asked.owner.to_string(),
            status: response.status,
            request: Some(RunRequest {
                input: input.iter().map(|item| item.item.clone()).collect(),
                instructions: instructions.clone(),
                approved_calls: answered.approved.iter().map(approved_call_sent).collect(),
                ..request.clone()
            }),
            events: None,
            event_count: 0,
            parent_response_id: context
                .parent_response_id
                .filter(|_| wait == Wait::Not && !request.brings_history),
            conversation_id: conversation.id,
            conversation_name: conversation.new_name,
            session_id: (response.session_id != id.to_string())
                .then(|| response.session_id.clone()),
            model: response.model.clone(),
            idempotency: asked.idempotency.cloned(),
            wait: wait.into(),
            answers: answered.answers,
        };
        if asked.may_be_pending && depends_on_itself(&admission) {
            pending = Some(Box::new(admission));
        } else {
            let admission = AdmitRunRequest {
                events: Some(EventChunk::of(&events)),
                event_count: u32::try_from(events.len()).unwrap_or(u32::MAX),
                ..admission
            };
            let written = insist(journal, asked.limit, || {
                let (mut client, admission) = (journal.client(), admission.clone());
                async move { client.admit_run(admission).await }
            });
            match written.await?.into_inner() {
                AdmitRunResponse {
                    existing_response_id: Some(response_id),
                    ..
                } if response_id != response.id => return Ok(Admission::Replayed { response_id }),
                AdmitRunResponse { epoch: written, .. } => epoch = written,
            }
        }
    }
    if wait != Wait::Not {
        return Ok(Admission::Waits(Box::new(response)));
    }
    Ok(Admission::Begins(Box::new(Admitted {
        run,
        epoch,
        pending,
        input,
        turns: context.turns,
        approved: answered.approved,
        instructions,
        response,
        events,
        stamps,
    })))
}

/// Whether nothing that others do can have the store refuse it, but for the deletion of what it continues from.
fn depends_on_itself(admission: &AdmitRunRequest) -> bool {
    admission.conversation_id.is_none()
        && admission.idempotency.is_none()
        && admission.answers.is_empty()
}

async fn load_context(
    journal: &Journal,
    asked: &Asked<'_>,
    input: &[InputItem],
    answers: &[ApprovalAnswer],
) -> Result<LoadContextResponse, Status> {
    let request = asked.request;
    let reference = |item: &InputItem| match item {
        InputItem::Reference(id) => Some(id.clone()),
        InputItem::Item(_) => None,
    };
    let questions = answers.iter().map(|answer| answer.request_id.clone());
    let item_ids: Vec<String> = input
        .iter()
        .filter_map(reference)
        .chain(questions)
        .collect();
    let names_its_past = request.previous_response_id.is_some() || request.conversation.is_some();
    let of_session = request.continues_session && !names_its_past && !request.session_id.is_empty();
    if !names_its_past && !of_session && item_ids.is_empty() {
        return Ok(LoadContextResponse::default());
    }
    let load = LoadContextRequest {
        tenant: asked.tenant.to_owned(),
        previous_response_id: request.previous_response_id.clone(),
        conversation: request.conversation.clone(),
        item_ids,
        session_id: of_session.then(|| request.session_id.clone()),
        may_wait: may_wait(request),
        without_turns: request.brings_history,
        with_instructions: asked.inherit_instructions && request.instructions.is_none(),
    };
    asked
        .limit
        .read(|| journal.load_context(load.clone()))
        .await
}

/// Whether a run begins at once, or where in its conversation's line it waits.
///
/// With `in_any_case` it waits also if nobody seems to be before it: whoever made the other tries fail was.
fn wait(request: &RunRequest, context: &LoadContextResponse, in_any_case: bool) -> Wait {
    let somebody_is_before = context.busy || (in_any_case && context.conversation_id.is_some());
    if !may_wait(request) || !somebody_is_before {
        return Wait::Not;
    }
    match request.on_active() {
        OnActive::Reject => Wait::Not,
        OnActive::Enqueue => Wait::InLine,
        OnActive::Interrupt => Wait::Interrupting,
    }
}

fn check_room(asked: &Asked<'_>, wait: Wait, context: &LoadContextResponse) -> Result<(), Status> {
    match wait {
        Wait::Not => asked.no_place.clone().map_or(Ok(()), Err),
        Wait::InLine | Wait::Interrupting if context.waiting >= LONGEST_LINE => {
            let message =
                format!("Too many responses wait in the conversation (max {LONGEST_LINE})");
            Err(Reason::RateLimitExceeded.status_at("conversation", message))
        }
        Wait::InLine | Wait::Interrupting => Ok(()),
    }
}

#[cfg(test)]
mod tests;
