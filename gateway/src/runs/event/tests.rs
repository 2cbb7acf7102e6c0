use bytes::Bytes;
use talaria_proto::v1::{ItemText, OutputItem, PartDelta};

use super::*;

const TOOLS: &str = r#"{"tools":[{"type":"function","name":"mine"},{"type":"web_search"}]}"#;

fn response(status: Status) -> pb::Response {
    let message = r#"{"type":"message","content":[{"type":"output_text","text":"Hi."}]}"#;
    let mut response = pb::Response {
        id: "resp_019234567890701280000000000000aa".to_owned(),
        created_at: 1_700_000_000,
        settings: Bytes::from_static(TOOLS.as_bytes()),
        output: vec![Bytes::from_static(message.as_bytes())],
        ..pb::Response::default()
    };
    response.set_status(status);
    response
}

/// What the events are shown as, without what all frames have.
fn shown(events: Vec<Kind>) -> String {
    let mut translator = Translator::new(&response(Status::InProgress));
    let mut lines = Vec::new();
    for (number, kind) in (0_u64..).zip(events) {
        let event = Event {
            sequence_number: number,
            kind: Some(kind),
            at_ms: number * 100,
            note: None,
        };
        let Some(frame) = translator.frame(&event) else {
            continue;
        };
        let at = seconds(1_700_000_000_000 + i64::try_from(number).unwrap() * 100);
        let head = format!("id: {}\ndata: {{\"event\":", number + 1);
        let common =
            format!(",\"run_id\":\"run_019234567890701280000000000000aa\",\"timestamp\":{at}");
        let data = frame.strip_prefix(&head).unwrap();
        let data = data.strip_suffix("}\n\n").unwrap();
        assert!(data.contains(&common), "{frame}");
        lines.push(format!("{} {}", number + 1, data.replacen(&common, "", 1)));
    }
    lines.join("\n")
}

fn item(json: &str) -> OutputItem {
    OutputItem {
        item: Bytes::from(json.to_owned()),
        ..OutputItem::default()
    }
}

fn added(json: &str) -> Kind {
    Kind::OutputItemAdded(item(json))
}

fn done(json: &str) -> Kind {
    Kind::OutputItemDone(item(json))
}

fn delta(text: &str) -> PartDelta {
    PartDelta {
        delta: text.to_owned(),
        ..PartDelta::default()
    }
}

#[test]
fn a_frame_has_an_id_and_is_one_line_of_data() {
    let event = Event {
        sequence_number: 4,
        kind: Some(Kind::OutputTextDelta(delta("a\n\"b\"\u{0}"))),
        at_ms: 1_234,
        note: None,
    };

    insta::assert_snapshot!(
        Translator::new(&response(Status::InProgress)).frame(&event).unwrap(),
        @r#"
    id: 5
    data: {"event":"message.delta","run_id":"run_019234567890701280000000000000aa","timestamp":1700000001.234,"delta":"a\n\"b\"\u0000"}
    "#
    );
}

