//! From a model call to the body of a Chat Completions request.

use serde_json::{Value, json};
use talaria_domain::model::{ModelCall, Object};
use tracing::debug;

use super::messages::messages;
use crate::upstreams::Form;

/// Parameters with the same name and meaning in both APIs, and those that only this one has: clients of our own chat
/// completions send them.
const SAME: [&str; 13] = [
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "stop",
    "seed",
    "logit_bias",
    "prediction",
];

/// The body of `POST {base_url}/chat/completions`.
///
/// The limit is sent as `max_tokens`: OpenAI's newer models want `max_completion_tokens`, but they are better asked
/// through the Responses API, and most others know only the old name.
pub fn body(call: &ModelCall, form: Form) -> String {
    let given = |name: &str| call.parameters.get(name).filter(|value| !value.is_null());
    let mut body = Object::new();
    body.insert("model".to_owned(), call.model.as_str().into());
    let messages = messages(call.instructions.as_deref(), &call.context);
    body.insert("messages".to_owned(), messages.into());
    for name in SAME {
        body.extend(given(name).map(|value| (name.to_owned(), value.clone())));
    }
    let renamed = [
        ("max_tokens", given("max_output_tokens")),
        (
            "reasoning_effort",
            given("reasoning").and_then(|it| it.get("effort")),
        ),
        (
            "verbosity",
            given("text").and_then(|it| it.get("verbosity")),
        ),
    ];
    for (name, value) in renamed {
        let value = value.filter(|value| !value.is_null());
        body.extend(value.map(|value| (name.to_owned(), value.clone())));
    }
    let top = given("top_logprobs").filter(|top| top.as_u64() != Some(0));
    if top.is_some() || includes_logprobs(given("include")) {
        body.insert("logprobs".to_owned(), true.into());
        body.extend(top.map(|top| ("top_logprobs".to_owned(), top.clone())));
    }
    let format = given("text").and_then(|text| response_format(text.get("format")?));
    body.extend(format.map(|format| ("response_format".to_owned(), format)));
    push_tools(call, &mut body);
    match form {
        Form::Stream | Form::Kept => {
            body.insert("stream".to_owned(), true.into());
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        Form::Whole => {
            body.insert("stream".to_owned(), false.into());
        }
    }
    Value::Object(body).to_string()
}

fn includes_logprobs(include: Option<&Value>) -> bool {
    let included = include.and_then(Value::as_array).into_iter().flatten();
    included
        .into_iter()
        .any(|name| name == "message.output_text.logprobs")
}

/// `text.format` in chat's words; plain text needs none.
fn response_format(format: &Value) -> Option<Value> {
    match format["type"].as_str()? {
        "json_object" => Some(json!({"type": "json_object"})),
        "json_schema" => {
            let schema = members(format, &["name", "description", "schema", "strict"]);
            Some(json!({"type": "json_schema", "json_schema": schema}))
        }
        _ => None,
    }
}

/// Adds the tools that chat has a form for, and what only makes sense with tools.
fn push_tools(call: &ModelCall, body: &mut Object) {
    let given = |name: &str| call.parameters.get(name).filter(|value| !value.is_null());
    let choice = given("tool_choice");
    let tools: Vec<Value> = given("tools")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|tool| is_allowed(tool, choice))
        .filter_map(function_tool)
        .collect();
    if tools.is_empty() {
        return;
    }
    body.insert("tools".to_owned(), tools.into());
    let choice = choice.and_then(tool_choice);
    body.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    let parallel = given("parallel_tool_calls");
    body.extend(parallel.map(|value| ("parallel_tool_calls".to_owned(), value.clone())));
}

fn function_tool(tool: &Value) -> Option<Value> {
    if tool["type"] != "function" {
        debug!(
            tool.r#type = tool["type"].as_str(),
            "left out a tool that chat has no form for"
        );
        return None;
    }
    let mut function = members(tool, &["name", "description", "parameters", "strict"]);
    if !function.contains_key("parameters") {
        function.insert(
            "parameters".to_owned(),
            json!({"type": "object", "properties": {}}),
        );
    }
    Some(json!({"type": "function", "function": function}))
}

