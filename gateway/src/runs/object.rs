//! The run object: a response as Hermes' clients know it.

use serde_json::{Map, Value};
use talaria_domain::ids::ResponseId;
use talaria_domain::json::{ObjectWriter, push_string};
use talaria_domain::run::has_ended;
use talaria_proto::v1::{
    self as pb, ApprovalChoice, ListedResponse, PendingApproval, Status, Usage,
};

use crate::session;

/// The statuses of runs that clients can ask for, and those of ours that they stand for.
///
/// A run that ended before it was done is shown as failed, since that is an end that every client of Hermes knows;
/// `partial` tells it from one with nothing to show. Those that are to stop are among the running ones, and so are those
/// that wait for an approval, unless nothing else is asked for.
pub const STATUSES: [(&str, &[Status]); 8] = [
    ("queued", &[Status::Queued]),
    ("running", &[Status::InProgress]),
    (WAITING, &[Status::InProgress]),
    ("stopping", &[]),
    ("completed", &[Status::Completed]),
    ("failed", &[Status::Failed, Status::Incomplete]),
    ("cancelled", &[Status::Cancelled]),
    ("interrupted", &[]),
];

/// The status of a run that waits for a person.
pub const WAITING: &str = "waiting_for_approval";

/// What a person may decide about a call.
pub const CHOICES: &str = r#"["once","session","always","deny"]"#;

/// What Hermes calls a status.
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::InProgress | Status::Unspecified => "running",
        Status::Completed => "completed",
        Status::Failed | Status::Incomplete => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// A run that was just started.
pub fn started_json(response: &pb::Response) -> String {
    let mut object = head(&Head {
        status: "started",
        ..Head::of(response, 0)
    });
    object.raw("replayed", "false");
    object.finish()
}

/// A run as the store knows it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub response: pb::Response,
    /// Unix milliseconds of its last write; 0 if that is not known.
    pub updated_at_ms: i64,
    /// It was asked to stop.
    pub stops: bool,
    /// Calls that it waits for a person with.
    pub pending: Vec<PendingApproval>,
}

/// A run as it stands.
pub fn run_json(run: &Run) -> String {
    object_of(run).finish()
}

/// The same, for a client that asked for it to be started once more.
pub fn replayed_json(run: &Run) -> String {
    let mut object = object_of(run);
    object.raw("replayed", "true");
    object.finish()
}

/// A run as lists show it, with its id.
pub fn listed(run: &ListedResponse) -> (String, String) {
    let status = run.status();
    let id = ResponseId::parse(&run.response_id);
    let session_id = match (run.session_id.is_empty(), id) {
        (true, Some(id)) => id.0.to_string(),
        _ => run.session_id.clone(),
    };
    let mut object = head(&Head {
        response_id: &run.response_id,
        status: if run.waits_for_approval {
            WAITING
        } else {
            status_name(status)
        },
        created_at_ms: run.created_at_ms - run.created_at_ms.rem_euclid(1_000),
        updated_at_ms: run.updated_at_ms,
        session_id,
        model: &run.model,
        last_event: end_event(status),
    });
    if let Some(key) = &run.idempotency_key {
        object.string("idempotency_key", key);
    }
    (run_id(&run.response_id), object.finish())
}

fn object_of(run: &Run) -> ObjectWriter {
    let response = &run.response;
    let mut shown = Head::of(response, run.updated_at_ms);
    if run.stops && !has_ended(response) {
        (shown.status, shown.last_event) = ("stopping", Some("run.stopping"));
    } else if !run.pending.is_empty() {
        shown.status = WAITING;
    }
    let mut object = head(&shown);
    if let Some(first) = run.pending.first() {
        object.raw("approval", &pending_json(first));
        let all: Vec<String> = run.pending.iter().map(pending_json).collect();
        object.raw("approvals", &format!("[{}]", all.join(",")));
    }
    if let Some(id) = &response.conversation_id {
        object.string("conversation", id);
    }
    if let Some(id) = &response.previous_response_id {
        object.string("previous_response_id", id);
    }
    let output = output_text(&response.output);
    if has_ended(response) || !output.is_empty() {
        object.string("output", &output);
    }
    if response.usage.is_some() {
        object.raw("usage", &usage_json(response.usage.as_ref()));
    }
    match response.status() {
        Status::Failed => {
            object.string("error", &error_text(response));
        }
        Status::Incomplete => {
            object.string("error", &error_text(response));
            object.raw("partial", "true");
        }
        Status::Completed
        | Status::Cancelled
        | Status::Queued
        | Status::InProgress
        | Status::Unspecified => {}
    }
    object
}

