//! Which tools the model is offered, and which of them the request lets it call.

use std::collections::HashSet;

use serde_json::{Value, json};
use talaria_domain::model::Object;

use crate::tools::{Tool, ToolList};

/// Puts the server's tools in front of the client's, whose names count for more. A request that wants no calls is
/// offered none of the server's. The MCP servers that it names are nothing to the upstream: their tools stand among the
/// server's.
pub fn offer(list: &ToolList, parameters: &mut Object) {
    leave_out_servers(parameters);
    let wants_none = parameters
        .get("tool_choice")
        .is_some_and(|choice| choice == "none");
    if list.tools.is_empty() || wants_none {
        return;
    }
    let clients = match parameters.get_mut("tools").map(Value::take) {
        Some(Value::Array(tools)) => tools,
        _ => Vec::new(),
    };
    let is_clients = |name: &str| clients.iter().any(|tool| tool["name"] == name);
    let mut tools: Vec<Value> = list
        .tools
        .iter()
        .filter(|tool| !is_clients(&tool.name))
        .map(Tool::definition)
        .collect();
    tools.extend(clients);
    parameters.insert("tools".to_owned(), tools.into());
}

/// Takes the client's MCP servers out of what the upstream is offered.
fn leave_out_servers(parameters: &mut Object) {
    let Some(tools) = parameters.get_mut("tools").and_then(Value::as_array_mut) else {
        return;
    };
    let before = tools.len();
    tools.retain(|tool| tool["type"] != "mcp");
    if tools.is_empty() && before > 0 {
        parameters.shift_remove("tools");
    }
}

/// Says by their names which tools a choice of a server's means: upstreams know them as functions.
pub fn name_tools_of_servers(list: &ToolList, parameters: &mut Object) {
    let Some(choice) = parameters.get_mut("tool_choice") else {
        return;
    };
    if let Some(named) = functions_of(list, choice) {
        *choice = if named.is_empty() {
            "none".into()
        } else {
            json!({"type": "allowed_tools", "mode": "required", "tools": named})
        };
    } else if let Some(allowed) = choice.get_mut("tools").and_then(Value::as_array_mut) {
        let named = allowed
            .drain(..)
            .flat_map(|tool| match functions_of(list, &tool) {
                Some(named) => named,
                None => vec![tool],
            });
        *allowed = named.collect();
    }
}

/// The functions that stand for a choice of a server's tools; none if it is another choice, or the upstream's server.
fn functions_of(list: &ToolList, choice: &Value) -> Option<Vec<Value>> {
    let label = choice["server_label"]
        .as_str()
        .filter(|_| choice["type"] == "mcp")?;
    let of_server = list.tools.iter().filter(|tool| tool.server_label == label);
    let is_chosen = |tool: &&Tool| match choice["name"].as_str() {
        Some(name) => tool.name == name || tool.name_there() == name,
        None => true,
    };
    let is_requested = list
        .requested
        .iter()
        .any(|server| server.server_label == label);
    let is_ours = is_requested || of_server.clone().next().is_some();
    let named = of_server.filter(is_chosen);
    let named = named.map(|tool| json!({"type": "function", "name": tool.name}));
    is_ours.then(|| named.collect())
}

/// Leaves out of the choice what is not offered: a server of tools may be away, and upstreams refuse a choice that names
/// what they do not know. If nothing is left of it, the model answers without tools.
pub fn leave_out_missing(parameters: &mut Object) {
    let tools = parameters.get("tools").and_then(Value::as_array);
    let names: HashSet<String> = tools
        .into_iter()
        .flatten()
        .filter_map(|tool| tool["name"].as_str().map(str::to_owned))
        .collect();
    let is_missing = |choice: &Value| {
        let name = choice["name"]
            .as_str()
            .filter(|_| choice["type"] == "function");
        name.is_some_and(|name| !names.contains(name))
    };
    let Some(choice) = parameters.get_mut("tool_choice") else {
        return;
    };
    if is_missing(choice) {
        *choice = "none".into();
    } else if choice["type"] == "allowed_tools"
        && let Some(allowed) = choice.get_mut("tools").and_then(Value::as_array_mut)
    {
        let before = allowed.len();
        allowed.retain(|tool| !is_missing(tool));
        if allowed.is_empty() && before > 0 {
            *choice = "none".into();
        }
    }
}

