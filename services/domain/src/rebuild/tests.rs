use proptest::prelude::*;
use serde_json::{Value, json};
use talaria_proto::v1::{ResponseError, Usage};

use super::*;
use crate::item::Item;
use crate::snapshot::{Snapshot, is_terminal_event};

fn response(status: Status, output: &[Value]) -> Response {
    let mut response = Response {
        id: "resp_1".into(),
        created_at: 10,
        model: "m".into(),
        output: output.iter().map(|i| Bytes::from(i.to_string())).collect(),
        usage: Some(Usage::default()),
        settings: Bytes::from_static(b"{}"),
        ..Default::default()
    };
    response.set_status(status);
    match status {
        Status::Completed => response.completed_at = Some(12),
        Status::Incomplete => response.incomplete_reason = Some("max_output_tokens".into()),
        Status::Failed => response.error = Some(ResponseError::default()),
        _ => {}
    }
    response
}

fn every_kind_of_item() -> Vec<Value> {
    vec![
        json!({"id": "rs_1", "type": "reasoning", "encrypted_content": "x",
               "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": ""}],
               "content": [{"type": "reasoning_text", "text": "think"}]}),
        json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "phase": "final",
        "content": [
            {"type": "output_text", "annotations": [{"type": "url_citation", "url": "u"}],
             "logprobs": [{"token": "H"}], "text": "H\u{0}i"},
            {"type": "refusal", "refusal": "no"},
            {"type": "output_text", "annotations": [], "logprobs": [], "text": ""},
            {"type": "hologram", "depth": 3},
        ]}),
        json!({"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c", "name": "f",
               "arguments": "{\"a\":1}"}),
        json!({"id": "fco_1", "type": "function_call_output", "status": "completed", "call_id": "c", "output": "1"}),
        json!({"id": "ctc_1", "type": "custom_tool_call", "status": "incomplete", "call_id": "d", "name": "g",
               "input": ""}),
        json!({"id": "mcp_1", "type": "mcp_call", "status": "failed", "name": "h", "server_label": "s",
               "arguments": "{}", "output": null, "error": "broke"}),
        json!({"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "h"}]}),
        json!({"id": "ci_1", "type": "code_interpreter_call", "status": "completed", "code": "1+1"}),
        json!({"id": "item_1", "type": "of_the_future", "nested": {"n": [1.5, null]}}),
    ]
}

