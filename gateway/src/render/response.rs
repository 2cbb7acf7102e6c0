//! OpenAI's response object.

use talaria_domain::json::push_string;
use talaria_proto::v1::{Response, Status, Usage};

use super::{push_name, push_number, push_optional, push_raw};

/// The response as a JSON object.
pub fn response_json(response: &Response) -> String {
    let output: usize = response.output.iter().map(bytes::Bytes::len).sum();
    let mut json = String::with_capacity(1024 + response.settings.len() + output);
    push_response(&mut json, response);
    json
}

/// Appends the response as a JSON object.
pub fn push_response(json: &mut String, response: &Response) {
    json.push('{');
    push_name(json, "id");
    push_string(json, &response.id);
    push_name(json, "object");
    json.push_str("\"response\"");
    push_name(json, "created_at");
    push_number(json, response.created_at);
    push_name(json, "status");
    push_string(json, status_name(response.status()));
    push_name(json, "background");
    json.push_str(if response.background { "true" } else { "false" });
    push_name(json, "completed_at");
    match response.completed_at {
        Some(at) => push_number(json, at),
        None => json.push_str("null"),
    }
    push_name(json, "error");
    match &response.error {
        Some(error) => {
            json.push('{');
            for (name, value) in [
                ("code", &error.code),
                ("message", &error.message),
                ("type", &error.r#type),
            ] {
                push_name(json, name);
                push_string(json, value);
            }
            push_name(json, "param");
            push_optional(json, error.param.as_deref());
            json.push('}');
        }
        None => json.push_str("null"),
    }
    push_name(json, "incomplete_details");
    match &response.incomplete_reason {
        Some(reason) => {
            json.push('{');
            push_name(json, "reason");
            push_string(json, reason);
            json.push('}');
        }
        None => json.push_str("null"),
    }
    push_name(json, "model");
    push_string(json, &response.model);
    push_name(json, "output");
    json.push('[');
    for (index, item) in response.output.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_raw(json, item);
    }
    json.push(']');
    push_name(json, "previous_response_id");
    push_optional(json, response.previous_response_id.as_deref());
    push_name(json, "conversation");
    match &response.conversation_id {
        Some(id) => {
            json.push('{');
            push_name(json, "id");
            push_string(json, id);
            json.push('}');
        }
        None => json.push_str("null"),
    }
    push_name(json, "store");
    json.push_str(if response.store { "true" } else { "false" });
    push_name(json, "usage");
    match &response.usage {
        Some(usage) => push_usage(json, usage),
        None => json.push_str("null"),
    }
    let settings = std::str::from_utf8(&response.settings).unwrap_or_default();
    let members = settings
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    if let Some(members) = members.filter(|members| !members.is_empty()) {
        json.push(',');
        json.push_str(members);
    }
    json.push('}');
}

fn push_usage(json: &mut String, usage: &Usage) {
    json.push('{');
    push_name(json, "input_tokens");
    push_number(json, usage.input_tokens);
    json.push_str(",\"input_tokens_details\":{");
    push_name(json, "cached_tokens");
    push_number(json, usage.cached_tokens);
    push_name(json, "cache_write_tokens");
    push_number(json, usage.cache_write_tokens);
    json.push('}');
    push_name(json, "output_tokens");
    push_number(json, usage.output_tokens);
    json.push_str(",\"output_tokens_details\":{");
    push_name(json, "reasoning_tokens");
    push_number(json, usage.reasoning_tokens);
    json.push('}');
    push_name(json, "total_tokens");
    push_number(json, usage.total_tokens);
    json.push('}');
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::InProgress | Status::Unspecified => "in_progress",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Incomplete => "incomplete",
        Status::Cancelled => "cancelled",
    }
}
