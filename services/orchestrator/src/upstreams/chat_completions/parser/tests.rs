use proptest::prelude::*;
use serde_json::json;
use talaria_domain::model::server_error;

use super::*;
use crate::upstreams::chat_completions::tool_calls::FIRST_KEY;
use crate::upstreams::sse::Decoder;

const TURN: usize = 7;

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<ModelEvent> {
    let (mut decoder, mut parser, mut events) = (Decoder::default(), Parser::new(TURN), Vec::new());
    for piece in pieces {
        decoder
            .push(piece, |frame| parser.push(&frame, &mut events))
            .unwrap();
    }
    decoder.finish(|frame| parser.push(&frame, &mut events));
    parser.finish(&mut events);
    events
}

fn stream(lines: &[&str]) -> Vec<ModelEvent> {
    let bytes = format!("data: {}", lines.join("\n\ndata: "));
    read([bytes.as_bytes()])
}

/// A chunk with this delta.
fn chunk(delta: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}],"usage":null}}"#)
}

/// What a stream of these deltas says, without its end.
fn deltas(deltas: &[&str]) -> Vec<ModelEvent> {
    let chunks: Vec<String> = deltas.iter().map(|delta| chunk(delta)).collect();
    let mut lines: Vec<&str> = chunks.iter().map(String::as_str).collect();
    lines.push("[DONE]");
    let mut events = stream(&lines);
    assert_eq!(events.pop(), Some(end(Outcome::Completed)));
    events
}

fn delta(key: ItemKey, field: Field, delta: &str) -> ModelEvent {
    ModelEvent::Delta {
        key,
        field,
        part: 0,
        delta: delta.to_owned(),
        logprobs: Vec::new(),
    }
}

fn text(text: &str) -> ModelEvent {
    delta(MESSAGE, Field::Text, text)
}

fn reasoning(text: &str) -> ModelEvent {
    delta(REASONING, Field::ReasoningText, text)
}

fn call(position: u64, id: &str, name: &str) -> ModelEvent {
    let item = json!({"type": "function_call", "status": "in_progress", "call_id": id, "name": name, "arguments": ""});
    ModelEvent::ItemAdded {
        key: ItemKey(FIRST_KEY + position),
        item: item.as_object().unwrap().clone(),
    }
}

fn arguments(position: u64, text: &str) -> ModelEvent {
    delta(ItemKey(FIRST_KEY + position), Field::Arguments, text)
}

fn end(outcome: Outcome) -> ModelEvent {
    ModelEvent::Finished {
        outcome,
        usage: None,
        output: Vec::new(),
    }
}

fn end_with_usage(input_tokens: u64, output_tokens: u64) -> ModelEvent {
    let total_tokens = input_tokens + output_tokens;
    let usage = Usage {
        input_tokens,
        output_tokens,
        total_tokens,
        ..Usage::default()
    };
    ModelEvent::Finished {
        outcome: Outcome::Completed,
        usage: Some(usage),
        output: Vec::new(),
    }
}

const CANONICAL: &str = concat!(
    ": hello\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"other\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n",
    "data: [DONE]\n\n",
);

proptest! {
    #[test]
    fn every_split_of_the_bytes_says_the_same(at in any::<prop::sample::Index>()) {
        let (head, tail) = CANONICAL.as_bytes().split_at(at.index(CANONICAL.len()));
        prop_assert_eq!(read([head, tail]), vec![text("Hé"), end_with_usage(3, 1)]);
    }
}

#[test]
fn every_way_of_writing_text_is_read() {
    let cases: &[(&str, &[ModelEvent])] = &[
        (r#"{"content":"a"}"#, &[text("a")]),
        (
            r#"{"content":"<think>a</think>"}"#,
            &[text("<think>a</think>")],
        ),
        (
            r#"{"content":null,"refusal":"no"}"#,
            &[delta(MESSAGE, Field::Refusal, "no")],
        ),
        (
            r#"{"content":"","reasoning_content":"a"}"#,
            &[reasoning("a")],
        ),
        (
            r#"{"content":null,"reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a"}]}"#,
            &[reasoning("a")],
        ),
        (
            r#"{"reasoning":{"text":"a"},"content":"b"}"#,
            &[reasoning("a"), text("b")],
        ),
        (r#"{"reasoning_text":"a"}"#, &[reasoning("a")]),
        (
            r#"{"reasoning_details":[{"type":"reasoning.summary","summary":"a"}]}"#,
            &[reasoning("a")],
        ),
        (
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]},{"type":"text","text":"b"}]}"#,
            &[reasoning("a"), text("b")],
        ),
        (r#"{"content":"a\ud83d"}"#, &[text("a\u{FFFD}")]),
    ];
    for (line, expected) in cases {
        assert_eq!(deltas(&[line]), *expected, "{line}");
    }
}

