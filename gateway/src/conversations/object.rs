//! OpenAI's conversation object, and the list of its items.

use talaria_domain::json::{ObjectWriter, push_string};
use talaria_proto::v1::Conversation;

/// The conversation as JSON. Its two pointers are ours; OpenAI's clients skip them.
pub fn conversation_json(conversation: &Conversation) -> String {
    let metadata = std::str::from_utf8(&conversation.metadata).unwrap_or_default();
    let metadata = if metadata.is_empty() { "{}" } else { metadata };
    let mut object = ObjectWriter::new();
    object
        .string("id", &conversation.id)
        .string("object", "conversation")
        .raw("created_at", &conversation.created_at.to_string())
        .raw("metadata", metadata);
    for (name, value) in [
        ("name", &conversation.name),
        (
            "latest_completed_response_id",
            &conversation.latest_completed_response_id,
        ),
        ("active_response_id", &conversation.active_response_id),
    ] {
        object.raw(name, &optional(value.as_deref()));
    }
    object.finish()
}

/// What is left of a deleted conversation.
pub fn deleted_json(id: &str) -> String {
    let mut object = ObjectWriter::new();
    object
        .string("id", id)
        .string("object", "conversation.deleted")
        .raw("deleted", "true");
    object.finish()
}

fn optional(text: Option<&str>) -> String {
    let mut json = String::new();
    match text {
        Some(text) => push_string(&mut json, text),
        None => json.push_str("null"),
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_shows_its_name_and_pointers() {
        let conversation = Conversation {
            id: "conv_1".to_owned(),
            created_at: 1_700_000_000,
            metadata: bytes::Bytes::from_static(br#"{"a":"b"}"#),
            name: Some("my \"project\"".to_owned()),
            latest_completed_response_id: Some("resp_1".to_owned()),
            active_response_id: None,
        };

        insta::assert_snapshot!(
            conversation_json(&conversation),
            @r#"{"id":"conv_1","object":"conversation","created_at":1700000000,"metadata":{"a":"b"},"name":"my \"project\"","latest_completed_response_id":"resp_1","active_response_id":null}"#
        );
        insta::assert_snapshot!(
            conversation_json(&Conversation::default()),
            @r#"{"id":"","object":"conversation","created_at":0,"metadata":{},"name":null,"latest_completed_response_id":null,"active_response_id":null}"#
        );
        insta::assert_snapshot!(
            deleted_json("conv_1"),
            @r#"{"id":"conv_1","object":"conversation.deleted","deleted":true}"#
        );
    }
}
