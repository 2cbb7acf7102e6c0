//! From the items of a context to chat messages.

use serde_json::{Value, json};
use talaria_domain::model::{CallItem, Object};
use tracing::debug;

use super::details::details_of;
use crate::upstreams::lenient;

/// The messages that say the same as `instructions` and `context`.
///
/// Reasoning is left out, but for `reasoning_details`; so is what chat has no form for.
pub fn messages(instructions: Option<&str>, context: &[CallItem]) -> Vec<Value> {
    let mut messages = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    for item in context {
        let Ok(item) = serde_json::from_slice::<Object>(&item.json) else {
            debug!("left out a context item that is no JSON object");
            continue;
        };
        push_item(&item, &mut messages);
    }
    messages
}

fn push_item(item: &Object, messages: &mut Vec<Value>) {
    let member = |name| lenient::text(item, name).unwrap_or_default();
    match lenient::text(item, "type").unwrap_or("message") {
        "message" => push_message(member("role"), item.get("content"), messages),
        "function_call" => {
            push_tool_call(
                member("call_id"),
                member("name"),
                member("arguments"),
                messages,
            );
        }
        "function_call_output" => {
            messages.push(tool_output(member("call_id"), item.get("output")));
        }
        // One item holds the call and its result.
        "mcp_call" => {
            push_tool_call(member("id"), member("name"), member("arguments"), messages);
            let failed = item.get("error").filter(|error| !error.is_null());
            messages.push(tool_output(
                member("id"),
                failed.or_else(|| item.get("output")),
            ));
        }
        "reasoning" => {
            if let Some(details) = details_of(item) {
                push_details(details, messages);
            }
        }
        kind => debug!(
            item.r#type = kind,
            "left out a context item that chat has no form for"
        ),
    }
}

fn push_message(role: &str, content: Option<&Value>, messages: &mut Vec<Value>) {
    match role {
        "user" => messages.push(json!({"role": "user", "content": user_content(content)})),
        "assistant" => push_assistant(&plain_text(content, ""), messages),
        // Few chat APIs know `developer`.
        _ => messages.push(json!({"role": "system", "content": plain_text(content, "\n")})),
    }
}

/// Adds what the assistant said, to the message of its tool calls if that comes last: their outputs must follow them.
fn push_assistant(text: &str, messages: &mut Vec<Value>) {
    match messages.last_mut() {
        Some(last) if last["role"] == "assistant" && last["content"].is_null() => {
            last["content"] = text.into();
        }
        _ => messages.push(json!({"role": "assistant", "content": text})),
    }
}

/// Adds thoughts, to the message of the assistant that they belong to: the next, or the one that they came with.
fn push_details(details: Vec<Value>, messages: &mut Vec<Value>) {
    let is_assistant = messages
        .last()
        .is_some_and(|last| last["role"] == "assistant");
    if !is_assistant {
        messages.push(json!({"role": "assistant", "content": null}));
    }
    if let Some(last) = messages.last_mut() {
        match last["reasoning_details"].as_array_mut() {
            Some(known) => known.extend(details),
            None => last["reasoning_details"] = details.into(),
        }
    }
}

/// Adds a tool call, to the assistant's message if that comes last.
fn push_tool_call(id: &str, name: &str, arguments: &str, messages: &mut Vec<Value>) {
    let call = json!({
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    });
    match messages.last_mut() {
        Some(last) if last["role"] == "assistant" => match last["tool_calls"].as_array_mut() {
            Some(calls) => calls.push(call),
            None => last["tool_calls"] = json!([call]),
        },
        _ => messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
    }
}

fn tool_output(call_id: &str, output: Option<&Value>) -> Value {
    json!({"role": "tool", "tool_call_id": call_id, "content": plain_text(output, "\n")})
}

/// The content of a user's message: one string where that says everything, else parts.
fn user_content(content: Option<&Value>) -> Value {
    let Some(Value::Array(parts)) = content else {
        return plain_text(content, "\n").into();
    };
    let parts: Vec<Value> = parts.iter().filter_map(user_part).collect();
    if parts.iter().all(|part| part["type"] == "text") {
        return plain_text(Some(&Value::Array(parts)), "\n").into();
    }
    parts.into()
}

fn user_part(part: &Value) -> Option<Value> {
    let member = |name| part.get(name).filter(|value: &&Value| !value.is_null());
    match part["type"].as_str().unwrap_or_default() {
        "input_image" => {
            let mut image = json!({"url": member("image_url")?});
            if let Some(detail) = member("detail") {
                image["detail"] = detail.clone();
            }
            Some(json!({"type": "image_url", "image_url": image}))
        }
        "input_file" => {
            let mut file = Object::new();
            for name in ["file_id", "filename", "file_data"] {
                file.extend(member(name).map(|value| (name.to_owned(), value.clone())));
            }
            let has_content = file.contains_key("file_id") || file.contains_key("file_data");
            has_content.then(|| json!({"type": "file", "file": file}))
        }
        _ => Some(json!({"type": "text", "text": member("text")?})),
    }
}