/// REQ-78
#[test]
fn what_the_run_says_and_thinks_is_told_apart() {
    let thought = format!(
        r#"{{"type":"reasoning","summary":[],"content":[{{"type":"reasoning_text","text":"{}"}}]}}"#,
        "é".repeat(501)
    );
    let long = shown(vec![done(&thought)]);
    assert_eq!(
        long,
        format!("1 \"reasoning.available\",\"text\":\"{}\"", "é".repeat(500))
    );

    insta::assert_snapshot!(shown(vec![
        Kind::Created(response(Status::Queued)),
        Kind::InProgress(response(Status::InProgress)),
        added(r#"{"type":"reasoning","id":"rs_1"}"#),
        Kind::ReasoningSummaryTextDelta(delta("Hm")),
        Kind::ReasoningTextDelta(delta("m")),
        done(r#"{"type":"reasoning","summary":[{"text":"Hm"},{"text":"Well"}]}"#),
        done(r#"{"type":"reasoning","summary":[]}"#),
        added(r#"{"type":"message","id":"msg_1"}"#),
        Kind::OutputTextDelta(delta("Hi.")),
        Kind::RefusalDelta(delta("No.")),
        done(r#"{"type":"message","id":"msg_1"}"#),
    ]), @r#"
    4 "reasoning.delta","delta":"Hm"
    5 "reasoning.delta","delta":"m"
    6 "reasoning.available","text":"Hm\n\nWell"
    9 "message.delta","delta":"Hi."
    10 "message.delta","delta":"No."
    "#);
}

/// REQ-78
#[test]
fn each_call_that_the_run_makes_begins_and_ends_once() {
    let arguments = ItemText {
        item_id: "mcp_1".to_owned(),
        text: r#"{"n":1,"how":"fast","path":"/a\nb"}"#.to_owned(),
        ..ItemText::default()
    };
    insta::assert_snapshot!(shown(vec![
        added(r#"{"type":"web_search_call","id":"ws_1","action":{"query":"rust"}}"#),
        added(r#"{"type":"mcp_call","id":"mcp_1","name":"read"}"#),
        done(r#"{"type":"web_search_call","id":"ws_1","status":"completed"}"#),
        Kind::McpCallArgumentsDone(arguments),
        done(r#"{"type":"mcp_call","id":"mcp_1","name":"read","error":"gone"}"#),
        done(r#"{"type":"function_call","call_id":"c","name":"theirs","arguments":"{\"a\":1}"}"#),
        added(r#"{"type":"function_call_output","call_id":"c","status":"in_progress","output":""}"#),
        done(r#"{"type":"function_call_output","call_id":"c","output":"1"}"#),
        added(r#"{"type":"code_interpreter_call","id":"ci_1"}"#),
        done(r#"{"type":"code_interpreter_call","id":"ci_1","status":"incomplete"}"#),
    ]), @r#"
    1 "tool.started","tool":"web_search","preview":"rust"
    3 "tool.completed","tool":"web_search","duration":0.200,"error":false
    4 "tool.started","tool":"read","preview":"/a b"
    5 "tool.completed","tool":"read","duration":0.300,"error":true
    6 "tool.started","tool":"theirs","preview":null
    8 "tool.completed","tool":"theirs","duration":0.100,"error":false
    9 "tool.started","tool":"code_interpreter","preview":null
    10 "tool.completed","tool":"code_interpreter","duration":0.100,"error":true
    "#);
}

#[test]
fn calls_of_the_clients_functions_and_private_tools_are_not_the_runs() {
    let shown = shown(vec![
        added(r#"{"type":"function_call","call_id":"c","name":"mine"}"#),
        done(r#"{"type":"function_call","call_id":"c","name":"mine","arguments":"{}"}"#),
        done(r#"{"type":"function_call_output","call_id":"c","output":"1"}"#),
        added(r#"{"type":"mcp_call","id":"mcp_1","name":"_think"}"#),
        done(r#"{"type":"mcp_call","id":"mcp_1","name":"_think"}"#),
        done(r#"{"type":"custom_tool_call","call_id":"d","name":"mine"}"#),
        done(r#"{"type":"function_call","call_id":"e","name":"x","status":"incomplete"}"#),
        done("broken"),
    ]);

    assert_eq!(shown, "");
}

#[test]
fn a_run_ends_with_one_event_that_holds_no_items() {
    let mut failed = response(Status::Failed);
    failed.error = Some(pb::ResponseError {
        code: "server_error".to_owned(),
        message: "The model tripped.".to_owned(),
        ..pb::ResponseError::default()
    });
    let mut incomplete = response(Status::Incomplete);
    incomplete.incomplete_reason = Some("content_filter".to_owned());

    insta::assert_snapshot!(shown(vec![
        Kind::Completed(response(Status::Completed)),
        Kind::Failed(failed),
        Kind::Failed(response(Status::Cancelled)),
        Kind::Incomplete(incomplete),
    ]), @r#"
    1 "run.completed","output":"Hi.","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0}
    2 "run.failed","error":"The model tripped."
    3 "run.cancelled"
    4 "run.failed","error":"The run ended before it was done: content_filter.","output":"Hi.","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0},"partial":true
    "#);
}
