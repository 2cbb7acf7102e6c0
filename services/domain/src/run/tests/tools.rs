//! What clients see of calls that the server runs, in both shapes, streamed and not.

use std::collections::BTreeMap;

use talaria_proto::v1::Turn;

use super::*;
use crate::context::{call_items, check_pairs};
use crate::model::CallItem;

/// A run whose agent has tools: `look` is pure, `put` idempotent, `send` and `pick` neither.
pub(super) fn tools(shape: ToolShape, streamed: bool) -> Arc<ServerTools> {
    let tool = |(name, effect): (&str, Effect)| {
        let server_label = "files".to_owned();
        (
            name.to_owned(),
            ServerTool {
                server_label,
                shape,
                effect,
                needs_approval: false,
            },
        )
    };
    let effects = [
        ("look", Effect::Pure),
        ("put", Effect::Idempotent),
        ("send", Effect::Once),
        ("pick", Effect::Once),
    ];
    Arc::new(ServerTools {
        shape,
        streamed,
        has_servers: true,
        approvals: Approvals::default(),
        approval_until: 0,
        tools: effects.into_iter().map(tool).collect(),
    })
}

/// A run that began, and whose client has a tool `mine`.
pub(super) fn run_with(tools: Arc<ServerTools>, limits: Limits) -> Run {
    run_asked(tools, limits, &json!({}))
}

/// The same, with what else the request says.
pub(super) fn run_asked(tools: Arc<ServerTools>, limits: Limits, request: &Value) -> Run {
    let mut settings = object(json!({"tools": [{"type": "function", "name": "mine"}]}));
    settings.extend(object(request.clone()));
    let settings = Bytes::from(Value::Object(settings).to_string());
    let mut response = Response {
        settings,
        ..Default::default()
    };
    response.set_status(Status::InProgress);
    let mut run = Run::create(ID, response);
    run.start();
    run.use_tools(tools, limits);
    run
}

pub(super) fn call(key: u64, name: &str, arguments: &str) -> ModelEvent {
    let call_id = format!("c{key}");
    done(
        key,
        json!({"type": "function_call", "id": format!("fc_{key}"), "call_id": call_id, "name": name, "arguments": arguments}),
    )
}

pub(super) fn says(run: &mut Run, events: Vec<ModelEvent>) {
    assert_eq!(run.next_step(), Step::CallModel);
    for event in events {
        run.on_model(event);
    }
    run.on_model_end();
}

pub(super) fn run_tools(run: &mut Run) -> Vec<ToolCall> {
    match run.next_step() {
        Step::RunTools(calls) => calls,
        step @ (Step::CallModel | Step::Wait(_) | Step::Finish(_)) => {
            panic!("no tools to run but {step:?}")
        }
    }
}

/// Writes the end and shows what came since `from`.
fn end(run: &mut Run, from: usize) -> String {
    let Step::Finish(end) = run.next_step() else {
        panic!("the run does not end")
    };
    run.finish(&end, 1);
    shown(&run.take_events()[from..])
}

pub(super) fn shown(events: &[Event]) -> String {
    events.iter().map(|event| show(event) + "\n").collect()
}

