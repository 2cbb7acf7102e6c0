use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Field, ItemKey, Object};

mod approval;
mod limits;
mod link;
mod lists;
mod refusals;
mod resume;
mod tools;

const ID: Uuid = Uuid::from_u128(7);

fn run() -> Run {
    let mut response = Response {
        id: "resp_1".into(),
        model: "m".into(),
        ..Default::default()
    };
    response.set_status(Status::InProgress);
    let mut run = Run::create(ID, response);
    run.start();
    run
}

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

fn delta(key: u64, field: Field, text: &str) -> ModelEvent {
    let (delta, logprobs) = (text.to_owned(), Vec::new());
    ModelEvent::Delta {
        key: ItemKey(key),
        field,
        part: 0,
        delta,
        logprobs,
    }
}

fn added(key: u64, item: Value) -> ModelEvent {
    ModelEvent::ItemAdded {
        key: ItemKey(key),
        item: object(item),
    }
}

fn done(key: u64, item: Value) -> ModelEvent {
    ModelEvent::ItemDone {
        key: ItemKey(key),
        item: object(item),
    }
}

fn finished(outcome: Outcome, output: Value) -> ModelEvent {
    ModelEvent::Finished {
        outcome,
        usage: None,
        output: serde_json::from_value(output).unwrap(),
    }
}

/// Plays a model call to its end and shows each event in a line.
fn play(events: Vec<ModelEvent>) -> String {
    let mut run = run();
    for event in events {
        run.on_model(event);
    }
    run.on_model_end();
    let Step::Finish(end) = run.next_step() else {
        panic!("the run does not end")
    };
    run.finish(&end, 1);
    run.take_events()
        .iter()
        .map(|event| show(event) + "\n")
        .collect()
}

fn show(event: &Event) -> String {
    let json = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let short = |text: &str| text.replace(&ID.simple().to_string(), "");
    let what = match event.kind.as_ref().unwrap() {
        Kind::Created(_) => "created".into(),
        Kind::Queued(_) => "queued".into(),
        Kind::InProgress(_) => "in_progress".into(),
        Kind::Completed(r) | Kind::Failed(r) | Kind::Incomplete(r) => {
            let ids = r.output.iter().map(|item| {
                let item: Value = serde_json::from_slice(item).unwrap();
                format!(
                    "{} {}",
                    item["id"].as_str().unwrap(),
                    item["status"].as_str().unwrap_or("-")
                )
            });
            format!("{:?} {:?}", r.status(), ids.collect::<Vec<_>>())
        }
        Kind::OutputItemAdded(e) => format!("added {} {}", e.output_index, json(&e.item)),
        Kind::OutputItemDone(e) => format!("done {} {}", e.output_index, json(&e.item)),
        Kind::ContentPartAdded(e) => format!("  part {} {}", e.content_index, json(&e.part)),
        Kind::ContentPartDone(e) => format!("  part done {} {}", e.content_index, json(&e.part)),
        Kind::ReasoningSummaryPartAdded(e) => format!("  summary {}", e.summary_index),
        Kind::ReasoningSummaryPartDone(e) => format!("  summary done {}", e.summary_index),
        Kind::OutputTextDelta(e)
        | Kind::RefusalDelta(e)
        | Kind::ReasoningTextDelta(e)
        | Kind::ReasoningSummaryTextDelta(e) => format!("    {} + {:?}", e.index, e.delta),
        Kind::OutputTextDone(e)
        | Kind::RefusalDone(e)
        | Kind::ReasoningTextDone(e)
        | Kind::ReasoningSummaryTextDone(e) => format!("    {} = {:?}", e.index, e.text),
        Kind::FunctionCallArgumentsDelta(e)
        | Kind::CustomToolCallInputDelta(e)
        | Kind::McpCallArgumentsDelta(e) => format!("    + {:?}", e.delta),
        Kind::FunctionCallArgumentsDone(e)
        | Kind::CustomToolCallInputDone(e)
        | Kind::McpCallArgumentsDone(e) => format!("    = {:?}", e.text),
        Kind::OutputTextAnnotationAdded(e) => format!("    note {}", json(&e.annotation)),
        Kind::ItemProgress(e) => format!("  {} {}", e.r#type, json(&e.fields)),
    };
    format!("{} {}", event.sequence_number, short(&what))
}

#[test]
fn text_without_any_announcement_becomes_the_canonical_sequence() {
    let events = vec![
        delta(0, Field::Text, "Hel"),
        delta(0, Field::Text, "lo"),
        finished(Outcome::Completed, json!([])),
    ];
    insta::assert_snapshot!(play(events), @r#"
    0 created
    1 in_progress
    2 added 0 {"id":"msg_o0","type":"message","status":"in_progress","role":"assistant","content":[]}
    3   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    4     0 + "Hel"
    5     0 + "lo"
    6     0 = "Hello"
    7   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"Hello"}
    8 done 0 {"id":"msg_o0","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Hello"}]}
    9 Completed ["msg_o0 completed"]
    "#);
}

