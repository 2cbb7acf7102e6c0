use proptest::prelude::*;
use serde_json::json;
use talaria_domain::model::{Outcome, server_error};
use talaria_proto::v1::{ResponseError, Usage};

use super::*;
use crate::upstreams::sse::Decoder;

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<ModelEvent> {
    let (mut decoder, mut parser, mut events) = (Decoder::default(), Parser::default(), Vec::new());
    for piece in pieces {
        decoder
            .push(piece, |frame| parser.push(&frame, &mut events))
            .unwrap();
    }
    decoder.finish(|frame| parser.push(&frame, &mut events));
    events
}

/// A stream of data lines, as an upstream sends them.
fn stream(lines: &[&str]) -> Vec<ModelEvent> {
    let bytes = format!("data: {}", lines.join("\n\ndata: "));
    read([bytes.as_bytes()])
}

fn object(value: &Value) -> Object {
    value.as_object().unwrap().clone()
}

fn delta(key: u64, field: Field, part: u32, delta: &str) -> ModelEvent {
    let (key, delta) = (ItemKey(key), delta.to_owned());
    ModelEvent::Delta {
        key,
        field,
        part,
        delta,
        logprobs: Vec::new(),
    }
}

fn whole(key: u64, field: Field, part: u32, text: &str) -> ModelEvent {
    ModelEvent::Text {
        key: ItemKey(key),
        field,
        part,
        text: text.to_owned(),
    }
}

fn end(outcome: Outcome) -> ModelEvent {
    ModelEvent::Finished {
        outcome,
        usage: None,
        output: Vec::new(),
    }
}

const CANONICAL: &str = concat!(
    "event: codex.rate_limits\r\ndata: {\"type\":\"codex.rate_limits\",\"error\":null}\r\n\r\n",
    ": keepalive\r\n\r\n",
    "data: {\"type\":\"response.in_progress\",\"response\":{\"output\":[]}}\r\n\r\n",
    "data: {\"type\":\"response.output_item.added\",\"output_index\":0,\r\n",
    "data: \"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[]}}\r\n\r\n",
    "event: response.output_text.delta\r\n",
    "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"item_id\":\"msg_1\",",
    "\"output_index\":0,\"content_index\":0,\"delta\":\"Hé\",\"logprobs\":[],\"obfuscation\":\"x\"}\r\n\r\n",
    "data: {\"type\":\"response.output_text.done\",\"item_id\":\"msg_1\",\"output_index\":0,",
    "\"content_index\":0,\"text\":\"Hé\"}\r\n\r\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"message\"}}\r\n\r\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[{\"type\":\"message\"}],",
    "\"usage\":{\"input_tokens\":3,\"output_tokens\":1,\"total_tokens\":4}}}\r\n\r\n",
    "data: {\"type\":\"response.output_text.delta\",\"delta\":\"late\"}\r\n\r\ndata: [DONE]",
);

fn canonical() -> Vec<ModelEvent> {
    let key = ItemKey(0);
    vec![
        ModelEvent::ItemAdded {
            key,
            item: object(
                &json!({"id": "msg_1", "type": "message", "role": "assistant", "content": []}),
            ),
        },
        delta(0, Field::Text, 0, "Hé"),
        whole(0, Field::Text, 0, "Hé"),
        ModelEvent::ItemDone {
            key,
            item: object(&json!({"type": "message"})),
        },
        ModelEvent::Finished {
            outcome: Outcome::Completed,
            usage: Some(Usage {
                input_tokens: 3,
                output_tokens: 1,
                total_tokens: 4,
                ..Usage::default()
            }),
            output: vec![object(&json!({"type": "message"}))],
        },
    ]
}

#[test]
fn a_text_stream_is_read_with_prelude_and_without_created() {
    assert_eq!(read([CANONICAL.as_bytes()]), canonical());
}

proptest! {
    #[test]
    fn every_split_of_the_bytes_says_the_same(at in any::<prop::sample::Index>()) {
        let (head, tail) = CANONICAL.as_bytes().split_at(at.index(CANONICAL.len()));
        prop_assert_eq!(read([head, tail]), canonical());
    }
}

