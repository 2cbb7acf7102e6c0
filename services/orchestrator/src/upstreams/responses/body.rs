//! The response object at the end of a Responses stream, or in its place.

use serde_json::Value;
use talaria_domain::model::{ItemKey, ModelEvent, Object, Outcome, server_error};

use crate::upstreams::lenient;

/// What a whole `response` object says, for upstreams that answer so although a stream was asked for.
///
/// `None` if `json` is no JSON object.
pub fn parse(json: &str) -> Option<Vec<ModelEvent>> {
    let mut body = lenient::object(json)?;
    let kind = if is_error(&body) {
        "error"
    } else {
        "response.done"
    };
    if kind == "response.done" {
        body = Object::from_iter([("response".to_owned(), Value::Object(body))]);
    }
    let mut end = finished(kind, body);
    let mut events = Vec::new();
    if let ModelEvent::Finished { output, .. } = &mut end {
        let items = std::mem::take(output).into_iter().zip(0..);
        events.extend(items.map(|(item, index)| ModelEvent::ItemDone {
            key: ItemKey(index),
            item,
        }));
    }
    events.push(end);
    Some(events)
}

/// Whether the object is an error envelope rather than a response.
fn is_error(body: &Object) -> bool {
    lenient::has(body, "error") && !body.contains_key("output") && !body.contains_key("status")
}

/// Whether an event of this type and with this body ends the stream.
pub fn is_end(kind: &str, body: &Object) -> bool {
    match kind {
        "response.completed"
        | "response.incomplete"
        | "response.failed"
        | "response.cancelled"
        | "response.done"
        | "response.error"
        | "error" => true,
        other => !other.starts_with("response.") && lenient::has(body, "error"),
    }
}

/// The end of a call, from the event that ends the stream.
pub fn finished(kind: &str, mut body: Object) -> ModelEvent {
    if !is_response_end(kind) {
        let outcome = Outcome::Failed(lenient::error_in(body));
        return ModelEvent::Finished {
            outcome,
            usage: None,
            output: Vec::new(),
        };
    }
    let mut response = lenient::take_object(&mut body, "response").unwrap_or_default();
    let mut output = lenient::take_objects(&mut response, "output");
    output.retain(is_item);
    let usage = lenient::usage(response.get("usage"));
    ModelEvent::Finished {
        outcome: outcome(kind, &response, body),
        usage,
        output,
    }
}

/// Whether the object can stand for an item: its `type` is a string.
pub fn is_item(item: &Object) -> bool {
    lenient::text(item, "type").is_some()
}

fn is_response_end(kind: &str) -> bool {
    kind.starts_with("response.") && kind != "response.error"
}

/// The response's own status counts for more than the type of the event, unless that tells of a worse end.
fn outcome(kind: &str, response: &Object, event: Object) -> Outcome {
    let status = lenient::text(response, "status").unwrap_or_default();
    match (kind, status) {
        // A document that says so is no answer.
        ("response.done", "queued" | "in_progress") => Outcome::Failed(server_error(
            "The upstream answered before it had an answer.",
        )),
        ("response.cancelled", _) | (_, "cancelled") => {
            Outcome::Failed(server_error("The upstream cancelled the response."))
        }
        ("response.failed", _) | (_, "failed") => Outcome::Failed(match response.get("error") {
            Some(error) if !error.is_null() => lenient::response_error(error),
            _ => lenient::error_in(event),
        }),
        ("response.incomplete", _) | (_, "incomplete") => {
            let details = response.get("incomplete_details");
            let reason = details
                .and_then(|details| details.get("reason"))
                .and_then(Value::as_str);
            Outcome::Incomplete {
                reason: incomplete_reason(reason).to_owned(),
            }
        }
        _ => Outcome::Completed,
    }
}

/// `incomplete_details.reason` as OpenAI's clients know it.
fn incomplete_reason(reason: Option<&str>) -> &'static str {
    match reason {
        Some("content_filter") => "content_filter",
        _ => "max_output_tokens",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use talaria_proto::v1::Usage;

    use super::*;

    #[test]
    fn a_whole_response_is_its_items_and_its_end() {
        let body = json!({"id": "resp_1", "status": "completed", "error": null,
            "output": [{"type": "message", "id": "msg_1"}, "no item", {"type": "function_call"}],
            "usage": {"input_tokens": 1, "output_tokens": 2}});
        let item = |index, item: Value| ModelEvent::ItemDone {
            key: ItemKey(index),
            item: item.as_object().unwrap().clone(),
        };

        let expected = vec![
            item(0, json!({"type": "message", "id": "msg_1"})),
            item(1, json!({"type": "function_call"})),
            ModelEvent::Finished {
                outcome: Outcome::Completed,
                usage: Some(Usage {
                    input_tokens: 1,
                    output_tokens: 2,
                    total_tokens: 3,
                    ..Usage::default()
                }),
                output: Vec::new(),
            },
        ];
        assert_eq!(parse(&body.to_string()), Some(expected));
    }

    #[test]
    fn an_error_in_place_of_a_response_fails_the_call() {
        let end = |message: &str| {
            let outcome = Outcome::Failed(server_error(message));
            Some(vec![ModelEvent::Finished {
                outcome,
                usage: None,
                output: Vec::new(),
            }])
        };

        assert_eq!(parse(r#"{"error":{"message":"No."}}"#), end("No."));
        assert_eq!(
            parse(r#"{"status":"failed","error":{"message":"No."}}"#),
            end("No.")
        );
        assert_eq!(parse("<html>"), None);
    }
}