#[test]
fn every_way_of_writing_tool_calls_is_read() {
    let cases: &[(&[&str], &[ModelEvent])] = &[
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}"#,
                r#"{"tool_calls":[{"index":1,"id":"b","function":{"name":"g"}}]}"#,
            ],
            &[
                call(0, "a", "f"),
                arguments(0, "{\"x\""),
                arguments(0, ":1}"),
                call(1, "b", "g"),
                arguments(1, "{}"),
            ],
        ),
        // No index and no id; arguments as an object.
        (
            &[
                r#"{"tool_calls":[{"function":{"name":"f","arguments":{"x":1}}},{"function":{"name":"g","arguments":"{}"}}]}"#,
            ],
            &[
                call(0, "call_7_0", "f"),
                arguments(0, "{\"x\":1}"),
                call(1, "call_7_1", "g"),
                arguments(1, "{}"),
            ],
        ),
        // The same index for every call.
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
                r#"{"tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":"{}"}}]}"#,
            ],
            &[
                call(0, "a", "f"),
                arguments(0, "{}"),
                call(1, "b", "f"),
                arguments(1, "{}"),
            ],
        ),
        // A name in pieces, a name repeated, a name after the arguments.
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"get_"}}]}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"time","arguments":""}}]}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{"}}]}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"get_time","arguments":"}"}}]}"#,
            ],
            &[
                call(0, "a", "get_time"),
                arguments(0, "{"),
                arguments(0, "}"),
            ],
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{"}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"name":"f"}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"}"}}]}"#,
            ],
            &[call(0, "a", "f"), arguments(0, "{"), arguments(0, "}")],
        ),
        // The form before tools.
        (
            &[
                r#"{"function_call":{"name":"f","arguments":""}}"#,
                r#"{"function_call":{"arguments":"{}"}}"#,
            ],
            &[call(0, "call_7_0", "f"), arguments(0, "{}")],
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(deltas(lines), *expected, "{lines:?}");
    }
}

