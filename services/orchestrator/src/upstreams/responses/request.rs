//! From a model call to the body of a Responses request.

use serde_json::Value;
use talaria_domain::json::{ObjectWriter, RawObject, behind_id, push_string, with_id};
use talaria_domain::model::{CallItem, ModelCall};
use tracing::debug;

use crate::upstreams::Form;

/// Parameters that are between the client and us; the upstream streams if it can, and keeps nothing that it need not.
const OURS: [&str; 12] = [
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "store",
    "background",
    "previous_response_id",
    "conversation",
    "metadata",
    "session_id",
    "on_active",
];

/// Parameters of chat completions that this API has no form for.
const CHAT_ONLY: [&str; 4] = ["stop", "seed", "logit_bias", "prediction"];

/// The lowest `max_output_tokens` that this API takes. Source: OpenAI's API reference; chat completions take less.
const MIN_OUTPUT_TOKENS: i64 = 16;

/// Room for what is not the context: more is no error.
const OTHER_BYTES: usize = 4 << 10;

/// The body of `POST {base_url}/responses`.
///
/// Items keep their spelling; only their ids change.
pub fn body(call: &ModelCall, form: Form) -> String {
    let context_bytes: usize = call.context.iter().map(|item| item.json.len() + 1).sum();
    let mut writer = ObjectWriter::with_capacity(context_bytes + OTHER_BYTES);
    writer.string("model", &call.model);
    if let Some(instructions) = &call.instructions {
        writer.string("instructions", instructions);
    }
    writer.written("input", |body| {
        body.push('[');
        let empty = body.len();
        for item in &call.context {
            let end = body.len();
            if end > empty {
                body.push(',');
            }
            if !push_input_item(item, body) {
                body.truncate(end);
            }
        }
        body.push(']');
    });
    for (name, value) in &call.parameters {
        let is_ours = OURS.contains(&name.as_str()) || CHAT_ONLY.contains(&name.as_str());
        if value.is_null() || is_ours {
            continue;
        }
        match (name.as_str(), value.as_i64()) {
            ("max_output_tokens", Some(limit)) if limit < MIN_OUTPUT_TOKENS => {
                writer.raw(name, &MIN_OUTPUT_TOKENS.to_string());
            }
            _ => drop(writer.raw(name, &Value::to_string(value))),
        }
    }
    match form {
        Form::Stream => writer.raw("stream", "true").raw("store", "false"),
        Form::Whole => writer.raw("stream", "false").raw("store", "false"),
        // It goes on without us, and can be found again.
        Form::Kept => writer
            .raw("stream", "true")
            .raw("store", "true")
            .raw("background", "true"),
    };
    writer.finish()
}

/// Appends the item as the upstream may read it; answers whether it could.
fn push_input_item(item: &CallItem, body: &mut String) -> bool {
    let Ok(json) = std::str::from_utf8(&item.json) else {
        debug!("left out a context item that is no text");
        return false;
    };
    let id = item.upstream_id.as_deref();
    // Most items are as they were written here, and long.
    if let Some(rest) = behind_id(json)
        && NO_ID_NEEDED.iter().any(|start| rest.starts_with(start))
    {
        push_with_id(id, rest, body);
        return true;
    }
    let Ok(object) = RawObject::parse(&item.json) else {
        debug!("left out a context item that is no JSON object");
        return false;
    };
    let kind = object.get("type").unwrap_or(r#""message""#);
    if kind == r#""reasoning""# && !is_readable_reasoning(&object, id) {
        return false;
    }
    match id {
        Some(id) => match with_id(&item.json, id) {
            Ok(with_id) => body.push_str(&with_id),
            Err(_) => return false,
        },
        None if has_optional_id(kind) => body.push_str(&without_id(&object)),
        None => body.push_str(json),
    }
    true
}

/// How items go on behind their ids that are taken with any id or none.
const NO_ID_NEEDED: [&str; 3] = [
    r#","type":"message","#,
    r#","type":"function_call","#,
    r#","type":"function_call_output","#,
];

