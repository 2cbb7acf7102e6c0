//! Reads what comes with requests about conversations: bodies and ids.

use bytes::Bytes;
use serde_json::Value;
use talaria_domain::context::{InputItem, input_items, resolve_input};
use talaria_proto::v1::ContextItem;
use uuid::Uuid;

use crate::check::body::{Body, compact};
use crate::check::is_invisible;
use crate::error::{ApiError, printable};
use crate::responses::request::input::Input;
use crate::responses::request::parameters;

/// The most items of one request. Source: OpenAI's API reference.
const MAX_ITEMS: usize = 20;
/// The longest id or name of a conversation, in characters.
const MAX_NAME: usize = 256;

/// What a new conversation begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct NewConversation {
    /// A JSON object of strings.
    pub metadata: String,
    pub items: Vec<ContextItem>,
}

/// Reads the body of `POST /v1/conversations`, which may be empty. `turn` is the turn that will hold its items.
pub fn new_conversation(body: &[u8], turn: Uuid) -> Result<NewConversation, ApiError> {
    let body = if body.trim_ascii().is_empty() {
        b"{}"
    } else {
        body
    };
    let body = Body::parse(body)?;
    Ok(NewConversation {
        metadata: metadata(&body)?.unwrap_or_else(|| "{}".to_owned()),
        items: items(&body, turn)?.unwrap_or_default(),
    })
}

/// Reads the body of `POST /v1/conversations/{id}`: the metadata that takes the place of the old.
pub fn changed_metadata(body: &[u8]) -> Result<String, ApiError> {
    let body = Body::parse(body)?;
    // Required, but `null` is how a client takes all of it away.
    body.node()
        .object()?
        .get("metadata")
        .ok_or_else(|| missing("metadata"))?;
    Ok(metadata(&body)?.unwrap_or_else(|| "{}".to_owned()))
}

/// Reads the body of `POST /v1/conversations/{id}/items`. `turn` is the turn that will hold them.
pub fn new_items(body: &[u8], turn: Uuid) -> Result<Vec<ContextItem>, ApiError> {
    let items = items(&Body::parse(body)?, turn)?;
    items.ok_or_else(|| missing("items"))
}

fn missing(name: &str) -> ApiError {
    let message = format!("Missing required parameter: '{name}'.");
    ApiError::invalid("missing_required_parameter", message).with_param(name)
}

fn metadata(body: &Body) -> Result<Option<String>, ApiError> {
    let root = body.node();
    let (Some(node), Some(json)) = (root.optional("metadata"), body.raw("metadata")) else {
        return Ok(None);
    };
    parameters::metadata(&node)?;
    Ok(Some(compact(json)))
}

/// The items in their long form, each with an id.
fn items(body: &Body, turn: Uuid) -> Result<Option<Vec<ContextItem>>, ApiError> {
    let root = body.node();
    let (Some(node), Some(json)) = (root.optional("items"), body.raw("items")) else {
        return Ok(None);
    };
    if !node.value().is_array() {
        return Err(node.wrong_type("an array of input items"));
    }
    node.elements(MAX_ITEMS).map(drop)?;
    let input: Vec<Bytes> = Input::read(&node, json)?.items;
    let items = input_items(&input).map_err(|error| unfit(error.to_string()))?;
    let reference = |item: &InputItem| matches!(item, InputItem::Reference(_));
    if let Some(index) = items.iter().position(reference) {
        let message = "Invalid value: 'item_reference'. A conversation takes whole items.";
        let param = format!("items[{index}]");
        return Err(ApiError::invalid("invalid_value", message).with_param(param));
    }
    let items = resolve_input(turn, items, Vec::new()).map_err(|error| unfit(error.to_string()))?;
    Ok(Some(items))
}

fn unfit(message: String) -> ApiError {
    ApiError::bad_request(message).with_param("items")
}

/// The id or name of a conversation, as a path or request gives it.
pub fn conversation_key(key: &str) -> Result<String, ApiError> {
    let odd =
        key.is_empty() || key.chars().any(is_invisible) || key.chars().nth(MAX_NAME).is_some();
    if odd {
        Err(not_found(key))
    } else {
        Ok(key.to_owned())
    }
}

/// 404: `key` names no conversation of this tenant.
pub fn not_found(key: &str) -> ApiError {
    ApiError::not_found(format!(
        "Conversation with id '{}' not found.",
        printable(key)
    ))
}

