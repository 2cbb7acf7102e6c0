//! What the response object must look like at each point of its life.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::items::{check_absent_or_set, check_id};

/// Members that every snapshot has, with the JSON types that they may be of; `?` allows null.
const FIELDS: [(&str, &str); 32] = [
    ("id", "string"),
    ("object", "string"),
    ("created_at", "integer"),
    ("completed_at", "integer?"),
    ("status", "string"),
    ("background", "boolean"),
    ("error", "object?"),
    ("incomplete_details", "object?"),
    ("instructions", "string|array?"),
    ("max_output_tokens", "integer?"),
    ("max_tool_calls", "integer?"),
    ("model", "string"),
    ("output", "array"),
    ("parallel_tool_calls", "boolean"),
    ("previous_response_id", "string?"),
    ("prompt_cache_key", "string?"),
    ("reasoning", "object?"),
    ("safety_identifier", "string?"),
    ("service_tier", "string"),
    ("store", "boolean"),
    ("temperature", "number"),
    ("top_p", "number"),
    ("presence_penalty", "number"),
    ("frequency_penalty", "number"),
    ("top_logprobs", "integer"),
    ("text", "object"),
    ("tool_choice", "string|object"),
    ("tools", "array"),
    ("truncation", "string"),
    ("usage", "object?"),
    ("user", "string?"),
    ("metadata", "object"),
];

/// Members of the request that the response does not repeat, and one that SDKs make up themselves.
const FOREIGN_FIELDS: [&str; 5] = [
    "include",
    "stream",
    "stream_options",
    "context_management",
    "output_text",
];

/// Source: the schema of `response.error.code`.
const ERROR_CODES: [&str; 21] = [
    "server_error",
    "rate_limit_exceeded",
    "invalid_prompt",
    "data_residency_mismatch",
    "bio_policy",
    "vector_store_timeout",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_content_policy_violation",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
    "image_file_not_found",
    "misalignment_policy_violation",
];

/// Source: the schema of `response.incomplete_details.reason`; below it those of Talaria's own.
const INCOMPLETE_REASONS: [&str; 11] = [
    "max_output_tokens",
    "content_filter",
    "max_messages",
    "steered",
    "max_steps",
    "max_tool_calls",
    "max_total_tokens",
    "max_run_seconds",
    "repeated_calls",
    "invalid_tool_calls",
    "abandoned",
];

/// An event that shows the whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Created,
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

impl Point {
    pub(super) fn of(kind: &str) -> Option<Self> {
        match kind {
            "response.created" => Some(Self::Created),
            "response.queued" => Some(Self::Queued),
            "response.in_progress" => Some(Self::InProgress),
            "response.completed" => Some(Self::Completed),
            "response.incomplete" => Some(Self::Incomplete),
            "response.failed" => Some(Self::Failed),
            _ => None,
        }
    }

    pub(super) fn is_end(self) -> bool {
        match self {
            Self::Created | Self::Queued | Self::InProgress => false,
            Self::Completed | Self::Incomplete | Self::Failed => true,
        }
    }

    fn statuses(self) -> &'static [&'static str] {
        match self {
            Self::Created => &["in_progress", "queued"],
            Self::Queued => &["queued"],
            Self::InProgress => &["in_progress"],
            Self::Completed => &["completed"],
            Self::Incomplete => &["incomplete"],
            // There is no event type for cancelled responses.
            Self::Failed => &["failed", "cancelled"],
        }
    }
}

pub(super) fn check(point: Point, response: &Value) -> anyhow::Result<()> {
    for (field, form) in FIELDS {
        let value = response
            .get(field)
            .with_context(|| format!("response.{field} is missing"))?;
        ensure!(
            has_form(value, form),
            "response.{field} is {value}, not {form}"
        );
    }
    for field in FOREIGN_FIELDS {
        ensure!(
            response.get(field).is_none(),
            "response.{field} does not belong there"
        );
    }
    ensure!(
        response["object"] == "response",
        "response.object is not response"
    );
    check_response_id(&response["id"])?;
    check_tools(&response["tools"])?;
    check_absent_or_set(&response["text"], "verbosity")?;
    let status = response["status"].as_str().unwrap_or_default();
    ensure!(
        point.statuses().contains(&status),
        "response.status is {status}, not one of {:?}",
        point.statuses()
    );
    let may_wait = response["background"] == true || !response["conversation"].is_null();
    ensure!(
        status != "queued" || may_wait,
        "a response that is not in the background is queued, and in no conversation"
    );
    check_outcome(status, response)
}