/// The text of a string or of content parts, with a word for what is no text; anything else as JSON.
fn plain_text(content: Option<&Value>, separator: &str) -> String {
    match content {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) if parts.iter().all(Value::is_object) => {
            let texts = parts.iter().filter_map(part_as_text);
            texts.collect::<Vec<_>>().join(separator)
        }
        Some(other) => other.to_string(),
    }
}

/// Only messages of users hold more than text. A model that is not told waits for a picture that never comes.
fn part_as_text(part: &Value) -> Option<&str> {
    match part["type"].as_str() {
        Some("input_image") => Some("[an image, which this message cannot hold]"),
        Some("input_file") => Some("[a file, which this message cannot hold]"),
        _ => part
            .get("text")
            .or_else(|| part.get("refusal"))
            .and_then(Value::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a context, one a line.
    fn of(instructions: Option<&str>, context: &[Value]) -> String {
        let item = |item: &Value| CallItem {
            json: item.to_string().into(),
            upstream_id: None,
        };
        let context: Vec<CallItem> = context.iter().map(item).collect();
        let messages = messages(instructions, &context);
        messages
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn texts_images_and_files_become_messages() {
        let context = [
            json!({"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}),
            json!({"type": "message", "role": "user", "content": "c"}),
            json!({"role": "user", "content": [{"type": "input_text", "text": "d"}]}),
            json!({"role": "user", "content": [
                {"type": "input_text", "text": "e"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
                {"type": "input_image", "file_id": "file_1"},
                {"type": "input_file", "filename": "f.pdf", "file_data": "data:,x"},
                {"type": "input_file", "file_url": "https://example.com/"}]}),
            json!({"type": "message", "id": "msg_1", "role": "assistant", "content": [
                {"type": "output_text", "text": "f", "annotations": []}, {"type": "refusal", "refusal": "g"}]}),
            json!({"type": "reasoning", "summary": []}),
            json!({"type": "web_search_call"}),
            json!([]),
        ];

        insta::assert_snapshot!(of(Some("Be brief."), &context), @r#"
        {"role":"system","content":"Be brief."}
        {"role":"system","content":"a\nb"}
        {"role":"user","content":"c"}
        {"role":"user","content":"d"}
        {"role":"user","content":[{"type":"text","text":"e"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA","detail":"low"}},{"type":"file","file":{"filename":"f.pdf","file_data":"data:,x"}}]}
        {"role":"assistant","content":"fg"}
        "#);
    }

    #[test]
    fn thoughts_go_back_with_the_message_that_they_belong_to() {
        let thought = json!({"type": "reasoning", "summary": [],
            "encrypted_content": r#"[{"type":"reasoning.encrypted","data":"x"}]"#});
        let context = [
            json!({"role": "user", "content": "a"}),
            thought,
            json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
            json!({"type": "function_call_output", "call_id": "c", "output": "1"}),
            json!({"type": "reasoning", "encrypted_content": "gAAA"}),
            json!({"role": "assistant", "content": "b"}),
        ];

        insta::assert_snapshot!(of(None, &context), @r#"
        {"role":"user","content":"a"}
        {"role":"assistant","content":null,"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}],"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}
        {"role":"tool","tool_call_id":"c","content":"1"}
        {"role":"assistant","content":"b"}
        "#);
    }

    #[test]
    fn calls_join_the_message_before_them_and_outputs_follow() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let context = [
            json!({"role": "assistant", "content": "Let me see."}),
            json!({"type": "reasoning"}),
            call("a"),
            call("b"),
            json!({"type": "function_call_output", "call_id": "a", "output": "1"}),
            json!({"type": "function_call_output", "call_id": "b", "output": [
                {"type": "input_text", "text": "2"}, {"type": "input_image", "image_url": "x"}]}),
            call("c"),
            json!({"role": "assistant", "content": "Again."}),
            json!({"type": "function_call_output", "call_id": "c", "output": {"x": 1}}),
            json!({"type": "mcp_call", "id": "mcp_1", "name": "g", "arguments": "{}", "output": "3", "error": null}),
        ];

        insta::assert_snapshot!(of(None, &context), @r#"
        {"role":"assistant","content":"Let me see.","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"f","arguments":"{}"}}]}
        {"role":"tool","tool_call_id":"a","content":"1"}
        {"role":"tool","tool_call_id":"b","content":"2\n[an image, which this message cannot hold]"}
        {"role":"assistant","content":"Again.","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}
        {"role":"tool","tool_call_id":"c","content":"{\"x\":1}"}
        {"role":"assistant","content":null,"tool_calls":[{"id":"mcp_1","type":"function","function":{"name":"g","arguments":"{}"}}]}
        {"role":"tool","tool_call_id":"mcp_1","content":"3"}
        "#);
    }
}
