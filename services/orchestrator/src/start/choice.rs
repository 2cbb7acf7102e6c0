//! Whether what `tool_choice` names is there: among the client's tools, or among those that the agent runs itself.

use serde_json::Value;
use talaria_domain::model::Object;
use talaria_runtime::error::Reason;
use tonic::Status;

/// The longest part of a name that a message repeats.
const SHOWN_NAME: usize = 64;

/// Refuses a choice of a function that nobody has. `agent_may_have` says whether a tool of this name is the agent's.
pub fn check(parameters: &Object, agent_may_have: impl Fn(&str) -> bool) -> Result<(), Status> {
    let Some((name, place)) = missing(parameters, agent_may_have) else {
        return Ok(());
    };
    let shown: String = name.chars().take(SHOWN_NAME).collect();
    let message = format!("Tool choice '{shown}' not found in 'tools' parameter.");
    Err(Reason::InvalidValue.status_at(&place, message))
}

/// The first function that is chosen and that nobody has, with its place in the request.
fn missing(parameters: &Object, agent_may_have: impl Fn(&str) -> bool) -> Option<(&str, String)> {
    let tools = parameters.get("tools").and_then(Value::as_array);
    let tools = tools.map_or(&[][..], Vec::as_slice);
    // What servers that the request names have is not known before they are asked.
    if tools.iter().any(|tool| tool["type"] == "mcp") {
        return None;
    }
    let is_clients = |name: &str| {
        let mut functions = tools.iter().filter(|tool| tool["type"] == "function");
        functions.any(|tool| tool["name"] == name)
    };
    let mut chosen = chosen_functions(parameters).into_iter();
    chosen.find(|(name, _)| !is_clients(name) && !agent_may_have(name))
}

/// The functions that `tool_choice` names, each with its place in the request.
fn chosen_functions(parameters: &Object) -> Vec<(&str, String)> {
    let function = |choice: &'_ Value| choice["type"] == "function";
    let Some(choice) = parameters.get("tool_choice") else {
        return Vec::new();
    };
    if function(choice) {
        let name = choice["name"].as_str().into_iter();
        return name.map(|name| (name, "tool_choice".to_owned())).collect();
    }
    let allowed = choice["tools"].as_array().into_iter().flatten().enumerate();
    allowed
        .filter(|(_, tool)| function(tool))
        .filter_map(|(at, tool)| Some((tool["name"].as_str()?, format!("tool_choice.tools[{at}]"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_choice_names_tools_of_the_client_s_or_the_agent_s() {
        let mine = json!({"type": "function", "name": "mine"});
        let theirs = json!({"type": "function", "name": "theirs"});
        let nobodys = json!({"type": "function", "name": "nobodys"});
        let custom = json!({"type": "custom", "name": "made"});
        let only =
            |tools: &[&Value]| json!({"type": "allowed_tools", "mode": "auto", "tools": tools});
        let tools = json!([mine, custom]);
        let of_server = json!([{"type": "mcp", "server_label": "s"}]);
        let table = [
            (&tools, json!("auto"), None),
            (&tools, json!("none"), None),
            (&tools, mine.clone(), None),
            (&tools, theirs.clone(), None),
            (&tools, custom.clone(), None),
            (
                &tools,
                json!({"type": "function", "name": "made"}),
                Some("tool_choice"),
            ),
            (&tools, nobodys.clone(), Some("tool_choice")),
            (&tools, only(&[&mine, &theirs, &custom]), None),
            (
                &tools,
                only(&[&mine, &nobodys]),
                Some("tool_choice.tools[1]"),
            ),
            (&of_server, nobodys, None),
        ];
        for (tools, choice, expected) in table {
            let mut parameters = Object::new();
            parameters.insert("tools".to_owned(), tools.clone());
            parameters.insert("tool_choice".to_owned(), choice.clone());

            let missing = missing(&parameters, |name| name == "theirs");

            let place = missing.map(|(_, place)| place);
            assert_eq!(place.as_deref(), expected, "{choice}");
        }
    }
}
