//! Reads what comes with requests about runs: the body of a new one, queries, cursors, ids, approvals.

use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{ApprovalChoice, ListResponsesRequest, RunRequest, Status};

use super::object::{STATUSES, WAITING};
use crate::check::body::Body;
use crate::check::{Node, quoted};
use crate::error::{ApiError, printable};
use crate::paging::{Order, Page};
use crate::responses::request::create_request;
use crate::session::Session;

/// The longest id of an approval, in characters.
const MAX_REQUEST_ID: usize = 256;
/// The longest reason that the model is told, in characters.
const MAX_REASON: usize = 4_096;
/// Who decided where nobody says who it was.
const DECIDED_BY: &str = "api";

/// What `body`, the JSON of `POST /v1/runs`, asks for: a response that is stored and runs in the background.
///
/// A session that is named without anything else to continue from is continued.
pub fn create_run_request(body: &[u8], session: Session) -> Result<RunRequest, ApiError> {
    if has_no_input(body) {
        let message = "Missing 'input' field";
        return Err(ApiError::invalid("missing_required_parameter", message).with_param("input"));
    }
    let mut run = create_request(body)?;
    if !run.store {
        let message = "Unsupported parameter: a run is always stored; 'store' cannot be false.";
        return Err(ApiError::invalid("unsupported_parameter", message).with_param("store"));
    }
    if run.session_id.is_empty() {
        run.session_id = session.id.unwrap_or_default();
    }
    run.session_key = session.key.unwrap_or_default();
    let continues_other =
        run.previous_response_id.is_some() || run.conversation.is_some() || run.brings_history;
    run.continues_session = !run.session_id.is_empty() && !continues_other;
    run.background = true;
    run.stream = false;
    Ok(run)
}

/// Whether a readable body names no input at all.
fn has_no_input(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Head>(body).is_ok_and(|head| match head.input {
        None => true,
        Some(input) => ["\"\"", "[]", "null"].contains(&input.get()),
    })
}

/// The record of a run, by either of its names.
pub fn run_id(id: &str) -> Result<ResponseId, ApiError> {
    let found = ResponseId::parse_run(id).or_else(|| ResponseId::parse(id));
    found.ok_or_else(|| not_found(id))
}

/// 404: `id` names no run of this tenant.
pub fn not_found(id: &str) -> ApiError {
    ApiError::not_found(format!("Run not found: {}", printable(id))).with_code("run_not_found")
}

/// Which runs are asked for; none when no run can be meant.
pub fn list_request(
    tenant: &str,
    query: Option<&str>,
) -> Result<Option<ListResponsesRequest>, ApiError> {
    let page = Page::parse(query, Order::NewestFirst)?;
    if page.order == Order::OldestFirst {
        let message = "Invalid value: 'asc'. Runs are listed newest first.";
        return Err(ApiError::invalid("invalid_value", message).with_param("order"));
    }
    let after = page.after.map(|id| {
        let found = ResponseId::parse_run(&id).or_else(|| ResponseId::parse(&id));
        let message = || format!("Invalid 'after': {} is no id of a run.", quoted(&id));
        let invalid = || ApiError::invalid("invalid_value", message()).with_param("after");
        found.map(|id| id.to_string()).ok_or_else(invalid)
    });
    let mut list = ListResponsesRequest {
        tenant: tenant.to_owned(),
        after: after.transpose()?,
        limit: u32::try_from(page.limit).unwrap_or(u32::MAX),
        ..ListResponsesRequest::default()
    };
    let (mut named, mut meant) = (false, Vec::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "status" => {
                named |= !value.is_empty();
                read_statuses(&value, &mut meant)?;
                // Among others they are running ones.
                list.waiting_for_approval = value.trim() == WAITING;
            }
            "session_id" => list.session_id = filter("session_id", &value)?,
            "idempotency_key" => list.idempotency_key = filter("idempotency_key", &value)?,
            _ => {}
        }
    }
    list.statuses = meant.into_iter().map(i32::from).collect();
    Ok((!named || !list.statuses.is_empty()).then_some(list))
}

