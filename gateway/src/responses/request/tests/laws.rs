//! What holds for every body.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::create_request;

const NAMES: [&str; 18] = [
    "model",
    "input",
    "tools",
    "tool_choice",
    "type",
    "role",
    "content",
    "id",
    "text",
    "name",
    "metadata",
    "store",
    "conversation",
    "include",
    "reasoning",
    "image_url",
    "detail",
    "call_id",
];

const WORDS: [&str; 12] = [
    "message",
    "user",
    "assistant",
    "function",
    "function_call",
    "input_text",
    "input_image",
    "image_url",
    "reasoning",
    "allowed_tools",
    "json_schema",
    "resp_1",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(&WORDS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What was taken can be read again by whoever gets it.
fn holds(body: &[u8]) {
    let Ok(request) = create_request(body) else {
        return;
    };
    for item in &request.input {
        let read: Value = serde_json::from_slice(item).unwrap();
        assert!(read["type"].is_string(), "{read}");
        assert!(!item.contains(&b'\n'));
    }
    let parameters: Value = serde_json::from_slice(&request.parameters).unwrap();
    assert!(
        parameters
            .as_object()
            .unwrap()
            .values()
            .all(|value| !value.is_null())
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..256)) {
        holds(&body);
    }

    #[test]
    fn any_object_is_read_or_refused(
        members in prop::collection::vec((name(), value()), 0..8),
        input in value(),
    ) {
        let mut body: serde_json::Map<String, Value> = members.into_iter().collect();
        holds(json!(body).to_string().as_bytes());
        body.insert("input".to_owned(), json!([input.clone()]));
        holds(serde_json::to_string_pretty(&body).unwrap().as_bytes());
        holds(json!({ "input": [{ "role": "user", "content": input }] }).to_string().as_bytes());
    }

    #[test]
    fn a_body_with_some_bytes_changed_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut body = br#"{"model":"m","input":[{"role":"user","content":[{"type":"text","text":"\u00e9\ud83d\ude00"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}],"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"f"},"temperature":1.0}"#.to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        holds(&body);
    }
}
