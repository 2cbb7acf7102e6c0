//! Tools that need no server: for the demo agent, and to try things out.

mod calculator;
mod clock;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{CallContext, Effect, SourceTool, SourceTools, ToolResult};

const MAX_WAIT_SECONDS: f64 = 60.0;

pub(super) fn tools() -> Arc<SourceTools> {
    static TOOLS: LazyLock<Arc<SourceTools>> = LazyLock::new(|| {
        let tools = vec![
            tool("clock", "Tells the date and the time in UTC.", json!({})),
            tool(
                "calculator",
                "Calculates with + - * / and parentheses.",
                json!({"expression": {"type": "string", "description": "For example (1 + 2) * 3."}}),
            ),
            tool(
                "wait",
                "Waits for some seconds, 60 at most.",
                json!({"seconds": {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS}}),
            ),
        ];
        Arc::new(SourceTools {
            label: String::from("demo"),
            tools,
            problem: None,
        })
    });
    Arc::clone(&TOOLS)
}

pub(super) async fn call(
    name: &str,
    arguments: &Map<String, Value>,
    context: &CallContext,
) -> ToolResult {
    match name {
        "clock" => ToolResult::text(clock::rfc3339(talaria_runtime::clock::unix_seconds())),
        "calculator" => match arguments.get("expression").and_then(Value::as_str) {
            Some(expression) => calculator::answer(expression).map_or_else(
                |wrong| ToolResult::error(wrong.to_string()),
                |value| ToolResult::text(value.to_string()),
            ),
            None => ToolResult::error("\"expression\" must be a string."),
        },
        "wait" => match arguments.get("seconds").and_then(Value::as_f64) {
            Some(seconds) if (0.0..=MAX_WAIT_SECONDS).contains(&seconds) => {
                wait(seconds, context).await
            }
            Some(_) | None => ToolResult::error("\"seconds\" must be a number from 0 to 60."),
        },
        unknown => ToolResult::error(format!("There is no tool named \"{unknown}\".")),
    }
}

async fn wait(seconds: f64, context: &CallContext) -> ToolResult {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => ToolResult::error("The call was cancelled."),
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {
            ToolResult::text(format!("Waited for {seconds} s."))
        }
        () = tokio::time::sleep_until(context.deadline) => ToolResult::error("The call took too long."),
    }
}

fn tool(name: &str, description: &str, properties: Value) -> SourceTool {
    let required: Vec<&String> = properties
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .collect();
    let mut parameters = Map::new();
    parameters.insert("type".into(), "object".into());
    parameters.insert("required".into(), json!(required));
    parameters.insert("properties".into(), properties);
    parameters.insert("additionalProperties".into(), false.into());
    SourceTool {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        parameters: Arc::new(parameters),
        annotations: None,
        effect: Effect::Pure,
        needs_approval: false,
    }
}
