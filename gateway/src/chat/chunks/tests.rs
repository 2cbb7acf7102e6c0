//! Streams of all kinds, frame by frame.

use serde_json::json;
use talaria_domain::model::{Outcome, server_error};

use super::*;
use crate::chat::example::{Say, created, events};

pub(super) const PLAIN: Options = Options {
    usage: UsageFrame::WithFinish,
    shows_progress: true,
    is_legacy: false,
};

pub(super) fn stream(events: &[Event], options: Options) -> String {
    let mut chunks = Chunks::new(&created(), options);
    let mut out = String::new();
    for event in events {
        chunks.push(&mut out, event);
    }
    assert!(chunks.has_ended());
    out
}

/// The frames without what is the same in all of them, one a line.
fn brief(said: &[Say], outcome: Outcome) -> String {
    brief_of(&events(said, outcome), PLAIN)
}

fn brief_of(events: &[Event], options: Options) -> String {
    let frames = stream(events, options);
    let lines = frames.split("\n\n").filter(|frame| !frame.is_empty());
    let lines = lines.map(|frame| match data(frame) {
        Some(chunk) if chunk["object"] == "chat.completion.chunk" => {
            let choice = &chunk["choices"][0];
            match choice["finish_reason"].as_str() {
                None => choice["delta"].to_string(),
                Some(finish) => format!("{finish} {} {}", chunk["error"], chunk["hermes"]),
            }
        }
        _ => frame.replace('\n', " "),
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) fn data(frame: &str) -> Option<Value> {
    let line = frame.lines().find_map(|line| line.strip_prefix("data: "))?;
    serde_json::from_str(line).ok()
}

/// REQ-75
#[test]
fn a_text_is_a_role_its_pieces_and_an_end_with_usage() {
    let events = events(&[Say::Text(&["Hel", "lo\n\"you\""])], Outcome::Completed);

    insta::assert_snapshot!(stream(&events, PLAIN), @r#"
    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"content":"lo\n\"you\""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}

    data: [DONE]
    "#);
}

#[test]
fn usage_of_its_own_stands_in_a_chunk_without_choices() {
    let events = events(&[Say::Text(&["Hi"])], Outcome::Completed);
    let options = Options {
        usage: UsageFrame::OfItsOwn,
        ..PLAIN
    };

    insta::assert_snapshot!(stream(&events, options), @r#"
    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}

    data: [DONE]
    "#);
}

#[test]
fn thoughts_and_messages_stand_apart() {
    let said = [
        Say::Summary(&["First ", "this."]),
        Say::Text(&["Let me see."]),
        Say::Thought(&["Hm."]),
        Say::Text(&["Right", "!"]),
    ];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"reasoning_content":"First "}
    {"reasoning_content":"this."}
    {"content":"Let me see."}
    {"reasoning_content":"\n\n"}
    {"reasoning_content":"Hm."}
    {"content":"\n\n"}
    {"content":"Right"}
    {"content":"!"}
    stop null null
    data: [DONE]
    "#);
}

#[test]
fn what_was_never_streamed_is_filled_in() {
    let annotation =
        json!({"type": "url_citation", "start_index": 0, "end_index": 4, "url": "u", "title": "t"});
    let said = [
        Say::Item(json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "S"}]})),
        Say::Text(&["é!"]),
        Say::Item(json!({"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "Cited", "annotations": [annotation]}]})),
        Say::Item(
            json!({"type": "function_call", "call_id": "c1", "name": "time", "arguments": "{\"z\":1}"}),
        ),
    ];
    let all = events(&said, Outcome::Completed);
    // As a log that is rebuilt from the final response alone.
    let end = all.last().cloned().unwrap();

    insta::assert_snapshot!(brief_of(&all, PLAIN), @r#"
    {"role":"assistant","content":""}
    {"reasoning_content":"S"}
    {"content":"é!"}
    {"content":"\n\n"}
    {"content":"Cited"}
    {"annotations":[{"type":"url_citation","url_citation":{"start_index":4,"end_index":8,"url":"u","title":"t"}}]}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"time","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"z\":1}"}}]}
    tool_calls null null
    data: [DONE]
    "#);
    insta::assert_snapshot!(brief_of(&[end], PLAIN), @r#"
    {"role":"assistant","content":""}
    {"reasoning_content":"S"}
    {"content":"é!"}
    {"content":"\n\n"}
    {"content":"Cited"}
    {"annotations":[{"type":"url_citation","url_citation":{"start_index":4,"end_index":8,"url":"u","title":"t"}}]}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"time","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"z\":1}"}}]}
    tool_calls null null
    data: [DONE]
    "#);
}