/// Appends an object with this id or none before `rest`, which begins with a comma.
fn push_with_id(id: Option<&str>, rest: &str, body: &mut String) {
    body.push('{');
    match id {
        Some(id) => {
            body.push_str(r#""id":"#);
            push_string(body, id);
            body.push_str(rest);
        }
        None => body.push_str(&rest[1..]),
    }
}

/// Whether the upstream can make something of a reasoning item that it has not stored.
///
/// It must have made it, and its thoughts must be in it. OpenAI refuses the bare id of an item of an unstored response.
fn is_readable_reasoning(item: &RawObject<'_>, upstream_id: Option<&str>) -> bool {
    let has_content = item.get("content").is_some_and(|content| content != "[]");
    // A list is an upstream's of the other kind; it means nothing here, and would be refused.
    let is_sealed = item
        .get("encrypted_content")
        .is_some_and(|content| !content.starts_with(r#""["#));
    is_sealed || (upstream_id.is_some() && has_content)
}

/// Whether items of this type are taken without an id. `kind` is JSON.
fn has_optional_id(kind: &str) -> bool {
    matches!(
        kind,
        r#""message""#
            | r#""reasoning""#
            | r#""function_call""#
            | r#""function_call_output""#
            | r#""custom_tool_call""#
            | r#""custom_tool_call_output""#
    )
}

fn without_id(object: &RawObject<'_>) -> String {
    let mut writer = ObjectWriter::new();
    for (name, value) in object.0.iter().filter(|(name, _)| name != "id") {
        writer.raw(name, value.get());
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use talaria_domain::model::Object;

    use super::*;

    fn item(json: &'static str, upstream_id: Option<&str>) -> CallItem {
        CallItem {
            json: Bytes::from_static(json.as_bytes()),
            upstream_id: upstream_id.map(str::to_owned),
        }
    }

    #[test]
    fn what_only_chat_completions_take_is_left_out() {
        let parameters = json!({"stop": "x", "seed": 1, "logit_bias": {}, "prediction": {}, "max_output_tokens": 1,
            "presence_penalty": 0.5});
        let call = ModelCall {
            model: "m".to_owned(),
            instructions: None,
            context: Vec::new(),
            parameters: parameters.as_object().unwrap().clone(),
        };

        insta::assert_snapshot!(body(&call, Form::Stream), @r#"{"model":"m","input":[],"max_output_tokens":16,"presence_penalty":0.5,"stream":true,"store":false}"#);
    }

    #[test]
    fn the_request_streams_stores_nothing_and_passes_parameters_on() {
        let parameters = json!({"temperature": 0.5, "top_p": null, "metadata": {"a": "b"}, "store": true,
            "stream": false, "stream_options": {}, "background": true, "previous_response_id": "resp_1",
            "conversation": "c", "truncation": "auto", "tools": [{"type": "function", "name": "f"}]});
        let call = ModelCall {
            model: "m".to_owned(),
            instructions: Some("Be \"brief\".".to_owned()),
            context: vec![item(r#"{"role":"user","content":"Hi","n":1.0e+2}"#, None)],
            parameters: parameters.as_object().unwrap().clone(),
        };

        insta::assert_snapshot!(body(&call, Form::Stream), @r#"{"model":"m","instructions":"Be \"brief\".","input":[{"role":"user","content":"Hi","n":1.0e+2}],"temperature":0.5,"truncation":"auto","tools":[{"type":"function","name":"f"}],"stream":true,"store":false}"#);
    }

    #[test]
    fn what_is_left_out_leaves_no_gap() {
        let message = || item(r#"{"id":"msg_1","type":"message","n":1}"#, None);
        let thought = || item(r#"{"id":"rs_1","type":"reasoning","summary":[]}"#, None);
        let call = ModelCall {
            model: "m".to_owned(),
            instructions: None,
            context: vec![thought(), message(), thought(), message(), thought()],
            parameters: Object::new(),
        };

        insta::assert_snapshot!(body(&call, Form::Whole), @r#"{"model":"m","input":[{"type":"message","n":1},{"type":"message","n":1}],"stream":false,"store":false}"#);
    }

    #[test]
    fn items_carry_the_ids_that_the_upstream_knows_or_none() {
        let cases = [
            (
                item(r#"{"id":"msg_1","type":"message"}"#, None),
                Some(r#"{"type":"message"}"#),
            ),
            (
                item(r#"{"type":"message","id":"msg_1"}"#, Some("up")),
                Some(r#"{"id":"up","type":"message"}"#),
            ),
            (
                item(r#"{"id":"msg_1","type":"message","n":1.0e+2}"#, None),
                Some(r#"{"type":"message","n":1.0e+2}"#),
            ),
            (
                item(r#"{"id":"msg_1","type":"message","n":1}"#, Some("\"")),
                Some(r#"{"id":"\"","type":"message","n":1}"#),
            ),
            (
                item(
                    r#"{"id":"fc_1","type":"function_call","call_id":"c"}"#,
                    None,
                ),
                Some(r#"{"type":"function_call","call_id":"c"}"#),
            ),
            (
                item(r#"{"id":"ws_1","type":"web_search_call"}"#, None),
                Some(r#"{"id":"ws_1","type":"web_search_call"}"#),
            ),
            (
                item(r#"{"id":"rs_1","type":"reasoning","summary":[]}"#, None),
                None,
            ),
            (
                item(
                    r#"{"id":"rs_1","type":"reasoning","summary":[],"content":[]}"#,
                    Some("up"),
                ),
                None,
            ),
            (
                item(r#"{"id":"rs_1","type":"reasoning","content":[{}]}"#, None),
                None,
            ),
            (
                item(r#"{"type":"reasoning","content":[{}]}"#, Some("up")),
                Some(r#"{"id":"up","type":"reasoning","content":[{}]}"#),
            ),
            (
                item(
                    r#"{"id":"rs_1","type":"reasoning","encrypted_content":"x"}"#,
                    None,
                ),
                Some(r#"{"type":"reasoning","encrypted_content":"x"}"#),
            ),
            (
                item(
                    r#"{"type":"reasoning","encrypted_content":"[{\"type\":\"reasoning.encrypted\"}]"}"#,
                    None,
                ),
                None,
            ),
            (item("[]", None), None),
        ];
        for (item, expected) in cases {
            let mut body = String::new();
            let pushed = push_input_item(&item, &mut body).then_some(body.as_str());
            assert_eq!(pushed, expected, "{item:?}");
        }
    }
}