/// Leaves it to the model whether it calls another tool: a choice that forces a call is about the first step, and would
/// never let the run come to its answer.
pub fn force_no_longer(parameters: &mut Object) {
    match parameters.get_mut("tool_choice") {
        Some(Value::Object(choice)) if choice.get("type") == Some(&"allowed_tools".into()) => {
            choice.insert("mode".to_owned(), "auto".into());
        }
        Some(choice) if choice == "required" || choice.is_object() => *choice = "auto".into(),
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::tools::{Toolbox, ToolboxConfig};

    use super::*;

    #[test]
    fn a_choice_that_forces_a_call_is_about_the_first_step() {
        for (given, then) in [
            (json!("required"), json!("auto")),
            (json!("none"), json!("none")),
            (json!({"type": "function", "name": "clock"}), json!("auto")),
            (
                json!({"type": "allowed_tools", "mode": "required", "tools": []}),
                json!({"type": "allowed_tools", "mode": "auto", "tools": []}),
            ),
        ] {
            let mut parameters = Object::new();
            parameters.insert("tool_choice".to_owned(), given);

            force_no_longer(&mut parameters);

            assert_eq!(parameters["tool_choice"], then);
        }
    }

    #[tokio::test]
    async fn a_choice_of_a_server_is_one_of_its_functions() {
        let toolbox = Toolbox::new(&ToolboxConfig {
            demo: true,
            ..ToolboxConfig::default()
        });
        let list = toolbox.list().await;
        let function = |name: &str| json!({"type": "function", "name": name});
        let only = |mode: &str, tools: Value| json!({"type": "allowed_tools", "mode": mode, "tools": tools});
        let all: Value = list.tools.iter().map(|tool| function(&tool.name)).collect();
        let demo = json!({"type": "mcp", "server_label": "demo"});
        let clock = json!({"type": "mcp", "server_label": "demo", "name": "clock"});
        let nothing = json!({"type": "mcp", "server_label": "demo", "name": "nothing"});
        let other = json!({"type": "mcp", "server_label": "other"});
        for (given, then) in [
            (json!("auto"), json!("auto")),
            (demo.clone(), only("required", all)),
            (clock.clone(), only("required", json!([function("clock")]))),
            (nothing, json!("none")),
            (other.clone(), other.clone()),
            (
                only("auto", json!([function("f"), clock, other])),
                only("auto", json!([function("f"), function("clock"), other])),
            ),
        ] {
            let mut parameters = Object::new();
            parameters.insert("tool_choice".to_owned(), given);

            name_tools_of_servers(&list, &mut parameters);

            assert_eq!(parameters["tool_choice"], then);
        }
    }

    #[test]
    fn a_choice_names_only_what_is_offered() {
        let f = json!({"type": "function", "name": "f"});
        let gone = json!({"type": "function", "name": "gone"});
        let hosted = json!({"type": "web_search"});
        let only =
            |tools: &[&Value]| json!({"type": "allowed_tools", "mode": "required", "tools": tools});
        for (given, then) in [
            (json!("auto"), json!("auto")),
            (f.clone(), f.clone()),
            (gone.clone(), json!("none")),
            (hosted.clone(), hosted.clone()),
            (only(&[&gone, &f, &hosted]), only(&[&f, &hosted])),
            (only(&[&gone]), json!("none")),
            (only(&[]), only(&[])),
        ] {
            let mut parameters = Object::new();
            parameters.insert("tools".to_owned(), json!([f, hosted]));
            parameters.insert("tool_choice".to_owned(), given);

            leave_out_missing(&mut parameters);

            assert_eq!(parameters["tool_choice"], then);
        }
    }
}