#[test]
fn every_way_to_end_is_understood() {
    let finish = |reason: &str| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
    };
    let incomplete = |reason: &str| {
        vec![end(Outcome::Incomplete {
            reason: reason.to_owned(),
        })]
    };
    let failed = |message: &str| vec![end(Outcome::Failed(server_error(message)))];
    let hello = chunk(r#"{"content":"a"}"#);
    let cases: &[(&[&str], Vec<ModelEvent>)] = &[
        (&[&finish("stop")], vec![end(Outcome::Completed)]),
        (
            &[&finish("tool_calls"), "[DONE]"],
            failed("The model called a tool and named none."),
        ),
        (
            &[&hello, &finish("tool_calls")],
            vec![text("a"), end(Outcome::Completed)],
        ),
        (&[&finish("model_length")], incomplete("max_output_tokens")),
        (&[&finish("SAFETY")], incomplete("content_filter")),
        (
            &[&finish("insufficient_system_resource")],
            failed("The upstream reported an error."),
        ),
        (
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":2}}]}"#,
            ],
            vec![end_with_usage(1, 2)],
        ),
        (
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"timings":{"prompt_n":1,"predicted_n":2}}"#,
            ],
            vec![end_with_usage(1, 2)],
        ),
        (
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":2}}}"#,
            ],
            vec![end_with_usage(1, 2)],
        ),
        (&[&finish("eos")], vec![end(Outcome::Completed)]),
        (
            &[&finish("length"), "[DONE]"],
            incomplete("max_output_tokens"),
        ),
        (&[&finish("content_filter")], incomplete("content_filter")),
        (
            &[&finish("error")],
            failed("The upstream reported an error."),
        ),
        (
            &[r#"{"error":{"message":"No.","code":429}}"#],
            failed("No."),
        ),
        (&[r#"{"object":"error","message":"No."}"#], failed("No.")),
        (
            &[
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
                &hello,
            ],
            vec![end_with_usage(1, 2)],
        ),
        (
            &[
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
                &finish("stop"),
            ],
            vec![end_with_usage(1, 2)],
        ),
        (
            &[&hello, "[DONE]"],
            vec![text("a"), end(Outcome::Completed)],
        ),
        (&[&hello, "not json"], vec![text("a")]),
        (&["[DONE]"], vec![]),
    ];
    for (lines, expected) in cases {
        assert_eq!(stream(lines), *expected, "{lines:?}");
    }
}

#[test]
fn what_a_failed_call_holds_back_is_neither_made_up_nor_handed_out() {
    let begun = chunk(r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}"#);
    let late =
        chunk(r#"{"content":"a","reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#);
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#;
    let failures = [
        (r#"{"error":"No."}"#, "No."),
        (finish, "The upstream reported an error."),
    ];
    for (failure, message) in failures {
        assert_eq!(
            stream(&[&begun, &late, failure]),
            [text("a"), end(Outcome::Failed(server_error(message)))],
            "{failure}"
        );
    }
    let nameless = chunk(
        r#"{"tool_calls":[{"index":0,"id":"c"}],"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#,
    );
    let message = "The model called a tool and named none.";
    assert_eq!(
        stream(&[&nameless, "[DONE]"]),
        [end(Outcome::Failed(server_error(message)))]
    );
}

#[test]
fn citations_are_written_as_the_responses_api_writes_them() {
    let cited = r#"{"content":"a","annotations":[{"type":"url_citation","url_citation":{"url":"u","title":"t","start_index":0,"end_index":1}}]}"#;
    let flat =
        json!({"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1});
    let annotation = ModelEvent::Annotation {
        key: MESSAGE,
        part: 0,
        annotation: flat.as_object().unwrap().clone(),
    };

    assert_eq!(deltas(&[cited]), [text("a"), annotation]);
}

#[test]
fn thoughts_that_only_their_model_can_read_end_the_reasoning_or_follow_what_they_came_with() {
    let sealed = r#"{"reasoning":"hm","reasoning_details":[{"type":"reasoning.text","text":"hm","signature":"s"}]}"#;
    let late = r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#;
    let item = |key, details: &str| {
        let item = json!({"type": "reasoning", "summary": [], "encrypted_content": details});
        ModelEvent::ItemDone {
            key,
            item: item.as_object().unwrap().clone(),
        }
    };

    assert_eq!(
        deltas(&[sealed, r#"{"content":"a"}"#, late]),
        [
            reasoning("hm"),
            item(
                REASONING,
                r#"[{"type":"reasoning.text","text":"hm","signature":"s"}]"#
            ),
            text("a"),
            item(
                LATE_REASONING,
                r#"[{"type":"reasoning.encrypted","data":"x"}]"#
            ),
        ]
    );
}

#[test]
fn a_refusal_after_text_is_a_part_of_its_own() {
    let mut refusal = delta(MESSAGE, Field::Refusal, "b");
    if let ModelEvent::Delta { part, .. } = &mut refusal {
        *part = 1;
    }

    assert_eq!(
        deltas(&[r#"{"content":"a"}"#, r#"{"refusal":"b"}"#]),
        vec![text("a"), refusal]
    );
}

#[test]
fn log_probabilities_come_with_their_text() {
    let entry = json!({"token": "a", "logprob": -0.5});
    let line = json!({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}]});

    let expected = ModelEvent::Delta {
        key: MESSAGE,
        field: Field::Text,
        part: 0,
        delta: "a".to_owned(),
        logprobs: vec![entry],
    };
    assert_eq!(stream(&[&line.to_string()]), vec![expected]);
}

#[test]
fn a_whole_completion_is_read_like_a_stream() {
    let body = json!({"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": "a", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2}});
    let expected = vec![
        text("a"),
        call(0, "c", "f"),
        arguments(0, "{}"),
        end_with_usage(1, 2),
    ];

    assert_eq!(parse_body(&body.to_string(), TURN), Some(expected));
    assert_eq!(
        parse_body(r#"{"error":"No."}"#, TURN),
        Some(vec![end(Outcome::Failed(server_error("No.")))])
    );
    assert_eq!(parse_body("<html>", TURN), None);
}