/// What all run objects say.
struct Head<'a> {
    response_id: &'a str,
    status: &'a str,
    created_at_ms: i64,
    updated_at_ms: i64,
    session_id: String,
    model: &'a str,
    last_event: Option<&'static str>,
}

impl<'a> Head<'a> {
    fn of(response: &'a pb::Response, updated_at_ms: i64) -> Self {
        Self {
            response_id: &response.id,
            status: status_name(response.status()),
            created_at_ms: response.created_at.saturating_mul(1_000),
            updated_at_ms,
            session_id: session::of_response(response),
            model: &response.model,
            last_event: end_event(response.status()).or_else(|| newest_event(&response.output)),
        }
    }
}

fn head(head: &Head) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object
        .string("object", "hermes.run")
        .string("run_id", &run_id(head.response_id))
        .string("response_id", head.response_id)
        .string("status", head.status)
        .raw("created_at", &seconds(head.created_at_ms))
        .raw(
            "updated_at",
            &seconds(head.updated_at_ms.max(head.created_at_ms)),
        )
        .string("session_id", &head.session_id)
        .string("model", head.model);
    match head.last_event {
        Some(event) => object.string("last_event", event),
        None => object.raw("last_event", "null"),
    };
    object
}

fn run_id(response_id: &str) -> String {
    ResponseId::parse(response_id).map_or_else(|| response_id.to_owned(), ResponseId::run_id)
}

/// The event that a run with this status ended with.
fn end_event(status: Status) -> Option<&'static str> {
    match status {
        Status::Completed => Some("run.completed"),
        Status::Failed | Status::Incomplete => Some("run.failed"),
        Status::Cancelled => Some("run.cancelled"),
        Status::Queued | Status::InProgress | Status::Unspecified => None,
    }
}

/// The event that a run tells its newest item with. Calls of tools that are nobody's business are told with none.
fn newest_event(output: &[bytes::Bytes]) -> Option<&'static str> {
    type Item = Map<String, Value>;
    fn text<'a>(item: &'a Item, name: &str) -> &'a str {
        item.get(name).and_then(Value::as_str).unwrap_or_default()
    }
    let is_private = |item: &Item| text(item, "name").starts_with('_');
    let read = |item: &bytes::Bytes| serde_json::from_slice::<Item>(item).ok();
    let is_call = |item: &Item, id: &str| {
        text(item, "type") == "function_call" && text(item, "call_id") == id
    };
    let is_of_private = |output_item: &Item| {
        let id = text(output_item, "call_id");
        let mut calls = output.iter().rev().filter_map(read);
        calls
            .find(|item| is_call(item, id))
            .is_some_and(|call| is_private(&call))
    };
    output.iter().rev().filter_map(read).find_map(|item| {
        let open = text(&item, "status") == "in_progress";
        match text(&item, "type") {
            "message" => Some("message.delta"),
            "reasoning" if open => Some("reasoning.delta"),
            "reasoning" => Some("reasoning.available"),
            "mcp_approval_request" => Some("approval.request"),
            "mcp_approval_response" => Some("approval.responded"),
            "function_call_output" if is_of_private(&item) => None,
            "function_call_output" if open => Some("tool.started"),
            "function_call_output" => Some("tool.completed"),
            _ if is_private(&item) => None,
            "function_call" => Some("tool.started"),
            item_type if item_type.ends_with("_call") && open => Some("tool.started"),
            item_type if item_type.ends_with("_call") => Some("tool.completed"),
            _ => None,
        }
    })
}

/// The answer: the text of the last message that has one. What came before it was said on the way.
pub fn output_text(output: &[bytes::Bytes]) -> String {
    let text_of = |item: &bytes::Bytes| {
        let item: Map<String, Value> = serde_json::from_slice(item).ok()?;
        if item.get("type").and_then(Value::as_str) != Some("message") {
            return None;
        }
        let parts = item.get("content").and_then(Value::as_array)?;
        let text = |part: &Value| {
            let text = part.get("text").or_else(|| part.get("refusal"))?;
            text.as_str().map(str::to_owned)
        };
        let text: String = parts.iter().filter_map(text).collect();
        (!text.is_empty()).then_some(text)
    };
    output.iter().rev().find_map(text_of).unwrap_or_default()
}