/// Whether `choice` lets the model use `tool`: chat cannot say `allowed_tools`, so the others are not shown to it.
fn is_allowed(tool: &Value, choice: Option<&Value>) -> bool {
    let allowed = choice
        .filter(|choice| choice["type"] == "allowed_tools")
        .and_then(|choice| choice["tools"].as_array());
    allowed.is_none_or(|tools| tools.iter().any(|allowed| allowed["name"] == tool["name"]))
}

fn tool_choice(choice: &Value) -> Option<Value> {
    match choice["type"].as_str() {
        None => choice.is_string().then(|| choice.clone()),
        Some("function") => {
            Some(json!({"type": "function", "function": members(choice, &["name"])}))
        }
        Some("allowed_tools") => Some(choice["mode"].clone()).filter(Value::is_string),
        Some(_) => None,
    }
}

/// The named members that are given.
fn members(object: &Value, names: &[&str]) -> Object {
    let given = names.iter().filter_map(|name| {
        let value = object.get(*name).filter(|value| !value.is_null())?;
        Some(((*name).to_owned(), value.clone()))
    });
    given.collect()
}

#[cfg(test)]
mod tests {
    use talaria_domain::model::CallItem;

    use super::*;

    fn of(parameters: &Value) -> String {
        let user = CallItem {
            json: r#"{"role":"user","content":"Hi"}"#.into(),
            upstream_id: None,
        };
        let call = ModelCall {
            model: "m".to_owned(),
            instructions: None,
            context: vec![user],
            parameters: parameters.as_object().unwrap().clone(),
        };
        body(&call, Form::Stream)
    }

    #[test]
    fn a_bare_call_asks_for_a_stream_with_usage() {
        let parameters = json!({"tool_choice": "auto", "parallel_tool_calls": true, "top_p": null,
            "store": true, "metadata": {}, "text": {"format": {"type": "text"}}, "top_logprobs": 0,
            "tools": [{"type": "web_search"}]});

        insta::assert_snapshot!(of(&parameters), @r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true}}"#);
    }

    #[test]
    fn parameters_are_put_in_chat_s_words() {
        let parameters = json!({"temperature": 0.5, "max_output_tokens": 99, "reasoning": {"effort": "low"},
            "top_logprobs": 2, "parallel_tool_calls": false,
            "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"a": 1.0}, "strict": true}},
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null},
                {"type": "function", "name": "g", "description": "G"}],
            "tool_choice": {"type": "function", "name": "f"}});

        insta::assert_snapshot!(of(&parameters), @r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0.5,"max_tokens":99,"reasoning_effort":"low","verbosity":"low","logprobs":true,"top_logprobs":2,"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"a":1.0},"strict":true}},"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}},{"type":"function","function":{"name":"g","description":"G","parameters":{"type":"object","properties":{}}}}],"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,"stream":true,"stream_options":{"include_usage":true}}"#);
    }

    #[test]
    fn what_only_chat_knows_is_passed_on() {
        let parameters = json!({"stop": ["a", "b"], "seed": 7, "logit_bias": {"50256": -100},
            "prediction": {"type": "content", "content": "x"}, "include": ["message.output_text.logprobs"]});

        insta::assert_snapshot!(of(&parameters), @r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stop":["a","b"],"seed":7,"logit_bias":{"50256":-100},"prediction":{"type":"content","content":"x"},"logprobs":true,"stream":true,"stream_options":{"include_usage":true}}"#);
    }

    #[test]
    fn a_tool_that_is_not_allowed_is_not_shown() {
        let parameters = json!({"tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}});

        insta::assert_snapshot!(of(&parameters), @r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{}}}}],"tool_choice":"required","stream":true,"stream_options":{"include_usage":true}}"#);
    }
}
