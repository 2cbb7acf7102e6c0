//! What holds of every stream.

use proptest::prelude::*;
use serde_json::json;
use talaria_domain::model::{Outcome, server_error};

use super::tests::{PLAIN, data, stream};
use super::*;
use crate::chat::completion::Completion;
use crate::chat::example::{Say, events, final_response};

/// What a client puts together from the chunks.
#[derive(Debug, Default, PartialEq)]
struct Put {
    content: String,
    refusal: String,
    reasoning: String,
    calls: Vec<Value>,
    finish: Vec<Value>,
}

fn put_together(frames: &str) -> Put {
    let mut put = Put::default();
    let chunks = frames.split("\n\n").filter_map(data);
    for chunk in chunks.filter(|chunk| chunk["object"] == "chat.completion.chunk") {
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        put.content += text(delta, "content");
        put.refusal += text(delta, "refusal");
        put.reasoning += text(delta, "reasoning_content");
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            if index == put.calls.len() {
                let mut first = call.clone();
                first.as_object_mut().unwrap().shift_remove("index");
                put.calls.push(first);
                continue;
            }
            for (kind, member) in [("function", "arguments"), ("custom", "input")] {
                let so_far = text(&put.calls[index][kind], member).to_owned();
                if put.calls[index][kind].is_object() {
                    put.calls[index][kind][member] = (so_far + text(&call[kind], member)).into();
                }
            }
        }
        if !choice["finish_reason"].is_null() {
            put.finish.push(choice["finish_reason"].clone());
        }
    }
    put
}

fn of_completion(response: &Response) -> Option<Put> {
    let Completion::Answer { body, .. } = Completion::of(response, false) else {
        return None;
    };
    let message = &body["choices"][0]["message"];
    Some(Put {
        content: text(message, "content").to_owned(),
        refusal: text(message, "refusal").to_owned(),
        reasoning: text(message, "reasoning_content").to_owned(),
        calls: message["tool_calls"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        finish: vec![body["choices"][0]["finish_reason"].clone()],
    })
}

fn any_say() -> impl Strategy<Value = Say> {
    prop_oneof![
        Just(Say::Text(&["a", "é", ""])),
        Just(Say::Text(&[])),
        Just(Say::Refusal("no")),
        Just(Say::Thought(&["t", "u"])),
        Just(Say::Summary(&["s"])),
        Just(Say::Call("c1", "weather", &["{", "}"])),
        Just(Say::Call("c2", "time", &[])),
        Just(Say::Call("c3", "terminal", &["{}"])),
        Just(Say::CustomCall("c4", "shell", &["ls"])),
        Just(Say::Item(
            json!({"type": "function_call_output", "call_id": "c3", "output": ""})
        )),
        Just(Say::Item(
            json!({"type": "function_call", "call_id": "c5", "name": "time", "arguments": "{1}"})
        )),
        Just(Say::Item(json!({"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": "whole"}, {"type": "output_text", "text": " two"}]}))),
        Just(Say::Item(
            json!({"type": "web_search_call", "id": "w", "status": "completed"})
        )),
        Just(Say::Item(json!({"type": "unknown_item"}))),
    ]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Completed),
        Just(Outcome::Failed(server_error("x"))),
        Just(Outcome::Incomplete {
            reason: "max_output_tokens".to_owned()
        }),
    ]
}

proptest! {
    /// REQ-65, REQ-67, REQ-106
    #[test]
    fn every_stream_is_well_formed(
        said in prop::collection::vec(prop_oneof![8 => any_say(), 1 => Just(Say::Crash)], 0..9),
        outcome in any_outcome(),
    ) {
        let frames = stream(&events(&said, outcome), PLAIN);
        let put = put_together(&frames);

        prop_assert_eq!(put.finish.len(), 1);
        prop_assert!(frames.ends_with("data: [DONE]\n\n"));
        prop_assert!(!put.content.contains("terminal"));
        let progress: Vec<Value> = frames.split("\n\n").filter_map(|frame| {
            frame.strip_prefix("event: hermes.tool.progress\n").and_then(data)
        }).collect();
        let of = |status: &str| progress.iter().filter(|it| it["status"] == status)
            .map(|it| text(it, "toolCallId").to_owned()).collect::<Vec<_>>();
        let (mut started, mut ended) = (of("running"), of("completed"));
        started.sort();
        ended.sort();
        prop_assert_eq!(&started, &ended);
        started.dedup();
        prop_assert_eq!(started.len(), ended.len());
    }

    #[test]
    fn a_stream_says_what_the_whole_answer_says(
        said in prop::collection::vec(any_say(), 0..9),
        outcome in any_outcome(),
    ) {
        let events = events(&said, outcome);
        let response = final_response(&events);
        if let Some(whole) = of_completion(&response) {
            prop_assert_eq!(put_together(&stream(&events, PLAIN)), whole);
        }
    }

    #[test]
    fn a_rebuilt_log_says_the_same(said in prop::collection::vec(any_say(), 0..9)) {
        let all = events(&said, Outcome::Completed);
        let end = all.last().cloned().unwrap();
        let (live, rebuilt) = (stream(&all, PLAIN), stream(&[end], PLAIN));
        prop_assert_eq!(put_together(&rebuilt), put_together(&live));
    }
}