/// One line for each event.
fn show(events: &[Event]) -> String {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let line = |event: &Event| {
        let what = match event.kind.as_ref().unwrap() {
            Kind::Created(r)
            | Kind::Queued(r)
            | Kind::InProgress(r)
            | Kind::Completed(r)
            | Kind::Failed(r)
            | Kind::Incomplete(r) => format!("{:?} with {} items", r.status(), r.output.len()),
            Kind::OutputItemAdded(e) => format!("added {}", text(&e.item)),
            Kind::OutputItemDone(e) => format!("done {}", text(&e.item)),
            Kind::ContentPartAdded(e) => format!("  part {}", text(&e.part)),
            Kind::ContentPartDone(e) => format!("  part done {}", text(&e.part)),
            Kind::ReasoningSummaryPartAdded(e) => format!("  summary {}", text(&e.part)),
            Kind::ReasoningSummaryPartDone(e) => format!("  summary done {}", text(&e.part)),
            Kind::OutputTextDelta(e)
            | Kind::RefusalDelta(e)
            | Kind::ReasoningTextDelta(e)
            | Kind::ReasoningSummaryTextDelta(e) => format!("    + {:?}", e.delta),
            Kind::OutputTextDone(e)
            | Kind::RefusalDone(e)
            | Kind::ReasoningTextDone(e)
            | Kind::ReasoningSummaryTextDone(e) => format!("    = {:?}", e.text),
            Kind::FunctionCallArgumentsDelta(e)
            | Kind::CustomToolCallInputDelta(e)
            | Kind::McpCallArgumentsDelta(e) => format!("    + {:?}", e.delta),
            Kind::FunctionCallArgumentsDone(e)
            | Kind::CustomToolCallInputDone(e)
            | Kind::McpCallArgumentsDone(e) => format!("    = {:?}", e.text),
            Kind::OutputTextAnnotationAdded(e) => format!("    note {}", text(&e.annotation)),
            Kind::ItemProgress(e) => format!("  {} {}", e.r#type, text(&e.fields)),
        };
        format!("{} {}\n", event.sequence_number, what.trim_end())
    };
    events.iter().map(line).collect()
}

/// The laws of a whole stream.
fn assert_lawful(response: &Response) {
    let events = events(response, 0, None);
    let snapshot = Snapshot::of(&events).unwrap();

    assert_eq!(snapshot.response(), *response);
    let items: Vec<Bytes> = snapshot
        .output("in_progress")
        .map(|(item, _)| item)
        .collect();
    assert_eq!(items, response.output);
    assert!(
        snapshot
            .items()
            .iter()
            .all(|item| matches!(item, Item::Done { .. }))
    );
    let ends = events.iter().filter(|event| is_terminal_event(event));
    assert_eq!(ends.count(), 1);
    assert!(events.last().is_some_and(is_terminal_event));
}

#[test]
fn every_item_is_shown_whole_between_its_ends() {
    let response = response(Status::Completed, &every_kind_of_item());

    assert_lawful(&response);
    insta::assert_snapshot!(show(&events(&response, 0, None)), @r##"
    0 InProgress with 0 items
    1 InProgress with 0 items
    2 added {"id":"rs_1","type":"reasoning","summary":[]}
    3   summary {"type":"summary_text","text":""}
    4     + "a"
    5     = "a"
    6   summary done {"type":"summary_text","text":"a"}
    7   summary {"type":"summary_text","text":""}
    8     = ""
    9   summary done {"type":"summary_text","text":""}
    10   part {"type":"reasoning_text","text":""}
    11     + "think"
    12     = "think"
    13   part done {"type":"reasoning_text","text":"think"}
    14 done {"id":"rs_1","type":"reasoning","encrypted_content":"x","summary":[{"type":"summary_text","text":"a"},{"type":"summary_text","text":""}],"content":[{"type":"reasoning_text","text":"think"}]}
    15 added {"id":"msg_1","type":"message","status":"in_progress","role":"assistant","phase":"final","content":[]}
    16   part {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    17     + "H\0i"
    18     note {"type":"url_citation","url":"u"}
    19     = "H\0i"
    20   part done {"type":"output_text","annotations":[{"type":"url_citation","url":"u"}],"logprobs":[{"token":"H"}],"text":"H\u0000i"}
    21   part {"type":"refusal","refusal":""}
    22     + "no"
    23     = "no"
    24   part done {"type":"refusal","refusal":"no"}
    25   part {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    26     = ""
    27   part done {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    28   part {"type":"hologram","depth":3}
    29   part done {"type":"hologram","depth":3}
    30 done {"id":"msg_1","type":"message","status":"completed","role":"assistant","phase":"final","content":[{"type":"output_text","annotations":[{"type":"url_citation","url":"u"}],"logprobs":[{"token":"H"}],"text":"H\u0000i"},{"type":"refusal","refusal":"no"},{"type":"output_text","annotations":[],"logprobs":[],"text":""},{"type":"hologram","depth":3}]}
    31 added {"id":"fc_1","type":"function_call","status":"in_progress","call_id":"c","name":"f","arguments":""}
    32     + "{\"a\":1}"
    33     = "{\"a\":1}"
    34 done {"id":"fc_1","type":"function_call","status":"completed","call_id":"c","name":"f","arguments":"{\"a\":1}"}
    35 added {"id":"fco_1","type":"function_call_output","status":"in_progress","call_id":"c","output":""}
    36 done {"id":"fco_1","type":"function_call_output","status":"completed","call_id":"c","output":"1"}
    37 added {"id":"ctc_1","type":"custom_tool_call","status":"in_progress","call_id":"d","name":"g","input":""}
    38     = ""
    39 done {"id":"ctc_1","type":"custom_tool_call","status":"incomplete","call_id":"d","name":"g","input":""}
    40 added {"id":"mcp_1","type":"mcp_call","status":"in_progress","name":"h","server_label":"s","arguments":""}
    41   response.mcp_call.in_progress
    42     + "{}"
    43     = "{}"
    44   response.mcp_call.failed
    45 done {"id":"mcp_1","type":"mcp_call","status":"failed","name":"h","server_label":"s","arguments":"{}","output":null,"error":"broke"}
    46 added {"id":"mcpl_1","type":"mcp_list_tools","server_label":"s","tools":[]}
    47   response.mcp_list_tools.in_progress
    48   response.mcp_list_tools.completed
    49 done {"id":"mcpl_1","type":"mcp_list_tools","server_label":"s","tools":[{"name":"h"}]}
    50 added {"id":"ci_1","type":"code_interpreter_call","status":"in_progress","code":""}
    51   response.code_interpreter_call.in_progress
    52   response.code_interpreter_call_code.delta {"delta":"1+1"}
    53   response.code_interpreter_call_code.done {"code":"1+1"}
    54   response.code_interpreter_call.completed
    55 done {"id":"ci_1","type":"code_interpreter_call","status":"completed","code":"1+1"}
    56 added {"id":"item_1","type":"of_the_future","nested":{"n":[1.5,null]}}
    57 done {"id":"item_1","type":"of_the_future","nested":{"n":[1.5,null]}}
    58 Completed with 9 items
    "##);
}

#[test]
fn every_end_is_rebuilt() {
    for status in [
        Status::Completed,
        Status::Incomplete,
        Status::Failed,
        Status::Cancelled,
    ] {
        for background in [false, true] {
            let mut response = response(status, &every_kind_of_item());
            response.background = background;
            assert_lawful(&response);
            response.output.clear();
            assert_lawful(&response);
        }
    }
}

#[test]
fn the_end_comes_when_it_came() {
    let response = response(Status::Completed, &[]);

    let times: Vec<u64> = events(&response, 0, None)
        .iter()
        .map(|event| event.at_ms)
        .collect();

    assert_eq!(times, [0, 0, 2000]);
}

#[test]
fn a_reader_that_comes_back_gets_the_end_under_its_number_in_the_log() {
    let response = response(Status::Completed, &every_kind_of_item()[1..2]);
    let rebuilt = events(&response, 9, None).len() as u64;
    assert!(rebuilt > 9);
    let after = |next, after| {
        let events = events(&response, next, Some(after));
        assert!(events.iter().all(is_terminal_event));
        let numbers: Vec<u64> = events.iter().map(|event| event.sequence_number).collect();
        numbers
    };

    assert_eq!(after(100, 0), [99]);
    assert_eq!(after(100, 98), [99]);
    assert_eq!(after(100, 99), [0_u64; 0]);
    assert_eq!(after(9, 3), [8]);
    // It saw part of what was rebuilt, which is longer than the log was.
    assert_eq!(after(9, 8), [rebuilt - 1]);
    assert_eq!(after(9, rebuilt - 1), [0_u64; 0]);
    // An imported response never had a log.
    assert_eq!(after(0, 2), [rebuilt - 1]);
}

#[test]
fn a_response_that_goes_on_is_not_rebuilt() {
    for status in [Status::Queued, Status::InProgress] {
        assert_eq!(events(&response(status, &[]), 5, None), []);
        assert_eq!(events(&response(status, &[]), 5, Some(1)), []);
    }
}

fn any_text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn any_part() -> impl Strategy<Value = Value> {
    prop_oneof![
        any_text().prop_map(|text| {
            json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
        }),
        any_text().prop_map(|text| json!({"type": "refusal", "refusal": text})),
        any_text().prop_map(|text| json!({"type": "reasoning_text", "text": text})),
        any_text().prop_map(|kind| json!({"type": kind, "text": 1})),
        Just(json!(null)),
        Just(json!({"text": {}})),
    ]
}

fn any_item() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        "message",
        "reasoning",
        "function_call",
        "custom_tool_call",
        "mcp_call",
        "web_search_call",
        "code_interpreter_call",
        "mcp_list_tools",
        "odd",
    ]);
    let parts = || prop::collection::vec(any_part(), 0..4);
    (types, parts(), parts(), any_text(), any::<bool>()).prop_map(
        |(item_type, content, summary, text, whole)| {
            json!({
                "id": "x", "type": item_type, "status": if whole { "completed" } else { "incomplete" },
                "content": content, "summary": summary, "arguments": text, "input": text, "code": text,
            })
        },
    )
}

proptest! {
    #[test]
    fn what_is_rebuilt_folds_to_what_it_was_rebuilt_from(
        items in prop::collection::vec(any_item(), 0..5),
        status in prop::sample::select(vec![
            Status::Completed, Status::Incomplete, Status::Failed, Status::Cancelled,
        ]),
    ) {
        assert_lawful(&response(status, &items));
    }
}