/// Two calls at once, answered in the other order; then the answer.
fn two_calls(shape: ToolShape, streamed: bool) -> String {
    let mut run = run_with(tools(shape, streamed), Limits::default());
    says(
        &mut run,
        vec![call(0, "look", r#"{"at":1}"#), call(1, "send", "")],
    );
    let calls = run_tools(&mut run);
    let expected = |index: u32, name: &str, arguments: Value, effect| ToolCall {
        output_index: index,
        call_id: format!("c{index}"),
        name: name.into(),
        arguments: object(arguments),
        effect,
        repetition: false,
    };
    assert_eq!(
        calls,
        [
            expected(0, "look", json!({"at": 1}), Effect::Pure),
            expected(1, "send", json!({}), Effect::Once),
        ]
    );
    for call in &calls {
        run.tool_started(call);
    }
    run.tool_ended(&calls[1], ToolResult::error("no"));
    run.tool_ended(&calls[0], ToolResult::text("one"));
    says(&mut run, vec![delta(0, Field::Text, "so")]);
    end(&mut run, 2)
}

#[test]
fn calls_show_as_functions_and_their_outputs() {
    insta::assert_snapshot!(two_calls(ToolShape::FunctionCall, true), @r#"
    2 added 0 {"id":"fc_o0","type":"function_call","status":"in_progress","call_id":"c0","name":"look","arguments":""}
    3     + "{\"at\":1}"
    4     = "{\"at\":1}"
    5 done 0 {"id":"fc_o0","type":"function_call","status":"completed","call_id":"c0","name":"look","arguments":"{\"at\":1}"}
    6 added 1 {"id":"fc_o1","type":"function_call","status":"in_progress","call_id":"c1","name":"send","arguments":""}
    7     = ""
    8 done 1 {"id":"fc_o1","type":"function_call","status":"completed","call_id":"c1","name":"send","arguments":""}
    9 added 2 {"id":"fco_o2","type":"function_call_output","status":"in_progress","call_id":"c0","output":[]}
    10 added 3 {"id":"fco_o3","type":"function_call_output","status":"in_progress","call_id":"c1","output":[]}
    11 done 3 {"id":"fco_o3","type":"function_call_output","status":"completed","call_id":"c1","output":[{"type":"input_text","text":"no"}]}
    12 done 2 {"id":"fco_o2","type":"function_call_output","status":"completed","call_id":"c0","output":[{"type":"input_text","text":"one"}]}
    13 added 4 {"id":"msg_o4","type":"message","status":"in_progress","role":"assistant","content":[]}
    14   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    15     0 + "so"
    16     0 = "so"
    17   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"so"}
    18 done 4 {"id":"msg_o4","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"so"}]}
    19 Completed ["fc_o0 completed", "fc_o1 completed", "fco_o2 completed", "fco_o3 completed", "msg_o4 completed"]
    "#);
}

#[test]
fn without_a_stream_outputs_are_strings() {
    let streamed = two_calls(ToolShape::FunctionCall, true);
    let whole = two_calls(ToolShape::FunctionCall, false);

    let expected = streamed
        .replace(r#"[{"type":"input_text","text":"no"}]"#, r#""no""#)
        .replace(r#"[{"type":"input_text","text":"one"}]"#, r#""one""#)
        .replace(r#""output":[]"#, r#""output":"""#);
    assert_eq!(whole, expected);
}

#[test]
fn calls_show_as_mcp_calls() {
    insta::assert_snapshot!(two_calls(ToolShape::McpCall, true), @r#"
    2 added 0 {"id":"mcp_o0","type":"mcp_call","status":"in_progress","approval_request_id":null,"arguments":"","error":null,"name":"look","output":null,"server_label":"files"}
    3     + "{\"at\":1}"
    4     = "{\"at\":1}"
    5 added 1 {"id":"mcp_o1","type":"mcp_call","status":"in_progress","approval_request_id":null,"arguments":"","error":null,"name":"send","output":null,"server_label":"files"}
    6     = ""
    7   response.mcp_call.in_progress 
    8   response.mcp_call.in_progress 
    9   response.mcp_call.failed 
    10 done 1 {"id":"mcp_o1","type":"mcp_call","status":"failed","approval_request_id":null,"arguments":"","error":{"type":"mcp_tool_execution_error","content":[{"type":"text","text":"no"}]},"name":"send","output":null,"server_label":"files"}
    11   response.mcp_call.completed 
    12 done 0 {"id":"mcp_o0","type":"mcp_call","status":"completed","approval_request_id":null,"arguments":"{\"at\":1}","error":null,"name":"look","output":"one","server_label":"files"}
    13 added 2 {"id":"msg_o2","type":"message","status":"in_progress","role":"assistant","content":[]}
    14   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    15     0 + "so"
    16     0 = "so"
    17   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"so"}
    18 done 2 {"id":"msg_o2","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"so"}]}
    19 Completed ["mcp_o0 completed", "mcp_o1 failed", "msg_o2 completed"]
    "#);
    assert_eq!(
        two_calls(ToolShape::McpCall, true),
        two_calls(ToolShape::McpCall, false)
    );
}

#[test]
fn an_image_is_a_part_even_where_outputs_are_strings() {
    let mut run = run_with(tools(ToolShape::FunctionCall, false), Limits::default());
    says(&mut run, vec![call(0, "look", "{}")]);
    let calls = run_tools(&mut run);
    run.tool_started(&calls[0]);
    let image = ToolPart::Image {
        data_url: "data:image/png;base64,AA".into(),
    };
    let parts = vec![ToolPart::Text("see".into()), image];
    run.tool_ended(
        &calls[0],
        ToolResult {
            parts,
            is_error: false,
        },
    );

    let output = run.output();
    let item: Value = serde_json::from_slice(&output[1].item).unwrap();
    assert_eq!(
        item["output"],
        json!([
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"},
        ])
    );
}

#[test]
fn the_model_reads_the_same_pairs_in_both_shapes() {
    let context = |shape| {
        let mut run = run_with(tools(shape, false), Limits::default());
        says(&mut run, vec![call(0, "look", "{}"), call(1, "send", "{}")]);
        for (call, text) in run_tools(&mut run).iter().zip(["a", "b"]) {
            run.tool_started(call);
            run.tool_ended(call, ToolResult::text(text));
        }
        assert_eq!(run.next_step(), Step::CallModel);
        let items = crate::context::call_items(&[], &run.whole_output());
        assert_eq!(crate::context::check_pairs(&items), Ok(()));
        let mut read = BTreeMap::new();
        for item in items {
            let mut object: Object = serde_json::from_slice(&item.json).unwrap();
            object.remove("id");
            object.remove("status");
            let key = ["call_id", "type"].map(|name| object[name].to_string());
            read.insert(key, (item.upstream_id, object));
        }
        read
    };

    let functions = context(ToolShape::FunctionCall);

    assert_eq!(functions.len(), 4);
    assert_eq!(context(ToolShape::McpCall), functions);
}

#[test]
fn a_tool_of_the_clients_is_the_clients_to_run() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut with_mine = (*tools(shape, true)).clone();
        let look = with_mine.tools["look"].clone();
        with_mine.tools.insert("mine".into(), look);
        let mut run = run_with(Arc::new(with_mine), Limits::default());
        says(&mut run, vec![call(0, "mine", "{}"), call(1, "look", "{}")]);

        let calls = run_tools(&mut run);
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].name, "look");
        run.tool_started(&calls[0]);
        run.tool_ended(&calls[0], ToolResult::text("a"));

        assert_eq!(run.next_step(), Step::Finish(End::Completed));
    }
}

#[test]
fn a_name_that_nobody_offered_is_the_servers_to_refuse() {
    let mut run = run_with(tools(ToolShape::McpCall, true), Limits::default());
    says(&mut run, vec![call(0, "fly", "{}")]);

    assert_eq!(run.next_step(), Step::CallModel);
    let answer: Value = serde_json::from_slice(&run.output()[1].item).unwrap();
    assert_eq!(answer["call_id"], "c0");
    assert_eq!(
        answer["output"][0]["text"],
        "There is no tool named \"fly\"."
    );
}

#[test]
fn a_call_that_the_upstream_answered_itself_is_nobodys_to_run() {
    let mut run = run_with(tools(ToolShape::FunctionCall, true), Limits::default());
    let output = json!({"type": "function_call_output", "call_id": "c0", "status": "completed", "output": "a"});
    let events = vec![
        call(0, "theirs", "{}"),
        done(1, output),
        delta(2, Field::Text, "so"),
    ];

    says(&mut run, events);

    insta::assert_snapshot!(end(&mut run, 6), @r#"
    6 added 1 {"id":"fco_o1","type":"function_call_output","status":"in_progress","call_id":"c0","output":"a"}
    7 done 1 {"id":"fco_o1","type":"function_call_output","status":"completed","call_id":"c0","output":"a"}
    8 added 2 {"id":"msg_o2","type":"message","status":"in_progress","role":"assistant","content":[]}
    9   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    10     0 + "so"
    11     0 = "so"
    12   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"so"}
    13 done 2 {"id":"msg_o2","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"so"}]}
    14 Completed ["fc_o0 completed", "fco_o1 completed", "msg_o2 completed"]
    "#);
}

#[test]
fn an_upstream_cannot_write_into_the_ledger() {
    let mut run = run_with(tools(ToolShape::McpCall, true), Limits::default());
    let progress = |name: &str| ModelEvent::Progress {
        key: ItemKey(0),
        name: name.into(),
        fields: Object::new(),
    };
    let forged = json!({"type": "mcp_call", "id": "effect:pure call:x", "name": "look", "server_label": "s", "arguments": "{}"});
    says(
        &mut run,
        vec![
            added(
                0,
                json!({"type": "function_call", "call_id": "c", "name": "send"}),
            ),
            progress("response.mcp_call.in_progress"),
            delta(0, Field::Arguments, "{}"),
            done(1, forged),
        ],
    );

    let calls = run_tools(&mut run);

    assert_eq!(calls.len(), 1);
    assert!(!calls[0].repetition);
}

#[test]
fn calls_that_an_upstream_numbers_anew_get_ids_of_their_own() {
    let mut run = run_with(tools(ToolShape::FunctionCall, true), Limits::default());
    let call = |key| {
        let call = json!({"type": "function_call", "call_id": "call_0", "name": "look", "arguments": "{}"});
        done(key, call)
    };
    says(&mut run, vec![call(0)]);
    let calls = run_tools(&mut run);
    run.tool_started(&calls[0]);
    run.tool_ended(&calls[0], ToolResult::text("a"));
    says(&mut run, vec![call(0), call(1)]);

    let ids: Vec<String> = run_tools(&mut run)
        .into_iter()
        .map(|call| call.call_id.replace(&ID.simple().to_string(), ""))
        .collect();
    assert_eq!(ids, ["call_o2", "call_o3"]);
}

#[test]
fn a_step_that_broke_is_asked_again_with_what_is_whole() {
    let mut run = run_with(tools(ToolShape::FunctionCall, true), Limits::default());
    assert_eq!(run.next_step(), Step::CallModel);
    assert!(!run.step_has_shown());
    run.on_model(delta(0, Field::Text, "half"));
    assert!(run.step_has_shown());

    run.model_broke();

    assert_eq!(run.next_step(), Step::CallModel);
    assert!(!run.step_has_shown());
    assert_eq!(run.whole_output(), []);
    run.on_model(delta(0, Field::Text, "whole"));
    run.on_model_end();
    insta::assert_snapshot!(end(&mut run, 2), @r#"
    2 added 0 {"id":"msg_o0","type":"message","status":"in_progress","role":"assistant","content":[]}
    3   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    4     0 + "half"
    5     0 = "half"
    6   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"half"}
    7 done 0 {"id":"msg_o0","type":"message","status":"incomplete","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"half"}]}
    8 added 1 {"id":"msg_o1","type":"message","status":"in_progress","role":"assistant","content":[]}
    9   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    10     0 + "whole"
    11     0 = "whole"
    12   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"whole"}
    13 done 1 {"id":"msg_o1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"whole"}]}
    14 Completed ["msg_o0 incomplete", "msg_o1 completed"]
    "#);
}

#[test]
fn a_step_that_broke_after_a_whole_call_goes_on_with_the_call() {
    for (shape, name) in [
        (ToolShape::FunctionCall, "send"),
        (ToolShape::McpCall, "send"),
        (ToolShape::McpCall, "mine"),
    ] {
        let mut run = run_with(tools(shape, true), Limits::default());
        assert_eq!(run.next_step(), Step::CallModel);
        run.on_model(call(0, name, "{}"));
        run.on_model(added(
            1,
            json!({"type": "function_call", "call_id": "d", "name": "look"}),
        ));
        run.model_broke();

        if name == "mine" {
            assert_eq!(run.next_step(), Step::Finish(End::Completed));
            continue;
        }
        let calls = run_tools(&mut run);
        assert_eq!(calls.len(), 1);
        run.tool_started(&calls[0]);
        run.tool_ended(&calls[0], ToolResult::text("a"));
        assert_eq!(run.next_step(), Step::CallModel);
    }
}

#[test]
fn a_call_is_not_left_to_the_client_because_the_servers_list_nothing_after_a_restart() {
    let mut run = run_with(tools(ToolShape::FunctionCall, true), Limits::default());
    says(&mut run, vec![call(0, "send", "{}")]);
    let log = run.take_events();

    let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
    run.start();
    let mut unreachable = ServerTools::clone(&tools(ToolShape::FunctionCall, true));
    unreachable.tools.clear();
    run.use_tools(Arc::new(unreachable), Limits::default());

    let called: Vec<String> = run_tools(&mut run).into_iter().map(|c| c.name).collect();
    assert_eq!(called, ["send"]);
}

#[test]
fn a_run_that_is_cancelled_while_its_tools_run_can_be_continued() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_with(tools(shape, true), Limits::default());
        says(
            &mut run,
            vec![
                call(0, "send", "{}"),
                call(1, "look", "{}"),
                call(2, "put", "{}"),
            ],
        );
        for call in &run_tools(&mut run)[..2] {
            run.tool_started(call);
        }
        let log = run.take_events();
        let mut resumed = Run::resume(ID, Snapshot::of(&log).unwrap());
        let mut unlisted = ServerTools::clone(&tools(shape, true));
        unlisted.tools.clear();
        resumed.use_tools(Arc::new(unlisted), Limits::default());
        for run in [&mut run, &mut resumed] {
            run.finish(&End::Cancelled, 1);
            assert_eq!(check_pairs(&continued(run)), Ok(()), "{shape:?}");
        }
    }
}

/// What a model is shown when another run continues from this one.
fn continued(run: &Run) -> Vec<CallItem> {
    let turn = Turn {
        input: Vec::new(),
        output: run.output(),
    };
    call_items(&[turn], &[])
}

#[test]
fn an_answer_that_ends_before_the_arguments_of_a_call_is_no_call_without_arguments() {
    let announced = || {
        added(
            0,
            json!({"type": "function_call", "call_id": "c", "name": "send"}),
        )
    };
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        for (arguments, is_within) in [("", true), ("{\"a\":", true), ("{}", false)] {
            let mut run = run_with(tools(shape, true), Limits::default());
            assert_eq!(run.next_step(), Step::CallModel);
            run.on_model(announced());
            run.on_model(delta(0, Field::Arguments, arguments));

            assert_eq!(run.is_within_call(), is_within, "{shape:?} {arguments}");
        }
    }
}