#[test]
fn every_kind_of_text_is_read() {
    use Field::{Arguments, Input, ReasoningSummary, ReasoningText, Refusal};
    let events = stream(&[
        r#"{"type":"response.refusal.delta","output_index":0,"content_index":1,"delta":"No"}"#,
        r#"{"type":"response.refusal.done","output_index":0,"content_index":1,"refusal":"No."}"#,
        r#"{"type":"response.reasoning_summary_text.delta","output_index":1,"summary_index":2,"delta":"a"}"#,
        r#"{"type":"response.reasoning_summary_text.done","output_index":1,"summary_index":2,"text":"a"}"#,
        r#"{"type":"response.reasoning_text.delta","output_index":1,"content_index":0,"delta":"b"}"#,
        r#"{"type":"response.reasoning.delta","output_index":1,"content_index":0,"delta":"c"}"#,
        r#"{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{"}"#,
        r#"{"type":"response.function_call_arguments.done","output_index":2,"arguments":{"a":1}}"#,
        r#"{"type":"response.mcp_call_arguments.delta","output_index":3,"delta":"{}"}"#,
        r#"{"type":"response.custom_tool_call_input.delta","output_index":4,"delta":"x"}"#,
        r#"{"type":"response.custom_tool_call_input.done","output_index":4,"input":"x"}"#,
    ]);

    let expected = vec![
        delta(0, Refusal, 1, "No"),
        whole(0, Refusal, 1, "No."),
        delta(1, ReasoningSummary, 2, "a"),
        whole(1, ReasoningSummary, 2, "a"),
        delta(1, ReasoningText, 0, "b"),
        delta(1, ReasoningText, 0, "c"),
        delta(2, Arguments, 0, "{"),
        whole(2, Arguments, 0, r#"{"a":1}"#),
        delta(3, Arguments, 0, "{}"),
        delta(4, Input, 0, "x"),
        whole(4, Input, 0, "x"),
    ];
    assert_eq!(events, expected);
}

#[test]
fn odd_deltas_are_read_like_plain_ones() {
    let cases: &[(&[&str], &[ModelEvent])] = &[
        (
            &[
                r#"{"type":"response.output_text.delta","delta":"a","logprobs":null,"output_index":null,"content_index":"?"}"#,
            ],
            &[delta(0, Field::Text, 0, "a")],
        ),
        (
            &[r#"{"type":"response.output_text.delta","output_index":0,"delta":""}"#],
            &[],
        ),
        (
            &[r#"{"type":"response.output_text.delta","output_index":0}"#],
            &[],
        ),
        (
            &[r#"{"type":"response.output_text.delta","output_index":0,"delta":"a","delta":"b"}"#],
            &[delta(0, Field::Text, 0, "b")],
        ),
        (
            &[
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"a\ud83d"}"#,
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ude00b"}"#,
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ud83d"}"#,
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"c"}"#,
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ude00"}"#,
            ],
            &[
                delta(0, Field::Text, 0, "a"),
                delta(0, Field::Text, 0, "😀b"),
                delta(0, Field::Text, 0, "\u{FFFD}c"),
                delta(0, Field::Text, 0, "\u{FFFD}"),
            ],
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(stream(lines), *expected, "{lines:?}");
    }
}

#[test]
fn items_without_an_output_index_are_told_apart_by_their_ids() {
    let events = stream(&[
        r#"{"type":"response.output_item.added","output_index":7,"item":{"type":"reasoning","id":"rs_1"}}"#,
        r#"{"type":"response.reasoning_text.delta","item_id":"rs_1","delta":"a"}"#,
        r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"b"}"#,
        r#"{"type":"response.output_text.delta","delta":"c"}"#,
        r#"{"type":"response.reasoning_text.delta","item_id":"rs_1","delta":"d"}"#,
    ]);

    let expected = vec![
        ModelEvent::ItemAdded {
            key: ItemKey(7),
            item: object(&json!({"type": "reasoning", "id": "rs_1"})),
        },
        delta(7, Field::ReasoningText, 0, "a"),
        delta(WITHOUT_INDEX + 1, Field::Text, 0, "b"),
        delta(WITHOUT_INDEX + 1, Field::Text, 0, "c"),
        delta(7, Field::ReasoningText, 0, "d"),
    ];
    assert_eq!(events, expected);
}

#[test]
fn hosted_tools_and_annotations_pass_and_the_rest_is_skipped() {
    let events = stream(&[
        r#"{"type":"response.web_search_call.searching","sequence_number":3,"item_id":"ws_1","output_index":2}"#,
        r#"{"type":"response.code_interpreter_call_code.delta","item_id":"ci_1","output_index":3,"delta":"1+1"}"#,
        r#"{"type":"response.output_text.annotation.added","output_index":4,"content_index":1,"annotation_index":0,"annotation":{"type":"file_path"}}"#,
        r#"{"type":"response.created","response":{"error":null}}"#,
        r#"{"type":"response.output_item.added","output_index":0,"item":null}"#,
        r#"{"type":"response.output_item.done","output_index":0,"item":{"id":"no type"}}"#,
        r#"{"type":"keepalive"}"#,
        r#"{"type":"response.something.new","x":1}"#,
        "not json",
        "[1]",
        "",
    ]);

    let expected = vec![
        ModelEvent::Progress {
            key: ItemKey(2),
            name: "response.web_search_call.searching".to_owned(),
            fields: Object::new(),
        },
        ModelEvent::Progress {
            key: ItemKey(3),
            name: "response.code_interpreter_call_code.delta".to_owned(),
            fields: object(&json!({"delta": "1+1"})),
        },
        ModelEvent::Annotation {
            key: ItemKey(4),
            part: 1,
            annotation: object(&json!({"type": "file_path"})),
        },
    ];
    assert_eq!(events, expected);
}

#[test]
fn every_way_to_end_is_understood() {
    let incomplete = |reason: &str| Outcome::Incomplete {
        reason: reason.to_owned(),
    };
    let failed = |code: &str, message: &str| {
        Outcome::Failed(ResponseError {
            code: code.to_owned(),
            ..server_error(message)
        })
    };
    let cases = [
        (r#"{"type":"response.completed"}"#, Outcome::Completed),
        (
            r#"{"type":"response.completed","response":{"status":"in_progress","output":null}}"#,
            Outcome::Completed,
        ),
        (
            r#"{"type":"response.done","response":{"status":"incomplete"}}"#,
            incomplete("max_output_tokens"),
        ),
        (
            r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"content_filter"}}}"#,
            incomplete("content_filter"),
        ),
        (
            r#"{"type":"response.incomplete","response":{"incomplete_details":null}}"#,
            incomplete("max_output_tokens"),
        ),
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"invalid_prompt","message":"No."}}}"#,
            failed("invalid_prompt", "No."),
        ),
        (
            r#"{"type":"response.failed"}"#,
            failed("server_error", "The upstream reported an error."),
        ),
        (
            r#"{"type":"response.failed","response":{"status":"cancelled","error":null}}"#,
            failed("server_error", "The upstream cancelled the response."),
        ),
        (
            r#"{"type":"error","code":"rate_limit_exceeded","message":"Slow."}"#,
            failed("rate_limit_exceeded", "Slow."),
        ),
        (
            r#"{"type":"error","error":{"code":"odd","message":"Slow."}}"#,
            failed("server_error", "Slow."),
        ),
        (
            r#"{"error":{"code":500,"message":"Broken."}}"#,
            failed("server_error", "Broken."),
        ),
    ];
    for (line, outcome) in cases {
        assert_eq!(stream(&[line]), vec![end(outcome)], "{line}");
    }
    let named = b"event: error\ndata: {\"message\":\"Broken.\"}\n\n";
    assert_eq!(
        read([&named[..]]),
        vec![end(failed("server_error", "Broken."))]
    );
}
