//! What a response looks like when it is created, and where it belongs.

use bytes::Bytes;
use talaria_domain::echo;
use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_proto::v1::{LoadContextResponse, Response, RunRequest, Status as RunStatus};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;
use tonic::Status;
use uuid::Uuid;

use super::Asked;

/// The conversation that a run belongs to.
pub struct Conversation {
    pub id: Option<String>,
    /// Set where it is to be made.
    pub new_name: Option<String>,
}

impl Conversation {
    pub fn of(request: &RunRequest, context: &LoadContextResponse) -> Self {
        let (id, new_name) = match (&request.conversation, &context.conversation_id) {
            (None, _) => (None, None),
            (Some(_), Some(found)) => (Some(found.clone()), None),
            // An ephemeral turn leaves no trace: it does not make the conversation either.
            (Some(_), None) if !request.store => (None, None),
            (Some(name), None) => (
                Some(ConversationId(ids::new_id()).to_string()),
                Some(name.clone()),
            ),
        };
        Self { id, new_name }
    }
}

/// The session of a run: the one asked for, or that of what it continues from, or one of its own.
pub fn session(id: Uuid, request: &RunRequest, inherited: Option<String>) -> String {
    if !request.session_id.is_empty() {
        return request.session_id.clone();
    }
    inherited
        .filter(|session| !session.is_empty())
        .unwrap_or_else(|| id.to_string())
}

/// The response as it looks when it is created at `created_at` (Unix seconds), but for what it continues from.
pub fn created(
    asked: &Asked<'_>,
    instructions: Option<&str>,
    queued: bool,
    created_at: i64,
) -> Result<Response, Status> {
    let request = asked.request;
    let settings = echo::settings(instructions, &request.parameters)
        .map_err(|_| Reason::InvalidValue.status_at("parameters", "The parameters are no JSON."))?;
    let model = if request.model.is_empty() {
        asked.agent_name
    } else {
        &request.model
    };
    let status = if queued {
        RunStatus::Queued
    } else {
        RunStatus::InProgress
    };
    Ok(Response {
        id: ResponseId(asked.id).to_string(),
        status: status.into(),
        created_at,
        model: model.to_owned(),
        settings: Bytes::from(settings),
        previous_response_id: request.previous_response_id.clone(),
        background: request.background,
        store: request.store,
        session_key: request.session_key.clone(),
        ..Response::default()
    })
}
