//! `GET /v1/capabilities`: what this server can do, in the shape that Hermes' clients look for.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::session::{SESSION_ID, SESSION_KEY};
use crate::{Config, Cors, Gateway, models};

/// How long an idempotency key stands for its response after the response has ended, at least: the shortest retention
/// of responses that can be set is a day.
const KEYS_KEPT_SECONDS: u32 = 86_400;

pub async fn show_capabilities(State(gateway): State<Gateway>) -> Result<Json<Value>, ApiError> {
    let agents = models::agents(&gateway).await?;
    let model = agents.first().map(|agent| agent.name.as_str());
    Ok(Json(capabilities(model, &gateway.config)))
}

fn capabilities(model: Option<&str>, config: &Config) -> Value {
    json!({
        "object": "hermes.api_server.capabilities",
        "platform": "talaria",
        "model": model,
        "auth": {"type": "bearer", "required": config.api_key.is_some()},
        "runtime": {
            "mode": "server_agent",
            "tool_execution": "server",
            "split_runtime": false,
            "description": "The server runs the agent with its tools and keeps what it does; the client runs the function tools that it sends.",
        },
        "features": features(config),
        "endpoints": endpoints(),
    })
}

/// What there is, and what Hermes servers have and this one has not.
fn features(config: &Config) -> Value {
    let allows_pages = match &config.cors {
        Cors::Any => true,
        Cors::List(origins) => !origins.is_empty(),
    };
    let keys = json!({
        "supported": true, "durable": true, "retention_seconds": KEYS_KEPT_SECONDS,
    });
    json!({
        "chat_completions": true,
        "chat_completions_streaming": true,
        "responses_api": true,
        "responses_streaming": true,
        "responses_cancel": true,
        "responses_resume": true,
        "responses_snapshot": true,
        "responses_idempotency": keys,
        "chat_completions_idempotency": keys,
        "conversations_api": true,
        "conversation_queue": true,
        "run_submission": true,
        "run_list": true,
        "run_status": true,
        "run_events_sse": true,
        "run_stop": true,
        "run_steer": false,
        "run_approval_response": true,
        "runs_idempotency": keys,
        "approval_events": true,
        "tool_progress_events": config.tool_progress_events,
        "reasoning_streaming": true,
        "model_options": false,
        "session_continuity_header": header_name(SESSION_ID.as_str()),
        "session_key_header": header_name(SESSION_KEY.as_str()),
        "session_resources": false,
        "session_chat": false,
        "session_chat_streaming": false,
        "session_fork": false,
        "session_model_lock": false,
        "skills_api": false,
        "admin_config_rw": false,
        "jobs_admin": false,
        "memory_write_api": false,
        "audio_api": false,
        "realtime_voice": false,
        "cors": allows_pages,
    })
}

fn endpoints() -> Value {
    let endpoints = [
        ("health", "GET", "/health"),
        ("health_detailed", "GET", "/health/detailed"),
        ("models", "GET", "/v1/models"),
        ("capabilities", "GET", "/v1/capabilities"),
        ("chat_completions", "POST", "/v1/chat/completions"),
        ("responses", "POST", "/v1/responses"),
        ("response", "GET", "/v1/responses/{response_id}"),
        ("response_delete", "DELETE", "/v1/responses/{response_id}"),
        (
            "response_cancel",
            "POST",
            "/v1/responses/{response_id}/cancel",
        ),
        (
            "response_input_items",
            "GET",
            "/v1/responses/{response_id}/input_items",
        ),
        ("conversations", "POST", "/v1/conversations"),
        ("conversation", "GET", "/v1/conversations/{conversation_id}"),
        (
            "conversation_items",
            "GET",
            "/v1/conversations/{conversation_id}/items",
        ),
        ("runs", "POST", "/v1/runs"),
        ("run_list", "GET", "/v1/runs"),
        ("run_status", "GET", "/v1/runs/{run_id}"),
        ("run_events", "GET", "/v1/runs/{run_id}/events"),
        ("run_stop", "POST", "/v1/runs/{run_id}/stop"),
    ];
    endpoints
        .into_iter()
        .map(|(name, method, path)| (name.to_owned(), json!({"method": method, "path": path})))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The name of a header as people write it: `X-Hermes-Session-Id`.
fn header_name(name: &str) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('-')
        .map(capitalised)
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ChatDisconnect;

    fn config(cors: Cors, api_key: Option<&str>, tool_progress_events: bool) -> Config {
        Config {
            api_key: api_key.map(Into::into),
            cors,
            max_body_bytes: 1,
            keepalive: Duration::from_secs(10),
            chat_disconnect: ChatDisconnect::BySession,
            tool_progress_events,
        }
    }

    #[test]
    fn what_depends_on_the_settings_follows_them() {
        let closed = config(Cors::List(Vec::new()), None, false);
        let open = config(Cors::Any, Some("a-key-of-16-letters"), true);

        let told = [&closed, &open].map(|config| {
            let told = capabilities(Some("hermes-agent"), config);
            let features = &told["features"];
            json!([
                told["auth"],
                features["cors"],
                features["tool_progress_events"]
            ])
            .to_string()
        });

        insta::assert_snapshot!(told.join("\n"), @r#"
        [{"type":"bearer","required":false},false,false]
        [{"type":"bearer","required":true},true,true]
        "#);
    }

    #[test]
    fn headers_are_named_as_people_write_them() {
        assert_eq!(header_name(SESSION_ID.as_str()), "X-Hermes-Session-Id");
        assert_eq!(header_name(SESSION_KEY.as_str()), "X-Hermes-Session-Key");
    }
}