/// Why a run did not come to its end.
pub fn error_text(response: &pb::Response) -> String {
    if let Some(error) = &response.error {
        return error.message.clone();
    }
    match &response.incomplete_reason {
        Some(reason) => format!("The run ended before it was done: {reason}."),
        None => "The run ended before it was done.".to_owned(),
    }
}

/// Tokens, as Hermes counts them.
pub fn usage_json(usage: Option<&Usage>) -> String {
    let usage = usage.copied().unwrap_or_default();
    format!(
        r#"{{"input_tokens":{},"output_tokens":{},"total_tokens":{}}}"#,
        usage.input_tokens, usage.output_tokens, usage.total_tokens
    )
}

/// Milliseconds as seconds with three decimals.
pub fn seconds(millis: i64) -> String {
    format!("{}.{:03}", millis / 1_000, millis.unsigned_abs() % 1_000)
}

/// A call that waits for a person.
fn pending_json(call: &PendingApproval) -> String {
    let mut object = ObjectWriter::new();
    object
        .string("request_id", &call.request_id)
        .string("tool", &call.name)
        .string("server_label", &call.server_label)
        .string("arguments", &call.arguments)
        .raw("choices", CHOICES)
        .raw("expires_at", &call.expires_at.to_string());
    object.finish()
}

/// What came of an approval.
pub fn approval_json(id: ResponseId, choice: ApprovalChoice, request_ids: &[String]) -> String {
    let mut object = ObjectWriter::new();
    object
        .string("object", "hermes.run.approval_response")
        .string("run_id", &id.run_id())
        .string("choice", choice_name(choice))
        .raw("resolved", &request_ids.len().to_string());
    if let [request_id] = request_ids {
        object.string("request_id", request_id);
    }
    object.finish()
}

fn choice_name(choice: ApprovalChoice) -> &'static str {
    match choice {
        ApprovalChoice::Once => "once",
        ApprovalChoice::Session => "session",
        ApprovalChoice::Always => "always",
        ApprovalChoice::Deny | ApprovalChoice::Unspecified => "deny",
    }
}

