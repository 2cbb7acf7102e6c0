//! Requests as they come over the wire, checked.

use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_proto::v1::{AdmitRunRequest, AppendEventsRequest, Wait};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use crate::admit::{Admit, Conversation, FIRST_EPOCH};
use crate::append::Append;
use crate::approval::Answer;
use crate::keys::Key;

/// A run to admit.
pub fn admission(request: AdmitRunRequest) -> Result<Admit, Status> {
    let wait = request.wait();
    let conversation = match request.conversation_id.as_deref() {
        Some(id) => Some(Conversation {
            id: conversation_id(id)?,
            name: request.conversation_name,
            wait,
        }),
        None if wait == Wait::Not => None,
        None => return Err(invalid("wait", "is for runs in a conversation")),
    };
    let events = append(AppendEventsRequest {
        response_id: request.response_id,
        epoch: FIRST_EPOCH,
        first_sequence_number: 0,
        event_count: request.event_count,
        events: request.events,
        after_silence: false,
    })?;
    let own_session = events.response.to_string();
    Ok(Admit {
        tenant: request.tenant,
        owner: parse_uuid(&request.owner, "owner")?,
        status: i16::try_from(request.status).unwrap_or_default(),
        request: required(request.request, "request")?,
        events,
        parent_turn: request
            .parent_response_id
            .as_deref()
            .map(response_id)
            .transpose()?,
        conversation,
        session: request
            .session_id
            .filter(|session| !session.is_empty() && *session != own_session),
        model: request.model,
        key: request.idempotency.map(|idempotency| Key {
            key: idempotency.key,
            request_hash: idempotency.request_hash.into(),
        }),
        answers: request
            .answers
            .iter()
            .map(Answer::parse)
            .collect::<Result<_, _>>()?,
    })
}

/// Events to append.
pub fn append(request: AppendEventsRequest) -> Result<Append, Status> {
    let out_of_range = |name| invalid(name, "is out of range");
    if request.event_count == 0 {
        return Err(out_of_range("event_count"));
    }
    Ok(Append {
        response: response_id(&request.response_id)?,
        epoch: request.epoch,
        first_seq: i64::try_from(request.first_sequence_number)
            .map_err(|_| out_of_range("first_sequence_number"))?,
        event_count: i64::from(request.event_count),
        events: required(request.events, "events")?,
    })
}

/// The UUID of `resp_…`; what is no id of ours is unknown.
pub fn response_id(id: &str) -> Result<Uuid, Status> {
    ResponseId::parse(id)
        .map(|id| id.0)
        .ok_or_else(|| response_not_found(id))
}

pub fn response_not_found(id: &str) -> Status {
    Reason::ResponseNotFound.status(format!("Response not found: {id}"))
}

pub fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Status> {
    field.ok_or_else(|| invalid(name, "is missing"))
}

pub fn parse_uuid(text: &str, name: &'static str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| invalid(name, "is not a UUID"))
}

fn conversation_id(id: &str) -> Result<Uuid, Status> {
    ConversationId::parse(id)
        .map(|id| id.0)
        .ok_or_else(|| invalid("conversation_id", "is no id"))
}

pub fn invalid(name: &'static str, what: &str) -> Status {
    Reason::InvalidValue.status_at(name, format!("{name} {what}"))
}