#[test]
fn chat_reasoning_and_calls_end_where_the_next_item_begins() {
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f"});
    let events = vec![
        delta(0, Field::ReasoningText, "hm"),
        delta(1, Field::Text, "I call"),
        added(2, call("a")),
        delta(2, Field::Arguments, "{\"x\""),
        delta(2, Field::Arguments, ":1}"),
        added(3, call("b")),
        delta(3, Field::Arguments, "{}"),
        finished(Outcome::Completed, json!([])),
    ];
    insta::assert_snapshot!(play(events), @r#"
    0 created
    1 in_progress
    2 added 0 {"id":"rs_o0","type":"reasoning","summary":[]}
    3   part 0 {"type":"reasoning_text","text":""}
    4     0 + "hm"
    5     0 = "hm"
    6   part done 0 {"type":"reasoning_text","text":"hm"}
    7 done 0 {"id":"rs_o0","type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]}
    8 added 1 {"id":"msg_o1","type":"message","status":"in_progress","role":"assistant","content":[]}
    9   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    10     0 + "I call"
    11     0 = "I call"
    12   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"I call"}
    13 done 1 {"id":"msg_o1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"I call"}]}
    14 added 2 {"id":"fc_o2","type":"function_call","status":"in_progress","call_id":"a","name":"f","arguments":""}
    15     + "{\"x\""
    16     + ":1}"
    17     = "{\"x\":1}"
    18 done 2 {"id":"fc_o2","type":"function_call","status":"completed","call_id":"a","name":"f","arguments":"{\"x\":1}"}
    19 added 3 {"id":"fc_o3","type":"function_call","status":"in_progress","call_id":"b","name":"f","arguments":""}
    20     + "{}"
    21     = "{}"
    22 done 3 {"id":"fc_o3","type":"function_call","status":"completed","call_id":"b","name":"f","arguments":"{}"}
    23 Completed ["rs_o0 -", "msg_o1 completed", "fc_o2 completed", "fc_o3 completed"]
    "#);
}

#[test]
fn what_was_never_streamed_is_filled_in_from_the_end() {
    let events = vec![
        added(0, json!({"type": "message", "id": "msg_up"})),
        delta(0, Field::Text, "Hel"),
        finished(
            Outcome::Completed,
            json!([
                {"type": "message", "id": "msg_up", "phase": "final_answer", "content": [
                    {"type": "output_text", "text": "Hello", "annotations": [{"type": "url_citation"}]}]},
                {"type": "odd_item", "id": "odd_1", "n": 1},
            ]),
        ),
    ];
    insta::assert_snapshot!(play(events), @r#"
    0 created
    1 in_progress
    2 added 0 {"id":"msg_o0","type":"message","status":"in_progress","role":"assistant","content":[]}
    3   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    4     0 + "Hel"
    5     0 + "lo"
    6     note {"type":"url_citation"}
    7     0 = "Hello"
    8   part done 0 {"type":"output_text","annotations":[{"type":"url_citation"}],"logprobs":[],"text":"Hello"}
    9 done 0 {"id":"msg_o0","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[{"type":"url_citation"}],"logprobs":[],"text":"Hello"}],"phase":"final_answer"}
    10 added 1 {"id":"item_o1","type":"odd_item","n":1}
    11 done 1 {"id":"item_o1","type":"odd_item","n":1}
    12 Completed ["msg_o0 completed", "item_o1 -"]
    "#);
}

#[test]
fn a_limit_leaves_the_last_item_incomplete_and_a_failure_writes_no_ends() {
    let incomplete = Outcome::Incomplete {
        reason: "max_output_tokens".into(),
    };
    let cut = play(vec![
        delta(0, Field::Text, "Hel"),
        finished(incomplete, json!([])),
    ]);
    assert!(
        cut.contains("7 done 0") || cut.contains(r#""status":"incomplete""#),
        "{cut}"
    );
    assert!(
        cut.ends_with("Incomplete [\"msg_o0 incomplete\"]\n"),
        "{cut}"
    );

    let failed = Outcome::Failed(server_error("no"));
    let failed = play(vec![
        delta(0, Field::Text, "Hel"),
        finished(failed, json!([])),
    ]);
    assert!(
        failed.ends_with("4     0 + \"Hel\"\n5 Failed [\"msg_o0 incomplete\"]\n"),
        "{failed}"
    );
}

#[test]
fn silence_is_a_failure_and_text_without_an_end_is_not() {
    assert!(play(vec![]).ends_with("2 Failed []\n"));
    assert!(play(vec![delta(0, Field::Text, "x")]).contains("Completed"));
}

#[test]
fn a_resumed_run_seals_what_was_open_and_goes_on_with_new_items() {
    let mut first = run();
    first.on_model(delta(0, Field::Text, "half"));
    let log = first.take_events();

    let resume = || {
        let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
        run.start();
        run.on_model(delta(0, Field::Text, "whole"));
        run.on_model_end();
        run.finish(&End::Completed, 2);
        run.take_events()
    };
    let events = resume();

    assert_eq!(events, resume(), "the seal is a function of the log");
    let shown: String = events.iter().map(|event| show(event) + "\n").collect();
    insta::assert_snapshot!(shown, @r#"
    5     0 = "half"
    6   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"half"}
    7 done 0 {"id":"msg_o0","type":"message","status":"incomplete","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"half"}]}
    8 in_progress
    9 added 1 {"id":"msg_o1","type":"message","status":"in_progress","role":"assistant","content":[]}
    10   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    11     0 + "whole"
    12     0 = "whole"
    13   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"whole"}
    14 done 1 {"id":"msg_o1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"whole"}]}
    15 Completed ["msg_o0 incomplete", "msg_o1 completed"]
    "#);
}

/// Resumes after `log` and says whether the run asks the model again.
fn asks_again(tools: &str, events: Vec<ModelEvent>) -> bool {
    let settings = Bytes::from(format!(r#"{{"tools":{tools}}}"#));
    let mut run = Run::create(
        ID,
        Response {
            settings,
            ..Default::default()
        },
    );
    run.start();
    for event in events {
        run.on_model(event);
    }
    let log = run.take_events();
    Run::resume(ID, Snapshot::of(&log).unwrap()).next_step() == Step::CallModel
}

#[test]
fn a_resumed_run_asks_the_model_again_unless_it_has_its_answer() {
    let message = || {
        done(
            0,
            json!({"type": "message", "content": [{"type": "output_text", "text": "a"}]}),
        )
    };
    let call = |key| {
        done(
            key,
            json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
        )
    };
    let half_call = |key| {
        added(
            key,
            json!({"type": "function_call", "call_id": "d", "name": "f"}),
        )
    };
    let tools = r#"[{"type":"function"}]"#;

    assert!(asks_again("[]", vec![]));
    assert!(asks_again("[]", vec![delta(0, Field::Text, "half")]));
    assert!(!asks_again("[]", vec![message()]));
    assert!(
        asks_again(tools, vec![message()]),
        "a call may have followed"
    );
    assert!(asks_again(tools, vec![message(), half_call(1)]));
    assert!(!asks_again(tools, vec![message(), call(1)]));
    assert!(
        !asks_again(tools, vec![call(0), half_call(1)]),
        "it would be called twice"
    );
}

#[test]
fn a_second_message_that_broke_off_is_asked_for_again_also_after_a_crash() {
    let mut run = Run::create(ID, Response::default());
    run.start();
    assert_eq!(run.next_step(), Step::CallModel);
    run.on_model(done(
        0,
        json!({"type": "message", "content": [{"type": "output_text", "text": "first"}]}),
    ));
    run.on_model(delta(1, Field::Text, "hal"));
    run.model_broke();

    // Asked once before the pause and once after it.
    assert_eq!(run.next_step(), Step::CallModel);
    assert_eq!(run.next_step(), Step::CallModel);
    let log = run.take_events();
    let mut resumed = Run::resume(ID, Snapshot::of(&log).unwrap());
    assert_eq!(resumed.next_step(), Step::CallModel);
}

fn any_item() -> impl Strategy<Value = Value> {
    let text = "[a-c]{0,4}";
    prop_oneof![
        text.prop_map(|t| json!({"type": "message", "id": "m", "content": [{"type": "output_text", "text": t}]})),
        text.prop_map(|t| json!({"type": "message", "content": [{"type": "refusal", "refusal": t}, {"type": "odd"}]})),
        text.prop_map(|t| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": t}]})),
        text.prop_map(|t| json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": t})),
        text.prop_map(|t| json!({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": t})),
        Just(json!({"type": "web_search_call", "id": "ws_1", "status": "completed"})),
        Just(json!({"type": 1})),
    ]
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    let key = 0..3u64;
    let field = prop_oneof![
        Just(Field::Text),
        Just(Field::Refusal),
        Just(Field::ReasoningText),
        Just(Field::ReasoningSummary),
        Just(Field::Arguments),
        Just(Field::Input),
    ];
    prop_oneof![
        6 => (key.clone(), field.clone(), 0..2u32, "[a-c{}]{0,3}").prop_map(|(key, field, part, delta)| {
            ModelEvent::Delta { key: ItemKey(key), field, part, delta, logprobs: Vec::new() }
        }),
        1 => (key.clone(), field, 0..2u32, "[a-c]{0,3}").prop_map(|(key, field, part, text)| {
            ModelEvent::Text { key: ItemKey(key), field, part, text }
        }),
        2 => (key.clone(), any_item()).prop_map(|(key, item)| added(key, item)),
        2 => (key.clone(), any_item()).prop_map(|(key, item)| done(key, item)),
        1 => key.prop_map(|key| ModelEvent::Annotation {
            key: ItemKey(key), part: 0, annotation: object(json!({"type": "file_path"})),
        }),
        1 => proptest::collection::vec(any_item(), 0..3).prop_map(|items| {
            finished(Outcome::Completed, Value::Array(items))
        }),
    ]
}

proptest! {
    /// Whatever an upstream says: the events are numbered without gaps, fold to the run's own state, end once, and
    /// the final output holds every item under the id it was shown with.
    #[test]
    fn every_run_is_a_canonical_stream(
        events in proptest::collection::vec(any_event(), 0..40),
        cut in 0..40usize,
    ) {
        let mut run = run();
        let mut log = Vec::new();
        for (at, event) in events.into_iter().enumerate() {
            if at == cut {
                log.extend(run.take_events());
                run = Run::resume(ID, Snapshot::of(&log).unwrap());
                run.start();
            }
            run.on_model(event);
        }
        run.on_model_end();
        let Step::Finish(end) = run.next_step() else { panic!("the run does not end") };
        run.finish(&end, 1);
        log.extend(run.take_events());

        let folded = Snapshot::of(&log).unwrap();
        prop_assert_eq!(folded.response(), run.snapshot().response());
        let terminal = log.iter().filter(|event| snapshot::is_terminal_event(event)).count();
        prop_assert_eq!(terminal, 1);
        prop_assert!(snapshot::is_terminal_event(log.last().unwrap()));
        let mut ids = Vec::new();
        let mut closed = 0;
        for event in &log {
            match event.kind.as_ref().unwrap() {
                Kind::OutputItemAdded(item) => {
                    let item: Value = serde_json::from_slice(&item.item).unwrap();
                    ids.push(item["id"].clone());
                }
                Kind::OutputItemDone(_) => closed += 1,
                _ => {}
            }
        }
        let response = folded.response();
        if response.status() == Status::Completed {
            prop_assert_eq!(closed, ids.len());
        }
        let output: Vec<Value> =
            response.output.iter().map(|item| serde_json::from_slice::<Value>(item).unwrap()["id"].clone()).collect();
        prop_assert_eq!(output, ids);
    }
}