fn read_statuses(names: &str, meant: &mut Vec<Status>) -> Result<(), ApiError> {
    for name in names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let Some((_, statuses)) = STATUSES.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = STATUSES.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "Invalid value: {}. Supported values are: {}.",
                quoted(name),
                known.join(", ")
            );
            return Err(ApiError::invalid("invalid_value", message).with_param("status"));
        };
        meant.extend(*statuses);
    }
    meant.sort_unstable();
    meant.dedup();
    Ok(())
}

/// A text to look for; an empty one is none. What no stored text can be is refused.
fn filter(name: &str, value: &str) -> Result<Option<String>, ApiError> {
    if value.chars().count() > 256 || value.contains('\0') {
        let message = format!("Invalid '{name}': {} is none.", quoted(value));
        return Err(ApiError::invalid("invalid_value", message).with_param(name));
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// The id of the last frame that a reader has; 0 for none, and for what is no such id, as with Hermes.
///
/// The header counts before the query: a browser that comes back asks with the query it began with.
pub fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> u64 {
    if let Some(id) = headers.get("last-event-id") {
        return id.to_str().map_or(0, read_event_id);
    }
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "after")
        .map_or(0, |(_, value)| read_event_id(&value))
}

fn read_event_id(id: &str) -> u64 {
    let canonical = !id.starts_with('0') && id.len() <= 20;
    let digits = id.bytes().all(|byte| byte.is_ascii_digit());
    Some(id)
        .filter(|_| canonical && digits)
        .and_then(|id| id.parse().ok())
        .unwrap_or(0)
}

/// A person's answer to a run that waits for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub choice: ApprovalChoice,
    /// For everything that waits, not just for one.
    pub all: bool,
    pub request_id: Option<String>,
    /// What the model is told with it.
    pub reason: Option<String>,
    /// Who decides, as whoever asks for it says.
    pub decided_by: String,
}

/// Reads the body of an approval.
pub fn approval(body: &[u8]) -> Result<Approval, ApiError> {
    let body = Body::parse(body)?;
    let root = body.node();
    let choice = root
        .optional("choice")
        .and_then(|choice| read_choice(choice.value()));
    let choice = choice.ok_or_else(|| {
        let message = "Invalid 'choice': it must be one of once, session, always and deny.";
        ApiError::invalid("invalid_approval_choice", message).with_param("choice")
    })?;
    let switch = |name| {
        root.optional(name)
            .map_or(Ok(false), |node: Node| node.switch())
    };
    let all = switch("all")? | switch("resolve_all")?;
    let request_id = root.optional("request_id").map(|id| {
        let text = id.value().as_str().map(str::trim).unwrap_or_default();
        let fits = (1..=MAX_REQUEST_ID).contains(&text.chars().count());
        let message = "Invalid 'request_id': it must be 1 to 256 characters.";
        let invalid = || ApiError::invalid("invalid_approval_request", message);
        let id = fits.then(|| text.to_owned());
        id.ok_or_else(|| invalid().with_param("request_id"))
    });
    Ok(Approval {
        choice,
        all,
        request_id: request_id.transpose()?,
        reason: optional_text(&root, "reason", MAX_REASON)?,
        decided_by: optional_text(&root, "decided_by", MAX_REQUEST_ID)?
            .unwrap_or_else(|| DECIDED_BY.to_owned()),
    })
}

/// A text of up to `max` characters that may be left out; an empty one is none.
fn optional_text(root: &Node, name: &str, max: usize) -> Result<Option<String>, ApiError> {
    let Some(node) = root.optional(name) else {
        return Ok(None);
    };
    let fits = |text: &&str| text.chars().count() <= max && !text.contains('\0');
    let text = node.value().as_str().map(str::trim).filter(fits);
    let text = text.ok_or_else(|| {
        let message = format!("Invalid '{name}': it must be a text of up to {max} characters.");
        ApiError::invalid("invalid_approval_request", message).with_param(name)
    })?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn read_choice(choice: &Value) -> Option<ApprovalChoice> {
    match choice.as_str()?.trim().to_ascii_lowercase().as_str() {
        "once" | "approve" | "approved" | "allow" => Some(ApprovalChoice::Once),
        "session" => Some(ApprovalChoice::Session),
        "always" => Some(ApprovalChoice::Always),
        "deny" => Some(ApprovalChoice::Deny),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