/// `{"run_id":…,"status":"stopping"}`: a run that was asked to stop.
pub fn stopping_json(id: ResponseId) -> String {
    let mut json = String::from("{\"run_id\":");
    push_string(&mut json, &id.run_id());
    json.push_str(",\"status\":\"stopping\"}");
    json
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const ID: &str = "resp_019234567890701280000000000000aa";

    fn response(status: Status, output: &[&'static str]) -> pb::Response {
        let mut response = pb::Response {
            id: ID.to_owned(),
            created_at: 1_700_000_000,
            model: "agent".to_owned(),
            output: output
                .iter()
                .map(|item| Bytes::from_static(item.as_bytes()))
                .collect(),
            store: true,
            ..pb::Response::default()
        };
        response.set_status(status);
        response
    }

    #[test]
    fn every_status_of_ours_is_asked_for_by_the_name_that_it_is_shown_as() {
        for status in [
            Status::Queued,
            Status::InProgress,
            Status::Completed,
            Status::Failed,
            Status::Incomplete,
            Status::Cancelled,
        ] {
            let named = STATUSES
                .iter()
                .find(|(_, statuses)| statuses.contains(&status));
            assert_eq!(named.map(|(name, _)| *name), Some(status_name(status)));
        }
    }

    #[test]
    fn a_run_that_was_started_says_where_to_look_for_it() {
        insta::assert_snapshot!(
            started_json(&response(Status::Queued, &[])),
            @r#"{"object":"hermes.run","run_id":"run_019234567890701280000000000000aa","response_id":"resp_019234567890701280000000000000aa","status":"started","created_at":1700000000.000,"updated_at":1700000000.000,"session_id":"01923456-7890-7012-8000-0000000000aa","model":"agent","last_event":null,"replayed":false}"#
        );
    }

    #[test]
    fn a_completed_run_shows_its_answer_and_what_it_cost() {
        let mut response = response(
            Status::Completed,
            &[
                r#"{"type":"message","content":[{"type":"output_text","text":"Let me look."}]}"#,
                r#"{"type":"mcp_call","name":"read"}"#,
                r#"{"type":"message","content":[{"type":"output_text","text":"It is "},{"type":"refusal","refusal":"a secret."}]}"#,
                r#"{"type":"message","content":[]}"#,
            ],
        );
        response.session_id = "thread".to_owned();
        response.conversation_id = Some("conv_1".to_owned());
        response.usage = Some(Usage {
            input_tokens: 3,
            output_tokens: 4,
            total_tokens: 7,
            ..Usage::default()
        });

        insta::assert_snapshot!(
            run_json(&Run { response, updated_at_ms: 1_700_000_002_034, stops: true, ..Run::default() }),
            @r#"{"object":"hermes.run","run_id":"run_019234567890701280000000000000aa","response_id":"resp_019234567890701280000000000000aa","status":"completed","created_at":1700000000.000,"updated_at":1700000002.034,"session_id":"thread","model":"agent","last_event":"run.completed","conversation":"conv_1","output":"It is a secret.","usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}"#
        );
    }

    #[test]
    fn a_run_that_ended_early_is_not_shown_as_completed() {
        let said = r#"{"type":"message","content":[{"type":"output_text","text":"Once"}]}"#;
        let mut response = response(Status::Incomplete, &[said]);
        response.incomplete_reason = Some("max_output_tokens".to_owned());

        insta::assert_snapshot!(
            run_json(&Run { response, ..Run::default() }),
            @r#"{"object":"hermes.run","run_id":"run_019234567890701280000000000000aa","response_id":"resp_019234567890701280000000000000aa","status":"failed","created_at":1700000000.000,"updated_at":1700000000.000,"session_id":"01923456-7890-7012-8000-0000000000aa","model":"agent","last_event":"run.failed","output":"Once","error":"The run ended before it was done: max_output_tokens.","partial":true}"#
        );
    }

    #[test]
    fn a_run_that_is_to_stop_says_so_until_it_has() {
        let said = r#"{"type":"message","content":[{"type":"output_text","text":"Once"}]}"#;
        let run = Run {
            response: response(Status::InProgress, &[said]),
            stops: true,
            ..Run::default()
        };

        insta::assert_snapshot!(
            replayed_json(&run),
            @r#"{"object":"hermes.run","run_id":"run_019234567890701280000000000000aa","response_id":"resp_019234567890701280000000000000aa","status":"stopping","created_at":1700000000.000,"updated_at":1700000000.000,"session_id":"01923456-7890-7012-8000-0000000000aa","model":"agent","last_event":"run.stopping","output":"Once","replayed":true}"#
        );
    }

    #[test]
    fn a_running_run_says_what_it_did_last() {
        let calls = r#"{"type":"mcp_call","status":"in_progress"}"#;
        for (output, expected) in [
            (vec![], None),
            (
                vec![r#"{"type":"message","status":"in_progress"}"#],
                Some("message.delta"),
            ),
            (
                vec![r#"{"type":"reasoning","status":"in_progress"}"#],
                Some("reasoning.delta"),
            ),
            (vec![r#"{"type":"reasoning"}"#], Some("reasoning.available")),
            (vec![r#"{"type":"message"}"#, calls], Some("tool.started")),
            (
                vec![calls, r#"{"type":"web_search_call","status":"completed"}"#],
                Some("tool.completed"),
            ),
            (vec![r#"{"type":"function_call"}"#], Some("tool.started")),
            (
                vec![r#"{"type":"function_call_output"}"#],
                Some("tool.completed"),
            ),
            (
                vec![r#"{"type":"function_call_output","status":"in_progress"}"#],
                Some("tool.started"),
            ),
            (
                vec![
                    r#"{"type":"message"}"#,
                    r#"{"type":"mcp_call","name":"_think"}"#,
                    r#"{"type":"function_call","name":"_think","call_id":"c"}"#,
                    r#"{"type":"function_call_output","call_id":"c"}"#,
                ],
                Some("message.delta"),
            ),
            (vec!["broken"], None),
        ] {
            let response = response(Status::InProgress, &output);
            assert_eq!(Head::of(&response, 0).last_event, expected, "{output:?}");
        }
    }

    #[test]
    fn a_listed_run_has_no_output() {
        let mut run = ListedResponse {
            response_id: ID.to_owned(),
            model: "agent".to_owned(),
            created_at_ms: 1_700_000_000_987,
            updated_at_ms: 1_700_000_001_000,
            idempotency_key: Some("k".to_owned()),
            ..ListedResponse::default()
        };
        run.set_status(Status::Failed);

        let (id, json) = listed(&run);

        assert_eq!(id, "run_019234567890701280000000000000aa");
        insta::assert_snapshot!(
            json,
            @r#"{"object":"hermes.run","run_id":"run_019234567890701280000000000000aa","response_id":"resp_019234567890701280000000000000aa","status":"failed","created_at":1700000000.000,"updated_at":1700000001.000,"session_id":"01923456-7890-7012-8000-0000000000aa","model":"agent","last_event":"run.failed","idempotency_key":"k"}"#
        );
    }
}