/// Checks the members that say how the response ended, or has not.
fn check_outcome(status: &str, response: &Value) -> anyhow::Result<()> {
    let must_be_null = |fields: &[&str]| {
        for field in fields {
            ensure!(
                response[field].is_null(),
                "response.{field} is set in a response that is {status}"
            );
        }
        Ok(())
    };
    match status {
        "completed" => {
            must_be_null(&["error", "incomplete_details"])?;
            let times = ["created_at", "completed_at"].map(|field| response[field].as_i64());
            ensure!(
                times[1].is_some() && times[0] <= times[1],
                "response.completed_at is null or before created_at"
            );
            check_usage(&response["usage"])
        }
        "incomplete" => {
            must_be_null(&["error", "completed_at"])?;
            let reason = response["incomplete_details"]["reason"].as_str();
            ensure!(
                reason.is_some_and(|reason| INCOMPLETE_REASONS.contains(&reason)),
                "response.incomplete_details.reason is {reason:?}"
            );
            check_usage_if_set(response)
        }
        "failed" => {
            must_be_null(&["completed_at", "incomplete_details"])?;
            check_response_error(&response["error"])?;
            check_usage_if_set(response)
        }
        "cancelled" => {
            must_be_null(&["completed_at", "error", "incomplete_details"])?;
            check_usage_if_set(response)
        }
        _ => {
            ensure!(
                response["output"] == serde_json::json!([]),
                "response.output is not empty in a response that is {status}"
            );
            must_be_null(&["completed_at", "error", "incomplete_details", "usage"])
        }
    }
}

fn check_response_id(id: &Value) -> anyhow::Result<()> {
    check_id(id)?;
    let random = id.as_str().and_then(|id| id.strip_prefix("resp_"));
    ensure!(
        random.is_some_and(|random| random.len() >= 32),
        "response.id is not resp_ and at least 32 characters: {id}"
    );
    Ok(())
}

fn check_tools(tools: &Value) -> anyhow::Result<()> {
    for tool in tools.as_array().into_iter().flatten() {
        ensure!(tool["type"].is_string(), "a tool has no type: {tool}");
        if tool["type"] == "function" {
            for field in ["name", "description", "parameters", "strict"] {
                ensure!(
                    tool.get(field).is_some(),
                    "a function tool has no {field}: {tool}"
                );
            }
        }
    }
    Ok(())
}

fn check_response_error(error: &Value) -> anyhow::Result<()> {
    let code = error["code"].as_str();
    ensure!(
        code.is_some_and(|code| ERROR_CODES.contains(&code)),
        "response.error.code is {code:?}"
    );
    for field in ["message", "type"] {
        ensure!(
            error[field].is_string(),
            "response.error.{field} is not a string"
        );
    }
    ensure!(
        error.get("param").is_some(),
        "response.error.param is missing"
    );
    Ok(())
}

fn check_usage_if_set(response: &Value) -> anyhow::Result<()> {
    match &response["usage"] {
        Value::Null => Ok(()),
        usage => check_usage(usage),
    }
}

fn check_usage(usage: &Value) -> anyhow::Result<()> {
    let counts = [
        "/input_tokens",
        "/input_tokens_details/cached_tokens",
        "/input_tokens_details/cache_write_tokens",
        "/output_tokens",
        "/output_tokens_details/reasoning_tokens",
        "/total_tokens",
    ];
    for count in counts {
        ensure!(
            usage.pointer(count).is_some_and(Value::is_u64),
            "response.usage{count} is not a count: {usage}"
        );
    }
    Ok(())
}

fn has_form(value: &Value, form: &str) -> bool {
    let (types, is_nullable) = match form.strip_suffix('?') {
        Some(types) => (types, true),
        None => (form, false),
    };
    match value {
        Value::Null => is_nullable,
        Value::Bool(_) => types == "boolean",
        Value::Number(number) => types == "number" || types == "integer" && !number.is_f64(),
        Value::String(_) => types.split('|').any(|name| name == "string"),
        Value::Array(_) => types.split('|').any(|name| name == "array"),
        Value::Object(_) => types.split('|').any(|name| name == "object"),
    }
}
