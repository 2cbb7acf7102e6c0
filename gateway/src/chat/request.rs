//! Reads the body of a chat completion: the same run that the Responses API would start, in its spelling.

mod messages;
mod parameters;
mod tools;

#[cfg(test)]
mod tests;

use sha2::{Digest as _, Sha256};
use talaria_proto::v1::RunRequest;

use self::messages::Messages;
use super::chunks::UsageFrame;
use crate::check::Node;
use crate::check::body::Body;
use crate::error::ApiError;
use crate::session::Session;

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// Everything but `store`, which depends on more than the body.
    pub run: RunRequest,
    /// As the body says, if it does.
    pub store: Option<bool>,
    pub usage: UsageFrame,
    /// It offers deprecated `functions`.
    pub is_legacy: bool,
}

/// The longest model name, in characters.
const MAX_NAME: usize = 256;

/// The tenant whose derived session ids are those of a Hermes server.
const DEFAULT_TENANT: &str = "default";

/// What `body`, the JSON of `POST /v1/chat/completions`, asks for.
///
/// With a session, what was said before comes from the store: of the messages only those after the assistant's last
/// one are new. Without, the session's id is made from how the conversation opens, so that one conversation is one
/// session whoever keeps its history.
pub fn chat_request(body: &[u8], session: &Session, tenant: &str) -> Result<ChatRequest, ApiError> {
    let body = Body::parse(body)?;
    let root = body.node();
    let model = root
        .optional("model")
        .map(|model| model.identifier(MAX_NAME))
        .transpose()?;
    let messages = Messages::read(&root)?;
    parameters::refuse_unsupported(&root)?;
    let parameters = parameters::read(&root)?;
    let stream = switch(&root, "stream")?.unwrap_or(false);
    let store = switch(&root, "store")?;
    let continues_session = session.id.is_some();
    let session_id = session
        .id
        .clone()
        .unwrap_or_else(|| derived_session(tenant, &messages));
    let input = if continues_session {
        messages.since_last_answer()
    } else {
        messages.all()
    };
    if input.is_empty() || messages.ends_blank {
        return Err(
            ApiError::bad_request("No user message found in messages").with_param("messages")
        );
    }
    Ok(ChatRequest {
        run: RunRequest {
            model: model.unwrap_or_default().to_owned(),
            input,
            instructions: messages.instructions,
            stream,
            parameters: parameters.into(),
            session_id,
            session_key: session.key.clone().unwrap_or_default(),
            continues_session,
            ..RunRequest::default()
        },
        store,
        usage: usage_frame(&root)?,
        is_legacy: tools::is_legacy(&root),
    })
}

/// Source: the Hermes API server; `default` has the ids that it would have there.
fn derived_session(tenant: &str, messages: &Messages) -> String {
    let mut hasher = Sha256::new();
    if tenant != DEFAULT_TENANT {
        hasher.update(tenant.as_bytes());
        hasher.update(b"\n");
    }
    hasher.update(messages.instructions.as_deref().unwrap_or_default());
    hasher.update(b"\n");
    hasher.update(&messages.first_user_text);
    let digest: [u8; 32] = hasher.finalize().into();
    let first = u64::from_be_bytes(std::array::from_fn(|at| digest[at]));
    format!("api-{first:016x}")
}

fn usage_frame(root: &Node) -> Result<UsageFrame, ApiError> {
    let Some(options) = root.optional("stream_options") else {
        return Ok(UsageFrame::WithFinish);
    };
    options.object()?;
    options.check("include_obfuscation", |flag| flag.switch().map(drop))?;
    Ok(if switch(&options, "include_usage")? == Some(true) {
        UsageFrame::OfItsOwn
    } else {
        UsageFrame::WithFinish
    })
}

fn switch(holder: &Node, name: &str) -> Result<Option<bool>, ApiError> {
    holder.optional(name).map(|node| node.switch()).transpose()
}