#[test]
fn a_refusal_is_no_content() {
    insta::assert_snapshot!(brief(&[Say::Refusal("No.")], Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"refusal":"No."}
    stop null null
    data: [DONE]
    "#);
}

/// REQ-77
#[test]
fn calls_of_the_clients_tools_come_piece_by_piece() {
    // Some upstreams give two calls one id.
    let said = [
        Say::Text(&["Wait."]),
        Say::Call("c1", "weather", &["{\"city\":", "\"Oslo\"}"]),
        Say::CustomCall("c2", "shell", &["ls"]),
        Say::Call("c1", "weather", &["{}"]),
    ];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"content":"Wait."}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"weather","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"\"Oslo\"}"}}]}
    {"tool_calls":[{"index":1,"id":"c2","type":"custom","custom":{"name":"shell","input":""}}]}
    {"tool_calls":[{"index":1,"custom":{"input":"ls"}}]}
    {"tool_calls":[{"index":2,"id":"call_01923456789a7bcd8ef0123456789abco3","type":"function","function":{"name":"weather","arguments":""}}]}
    {"tool_calls":[{"index":2,"function":{"arguments":"{}"}}]}
    tool_calls null null
    data: [DONE]
    "#);
}

#[test]
fn deprecated_functions_are_answered_with_one_function_call() {
    let said = [
        Say::Call("c1", "weather", &["{\"city\":", "\"Oslo\"}"]),
        Say::Call("c2", "time", &["{}"]),
    ];
    let options = Options {
        is_legacy: true,
        ..PLAIN
    };

    insta::assert_snapshot!(brief_of(&events(&said, Outcome::Completed), options), @r#"
    {"role":"assistant","content":""}
    {"function_call":{"name":"weather","arguments":""}}
    {"function_call":{"arguments":"{\"city\":"}}
    {"function_call":{"arguments":"\"Oslo\"}"}}
    function_call null null
    data: [DONE]
    "#);
}

/// REQ-65, REQ-66, REQ-67, REQ-68, REQ-69, REQ-71, REQ-75
#[test]
fn tools_that_the_server_runs_are_progress_and_never_calls() {
    let output =
        |id: &str| Say::Item(json!({"type": "function_call_output", "call_id": id, "output": "x"}));
    let said = [
        Say::Text(&["I look."]),
        Say::Call("c1", "terminal", &["{\"command\":", "\"ls\"}"]),
        Say::Call("c2", "_hidden", &["{}"]),
        output("c2"),
        output("c1"),
        Say::Item(json!({"type": "web_search_call", "id": "up_1", "status": "completed"})),
        Say::Item(
            json!({"type": "mcp_call", "id": "up_2", "name": "read_file", "server_label": "s",
            "arguments": "{\"path\":\"/etc/hosts\"}", "output": "x"}),
        ),
        Say::Text(&["Found."]),
    ];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"content":"I look."}
    event: hermes.tool.progress data: {"tool":"terminal","emoji":"💻","label":"ls","toolCallId":"c1","status":"running"}
    event: hermes.tool.progress data: {"tool":"terminal","toolCallId":"c1","status":"completed"}
    event: hermes.tool.progress data: {"tool":"web_search","emoji":"🔍","label":"web_search","toolCallId":"ws_01923456789a7bcd8ef0123456789abco5","status":"running"}
    event: hermes.tool.progress data: {"tool":"web_search","toolCallId":"ws_01923456789a7bcd8ef0123456789abco5","status":"completed"}
    event: hermes.tool.progress data: {"tool":"read_file","emoji":"📖","label":"/etc/hosts","toolCallId":"mcp_01923456789a7bcd8ef0123456789abco6","status":"running"}
    event: hermes.tool.progress data: {"tool":"read_file","toolCallId":"mcp_01923456789a7bcd8ef0123456789abco6","status":"completed"}
    {"content":"\n\n"}
    {"content":"Found."}
    stop null null
    data: [DONE]
    "#);
    let quiet = Options {
        shows_progress: false,
        ..PLAIN
    };
    insta::assert_snapshot!(brief_of(&events(&said, Outcome::Completed), quiet), @r#"
    {"role":"assistant","content":""}
    {"content":"I look."}
    {"content":"\n\n"}
    {"content":"Found."}
    stop null null
    data: [DONE]
    "#);
}

/// REQ-66, REQ-69
#[test]
fn progress_lasts_from_the_call_to_its_result() {
    let item = |item: Value| talaria_proto::v1::OutputItem {
        item: item.to_string().into(),
        ..Default::default()
    };
    let added = |json: Value| Kind::OutputItemAdded(item(json));
    let done = |json: Value| Kind::OutputItemDone(item(json));
    let written = |id: &str, arguments: &str| {
        Kind::McpCallArgumentsDone(talaria_proto::v1::ItemText {
            item_id: id.to_owned(),
            text: arguments.to_owned(),
            ..Default::default()
        })
    };
    let at = |output_index, mut kind: Kind| {
        if let Kind::OutputItemAdded(item) | Kind::OutputItemDone(item) = &mut kind {
            item.output_index = output_index;
        }
        kind
    };
    let call = json!({"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{\"path\":\"/a\"}"});
    let hidden = json!({"type": "mcp_call", "id": "m2", "name": "_think", "arguments": ""});
    let output = |status: &str| json!({"type": "function_call_output", "call_id": "c1", "status": status, "output": []});
    let remote =
        |status: &str| json!({"type": "mcp_call", "id": "m1", "name": "web", "status": status});
    let events = [
        at(0, done(call)),
        at(1, added(output("in_progress"))),
        at(2, added(remote("in_progress"))),
        written("m1", "{\"query\":\"rain\"}"),
        at(3, added(hidden.clone())),
        written("m2", "{}"),
        at(1, done(output("completed"))),
        at(3, done(hidden)),
        at(2, done(remote("failed"))),
    ];

    let mut chunks = Chunks::new(&created(), PLAIN);
    let mut shown = Vec::new();
    for kind in events {
        let mut out = String::new();
        let event = Event {
            kind: Some(kind),
            ..Event::default()
        };
        chunks.push(&mut out, &event);
        shown.push(match out.rsplit_once("data: ") {
            Some((before, data)) if before.contains("progress") => data.trim_end().to_owned(),
            _ => String::new(),
        });
    }

    insta::assert_snapshot!(shown.join("\n"), @r#"
    {"tool":"read","emoji":"📖","label":"/a","toolCallId":"c1","status":"running"}


    {"tool":"web","emoji":"🌐","label":"rain","toolCallId":"m1","status":"running"}


    {"tool":"read","toolCallId":"c1","status":"completed"}

    {"tool":"web","toolCallId":"m1","status":"completed"}
    "#);
}

/// REQ-106
#[test]
fn a_tool_that_was_running_when_the_run_failed_is_ended_before_the_answer_is() {
    let said = [Say::Call("c1", "terminal", &["{}"]), Say::Text(&["So f"])];
    let failed = Outcome::Failed(server_error("The model tripped."));

    insta::assert_snapshot!(brief(&said, failed), @r#"
    {"role":"assistant","content":""}
    event: hermes.tool.progress data: {"tool":"terminal","emoji":"💻","label":"terminal","toolCallId":"c1","status":"running"}
    {"content":"So f"}
    event: hermes.tool.progress data: {"tool":"terminal","toolCallId":"c1","status":"completed"}
    error {"message":"The model tripped.","type":"server_error","param":null,"code":"agent_error"} {"completed":false,"partial":false,"failed":true,"error":"The model tripped.","error_code":"agent_error"}
    data: [DONE]
    "#);
}

#[test]
fn a_call_of_a_tool_that_nobody_has_is_the_clients_to_answer() {
    let said = [Say::Call("c1", "made_up", &["{\"a\":1}"])];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    event: hermes.tool.progress data: {"tool":"made_up","emoji":"⚡","label":"made_up","toolCallId":"c1","status":"running"}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"made_up","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}
    event: hermes.tool.progress data: {"tool":"made_up","toolCallId":"c1","status":"completed"}
    tool_calls null null
    data: [DONE]
    "#);
}

#[test]
fn an_answer_that_was_cut_off_says_so() {
    let limit = |reason: &str| Outcome::Incomplete {
        reason: reason.to_owned(),
    };
    let once = [Say::Text(&["Once"])];
    let half = [Say::HalfCall("c1", "weather", &["{\"ci"])];

    insta::assert_snapshot!(brief(&once, limit("max_output_tokens")), @r#"
    {"role":"assistant","content":""}
    {"content":"Once"}
    length null {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}
    data: [DONE]
    "#);
    insta::assert_snapshot!(brief(&once, limit("content_filter")), @r#"
    {"role":"assistant","content":""}
    {"content":"Once"}
    content_filter null {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"content_filter"}
    data: [DONE]
    "#);
    insta::assert_snapshot!(brief(&half, limit("max_output_tokens")), @r#"
    {"role":"assistant","content":""}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"weather","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"ci"}}]}
    length null {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}
    data: [DONE]
    "#);
}

#[test]
fn what_a_second_attempt_says_again_stands_apart() {
    let said = [
        Say::Text(&["Once up"]),
        Say::Crash,
        Say::Text(&["Once upon", " a time"]),
    ];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"content":"Once up"}
    {"content":"\n\n"}
    {"content":"Once upon"}
    {"content":" a time"}
    stop null null
    data: [DONE]
    "#);
}

#[test]
fn half_a_call_that_was_shown_is_not_followed_by_the_same_call() {
    let said = [
        Say::HalfCall("c1", "weather", &["{\"ci"]),
        Say::Crash,
        Say::Call("c9", "weather", &["{}"]),
    ];

    insta::assert_snapshot!(brief(&said, Outcome::Completed), @r#"
    {"role":"assistant","content":""}
    {"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"weather","arguments":""}}]}
    {"tool_calls":[{"index":0,"function":{"arguments":"{\"ci"}}]}
    error {"message":"The server that ran this completion was lost in the middle of a tool call. Please ask again.","type":"server_error","param":null,"code":"agent_error"} {"completed":false,"partial":false,"failed":true,"error":"The server that ran this completion was lost in the middle of a tool call. Please ask again.","error_code":"agent_error"}
    data: [DONE]
    "#);
}

#[test]
fn a_run_that_is_lost_ends_its_stream_with_an_error() {
    let mut chunks = Chunks::new(&created(), PLAIN);
    let mut out = String::new();
    chunks.break_off(&mut out, "Lost.");
    chunks.break_off(&mut out, "Lost again.");

    insta::assert_snapshot!(out, @r#"
    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion.chunk","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"error"}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"error":{"message":"Lost.","type":"server_error","param":null,"code":"agent_error"},"hermes":{"completed":false,"partial":false,"failed":true,"error":"Lost.","error_code":"agent_error"}}

    data: [DONE]
    "#);
}
