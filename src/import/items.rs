//! From chat messages, as a Hermes server keeps its transcripts, to items.

use serde_json::{Value, json};

use super::record::{Object, text};

/// Whether the message was made by the agent or its tools.
pub fn is_of_agent(message: &Value) -> bool {
    matches!(role(message), "assistant" | "tool")
}

/// The ids of the tool calls that the message makes.
pub fn call_ids(message: &Value) -> impl Iterator<Item = &str> {
    tool_calls(message).filter_map(|call| call.get("id")?.as_str())
}

/// The items that say what the message says.
pub fn of_message(message: &Value) -> Vec<Object> {
    let content = message.get("content").unwrap_or(&Value::Null);
    match role(message) {
        "assistant" => {
            let said = answer(content);
            let calls = tool_calls(message).filter_map(call);
            said.into_iter().chain(calls).collect()
        }
        "tool" => {
            let call_id = message.get("tool_call_id").and_then(Value::as_str);
            vec![object(json!({
                "type": "function_call_output",
                "status": "completed",
                "call_id": call_id.unwrap_or_default(),
                "output": tool_output(content),
            }))]
        }
        role => vec![object(json!({
            "type": "message",
            "role": role,
            "content": input_parts(content),
        }))],
    }
}

/// An assistant's message that says `text`.
pub fn message(text: &str) -> Object {
    object(json!({
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [output_text(text)],
    }))
}

/// The stored output item in the shape that items have here; `status` where it has none.
pub fn of_output(mut item: Object, status: &str) -> Object {
    item.shift_remove("id");
    let item_type = text(&item, "type").unwrap_or("message").to_owned();
    let status = match text(&item, "status") {
        Some(status @ ("completed" | "incomplete")) => status.to_owned(),
        _ => status.to_owned(),
    };
    match item_type.as_str() {
        "message" => {
            let content = item.remove("content").unwrap_or_default();
            let mut base = object(json!({
                "type": "message", "status": status, "role": "assistant", "content": output_parts(&content),
            }));
            let further = item
                .into_iter()
                .filter(|(name, _)| !base.contains_key(name));
            let further: Vec<_> = further.collect();
            base.extend(further);
            base
        }
        "function_call" => {
            item.insert("status".into(), status.into());
            let arguments = item.remove("arguments").unwrap_or_default();
            item.insert("arguments".into(), string(&arguments).into());
            item
        }
        "function_call_output" => {
            item.insert("status".into(), status.into());
            let output = item.remove("output").unwrap_or_default();
            let output = if is_parts(&output) {
                output
            } else {
                string(&output).into()
            };
            item.insert("output".into(), output);
            item
        }
        // Nothing that ended is still going on.
        _ => {
            if item.contains_key("status") {
                item.insert("status".into(), status.into());
            }
            item
        }
    }
}

/// The text of an assistant's message.
pub fn said(item: &Object) -> String {
    let parts = item.get("content").and_then(Value::as_array);
    let texts = parts.into_iter().flatten().filter_map(|part| {
        let text = part.get("text").or_else(|| part.get("refusal"));
        text.and_then(Value::as_str)
    });
    texts.collect()
}

/// Roles that models know; whatever else there is comes from outside the model.
fn role(message: &Value) -> &str {
    match message.get("role").and_then(Value::as_str) {
        Some(role @ ("assistant" | "tool" | "system" | "developer")) => role,
        _ => "user",
    }
}

fn tool_calls(message: &Value) -> impl Iterator<Item = &Value> {
    message
        .get("tool_calls")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|_| role(message) == "assistant")
}

fn call(call: &Value) -> Option<Object> {
    let function = call.get("function")?;
    let arguments = function.get("arguments").unwrap_or(&Value::Null);
    Some(object(json!({
        "type": "function_call",
        "status": "completed",
        "call_id": call.get("id").and_then(Value::as_str).unwrap_or_default(),
        "name": function.get("name").and_then(Value::as_str).unwrap_or_default(),
        "arguments": string(arguments),
    })))
}