/// 404: the conversation has no such item.
pub fn item_not_found(id: &str) -> ApiError {
    ApiError::not_found(format!("Item with id '{}' not found.", printable(id)))
}

/// The `id` of an item.
pub fn item_id(item: &ContextItem) -> Option<String> {
    let item: Value = serde_json::from_slice(&item.item).ok()?;
    item.get("id").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TURN: Uuid = Uuid::from_u128(0x0192_3456_7890_7012_8000_0000_0000_00aa);

    fn json_of(items: &[ContextItem]) -> String {
        let items = items
            .iter()
            .map(|item| String::from_utf8(item.item.to_vec()).unwrap());
        items.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_conversation_may_begin_with_nothing() {
        let empty = NewConversation {
            metadata: "{}".to_owned(),
            items: Vec::new(),
        };
        for body in [
            "",
            " \n",
            "{}",
            r#"{"items":[],"metadata":null}"#,
            r#"{"items":null}"#,
        ] {
            assert_eq!(
                new_conversation(body.as_bytes(), TURN),
                Ok(empty.clone()),
                "{body}"
            );
        }
    }

    #[test]
    fn items_get_ids_of_the_turn_that_holds_them() {
        let body = r#"{"metadata": {"topic" : "d\u00e9mo"}, "items": [
            {"role":"user","content":"Hi"},
            {"type":"function_call_output","call_id":"c","output":"1"},
            {"type":"message","role":"assistant","id":"msg_mine","content":"Yes?"}]}"#;

        let new = new_conversation(body.as_bytes(), TURN).unwrap();

        assert_eq!(new.metadata, r#"{"topic":"d\u00e9mo"}"#);
        insta::assert_snapshot!(json_of(&new.items), @r#"
        {"id":"msg_019234567890701280000000000000aai0","type":"message","role":"user","content":[{"type":"input_text","text":"Hi"}]}
        {"id":"fco_019234567890701280000000000000aai1","type":"function_call_output","call_id":"c","output":"1"}
        {"type":"message","role":"assistant","id":"msg_mine","content":[{"type":"output_text","text":"Yes?","annotations":[]}]}
        "#);
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        let item = json!({"role": "user", "content": "x"});
        let pairs: serde_json::Map<String, Value> =
            (0..17).map(|n| (n.to_string(), "x".into())).collect();
        for (body, code, param) in [
            (json!({"items": "Hi"}), "invalid_type", "items"),
            (
                json!({"items": vec![item; 21]}),
                "array_above_max_length",
                "items",
            ),
            (
                json!({"items": [{"role": "user"}]}),
                "missing_required_parameter",
                "items[0].content",
            ),
            (
                json!({"items": [{"type": "item_reference", "id": "msg_1"}]}),
                "invalid_value",
                "items[0]",
            ),
            (
                json!({"metadata": pairs}),
                "object_above_max_properties",
                "metadata",
            ),
            (json!({"metadata": {"a": 1}}), "invalid_type", "metadata.a"),
        ] {
            let error = new_conversation(body.to_string().as_bytes(), TURN).unwrap_err();
            assert_eq!(error.code.as_deref(), Some(code), "{body} {error:?}");
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
        for (error, param) in [
            (changed_metadata(b"{}").unwrap_err(), "metadata"),
            (new_items(b"{}", TURN).unwrap_err(), "items"),
        ] {
            assert_eq!(
                (error.status.as_u16(), error.param.as_deref()),
                (400, Some(param))
            );
        }
        assert_eq!(
            changed_metadata(br#"{"metadata":null}"#),
            Ok("{}".to_owned())
        );
    }

    #[test]
    fn a_name_is_any_visible_text() {
        for name in ["conv_1", "my project/2", "Ærø"] {
            assert_eq!(conversation_key(name), Ok(name.to_owned()));
        }
        for name in ["", "a\nb", "a\0", &"x".repeat(257)] {
            assert_eq!(conversation_key(name), Err(not_found(name)));
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in any::<String>()) {
            let _ = new_conversation(text.as_bytes(), TURN);
            let _ = new_items(text.as_bytes(), TURN);
            let _ = changed_metadata(text.as_bytes());
            let _ = conversation_key(&text);
        }
    }
}