/// The message of an assistant's content; none if it says nothing.
fn answer(content: &Value) -> Option<Object> {
    let parts = output_parts(content);
    (!parts.is_empty()).then(|| {
        object(json!({
            "type": "message", "status": "completed", "role": "assistant", "content": parts,
        }))
    })
}

fn output_parts(content: &Value) -> Vec<Value> {
    let Value::Array(parts) = content else {
        let text = string(content);
        return if text.is_empty() {
            Vec::new()
        } else {
            vec![output_text(&text)]
        };
    };
    let part = |part: &Value| match part_type(part) {
        "output_text" => {
            let mut text = output_text("");
            for (name, value) in part.as_object().into_iter().flatten() {
                text[name] = value.clone();
            }
            text
        }
        "refusal" => part.clone(),
        _ => output_text(&part_text(part)),
    };
    parts.iter().map(part).collect()
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
}

fn input_parts(content: &Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts.iter().map(input_part).collect(),
        content => vec![json!({"type": "input_text", "text": string(content)})],
    }
}

fn input_part(part: &Value) -> Value {
    match part_type(part) {
        "input_image" | "input_file" | "input_text" => part.clone(),
        "image_url" => {
            let image = &part["image_url"];
            let url = image.get("url").unwrap_or(image);
            let detail = image.get("detail").or_else(|| part.get("detail"));
            let detail = detail.cloned().unwrap_or_else(|| "auto".into());
            json!({"type": "input_image", "image_url": url, "detail": detail})
        }
        _ => json!({"type": "input_text", "text": part_text(part)}),
    }
}

fn tool_output(content: &Value) -> Value {
    if is_parts(content) {
        input_parts(content).into()
    } else {
        string(content).into()
    }
}

fn is_parts(content: &Value) -> bool {
    let parts = content.as_array();
    parts.is_some_and(|parts| parts.iter().all(|part| !part_type(part).is_empty()))
}

fn part_type(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The text of a part; a part of an unknown kind is shown as it is.
fn part_text(part: &Value) -> String {
    match part.get("text") {
        Some(Value::String(text)) => text.clone(),
        _ => string(part),
    }
}

/// A text as it is, nothing as an empty one, and anything else as JSON.
fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(message: &Value) -> String {
        let items: Vec<String> = of_message(message)
            .into_iter()
            .map(|item| Value::Object(item).to_string())
            .collect();
        items.join("\n")
    }

    #[test]
    fn what_an_agent_says_comes_before_what_it_calls() {
        let message = json!({"role": "assistant", "content": "Let me see.", "reasoning": "hm", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{\"p\":\"/\"}"}},
            {"id": "call_2", "type": "function", "function": {"name": "ls", "arguments": {"p": "/tmp"}}},
        ]});

        insta::assert_snapshot!(items(&message), @r#"
        {"type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Let me see."}]}
        {"type":"function_call","status":"completed","call_id":"call_1","name":"ls","arguments":"{\"p\":\"/\"}"}
        {"type":"function_call","status":"completed","call_id":"call_2","name":"ls","arguments":"{\"p\":\"/tmp\"}"}
        "#);
    }

    #[test]
    fn images_and_outputs_of_tools_become_parts() {
        let image = json!({"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            {"type": "image_url", "image_url": "https://a.example/b.png"},
            {"type": "odd", "x": 1},
        ]});
        let output = json!({"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "seen"}]});
        let plain = json!({"role": "tool", "tool_call_id": "c", "content": "a\u{0}b"});
        let nothing = json!({"role": "assistant", "content": null});

        insta::assert_snapshot!([image, output, plain, nothing].each_ref().map(items).join("\n"), @r#"
        {"type":"message","role":"user","content":[{"type":"input_text","text":"What is this?"},{"type":"input_image","image_url":"data:image/png;base64,AA==","detail":"low"},{"type":"input_image","image_url":"https://a.example/b.png","detail":"auto"},{"type":"input_text","text":"{\"type\":\"odd\",\"x\":1}"}]}
        {"type":"function_call_output","status":"completed","call_id":"c","output":[{"type":"input_text","text":"seen"}]}
        {"type":"function_call_output","status":"completed","call_id":"c","output":"a\u0000b"}
        "#);
    }
}
