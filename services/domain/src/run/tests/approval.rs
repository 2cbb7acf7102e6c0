//! Calls that a person has to agree to.

use super::tools::{call, run_tools, run_with, says, shown, tools};
use super::*;
use crate::context::{call_items, tell_approvals};
use crate::model::CallItem;

/// `send` and `put` need a person, `look` does not.
fn asking(shape: ToolShape, approvals: Approvals) -> Arc<ServerTools> {
    let mut tools = ServerTools::clone(&tools(shape, true));
    tools.approvals = approvals;
    tools.approval_until = 1_700_000_000;
    for name in ["send", "put"] {
        tools.tools.get_mut(name).unwrap().needs_approval = true;
    }
    Arc::new(tools)
}

fn run_asking(shape: ToolShape, approvals: Approvals) -> Run {
    run_with(asking(shape, approvals), Limits::default())
}

fn waiting(run: &mut Run) -> Vec<PendingCall> {
    match run.next_step() {
        Step::Wait(calls) => calls,
        step => panic!("nobody is asked but {step:?}"),
    }
}

fn decide(run: &mut Run, request_id: &str, choice: Choice) {
    run.decided(&[Decision {
        request_id: request_id.to_owned(),
        choice,
        reason: Some("so it is".into()),
        decided_by: "ada l".into(),
    }]);
}

fn answer_all(run: &mut Run) -> Vec<String> {
    let calls = run_tools(run);
    for call in &calls {
        run.tool_started(call);
        run.tool_ended(call, ToolResult::text("done"));
    }
    calls.into_iter().map(|call| call.name).collect()
}

/// What the model is told, without what it said.
fn told(context: Vec<CallItem>) -> Vec<String> {
    tell_approvals(context)
        .iter()
        .map(|item| String::from_utf8(item.json.to_vec()).unwrap())
        .collect()
}

/// One call that needs nobody and one that does; somebody agrees; then the answer.
fn agreed(shape: ToolShape) -> String {
    let mut run = run_asking(shape, Approvals::Waits);
    says(
        &mut run,
        vec![call(0, "send", r#"{"to":1}"#), call(1, "look", "{}")],
    );
    assert_eq!(answer_all(&mut run), ["look"]);
    let pending = waiting(&mut run);
    let expected = PendingCall {
        request_id: pending[0].request_id.clone(),
        server_label: "files".into(),
        name: "send".into(),
        arguments: r#"{"to":1}"#.into(),
        until: 1_700_000_000,
    };
    assert_eq!(pending, [expected]);
    decide(&mut run, &pending[0].request_id, Choice::Once);
    // What came second counts for nothing.
    decide(&mut run, &pending[0].request_id, Choice::Deny);
    assert_eq!(answer_all(&mut run), ["send"]);
    says(&mut run, vec![delta(0, Field::Text, "so")]);
    assert_eq!(run.snapshot().step_starts().len(), 2);
    assert_eq!(run.next_step(), Step::Finish(End::Completed));
    run.finish(&End::Completed, 1);
    shown(&run.take_events()[2..])
}

#[test]
fn a_call_that_somebody_agreed_to_follows_its_question_as_a_function() {
    insta::assert_snapshot!(agreed(ToolShape::FunctionCall), @r#"
    2 added 0 {"id":"fc_o0","type":"function_call","status":"in_progress","call_id":"c1","name":"look","arguments":""}
    3     + "{}"
    4     = "{}"
    5 done 0 {"id":"fc_o0","type":"function_call","status":"completed","call_id":"c1","name":"look","arguments":"{}"}
    6 added 1 {"id":"mcpr_o1","type":"mcp_approval_request","arguments":"{\"to\":1}","name":"send","server_label":"files"}
    7 done 1 {"id":"mcpr_o1","type":"mcp_approval_request","arguments":"{\"to\":1}","name":"send","server_label":"files"}
    8 added 2 {"id":"fco_o2","type":"function_call_output","status":"in_progress","call_id":"c1","output":[]}
    9 done 2 {"id":"fco_o2","type":"function_call_output","status":"completed","call_id":"c1","output":[{"type":"input_text","text":"done"}]}
    10 added 3 {"id":"mcpa_o3","type":"mcp_approval_response","approval_request_id":"mcpr_o1","approve":true,"reason":"so it is"}
    11 done 3 {"id":"mcpa_o3","type":"mcp_approval_response","approval_request_id":"mcpr_o1","approve":true,"reason":"so it is"}
    12 added 4 {"id":"fc_o4","type":"function_call","status":"in_progress","call_id":"call_o1","name":"send","arguments":""}
    13     + "{\"to\":1}"
    14     = "{\"to\":1}"
    15 done 4 {"id":"fc_o4","type":"function_call","status":"completed","call_id":"call_o1","name":"send","arguments":"{\"to\":1}"}
    16 added 5 {"id":"fco_o5","type":"function_call_output","status":"in_progress","call_id":"call_o1","output":[]}
    17 done 5 {"id":"fco_o5","type":"function_call_output","status":"completed","call_id":"call_o1","output":[{"type":"input_text","text":"done"}]}
    18 added 6 {"id":"msg_o6","type":"message","status":"in_progress","role":"assistant","content":[]}
    19   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    20     0 + "so"
    21     0 = "so"
    22   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"so"}
    23 done 6 {"id":"msg_o6","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"so"}]}
    24 Completed ["fc_o0 completed", "mcpr_o1 -", "fco_o2 completed", "mcpa_o3 -", "fc_o4 completed", "fco_o5 completed", "msg_o6 completed"]
    "#);
}

#[test]
fn a_call_that_somebody_agreed_to_follows_its_question_as_an_mcp_call() {
    insta::assert_snapshot!(agreed(ToolShape::McpCall), @r#"
    2 added 0 {"id":"mcp_o0","type":"mcp_call","status":"in_progress","approval_request_id":null,"arguments":"","error":null,"name":"look","output":null,"server_label":"files"}
    3     + "{}"
    4     = "{}"
    5 added 1 {"id":"mcpr_o1","type":"mcp_approval_request","arguments":"{\"to\":1}","name":"send","server_label":"files"}
    6 done 1 {"id":"mcpr_o1","type":"mcp_approval_request","arguments":"{\"to\":1}","name":"send","server_label":"files"}
    7   response.mcp_call.in_progress 
    8   response.mcp_call.completed 
    9 done 0 {"id":"mcp_o0","type":"mcp_call","status":"completed","approval_request_id":null,"arguments":"{}","error":null,"name":"look","output":"done","server_label":"files"}
    10 added 2 {"id":"mcpa_o2","type":"mcp_approval_response","approval_request_id":"mcpr_o1","approve":true,"reason":"so it is"}
    11 done 2 {"id":"mcpa_o2","type":"mcp_approval_response","approval_request_id":"mcpr_o1","approve":true,"reason":"so it is"}
    12 added 3 {"id":"mcp_o3","type":"mcp_call","status":"in_progress","approval_request_id":"mcpr_o1","arguments":"","error":null,"name":"send","output":null,"server_label":"files"}
    13     + "{\"to\":1}"
    14     = "{\"to\":1}"
    15   response.mcp_call.in_progress 
    16   response.mcp_call.completed 
    17 done 3 {"id":"mcp_o3","type":"mcp_call","status":"completed","approval_request_id":"mcpr_o1","arguments":"{\"to\":1}","error":null,"name":"send","output":"done","server_label":"files"}
    18 added 4 {"id":"msg_o4","type":"message","status":"in_progress","role":"assistant","content":[]}
    19   part 0 {"type":"output_text","annotations":[],"logprobs":[],"text":""}
    20     0 + "so"
    21     0 = "so"
    22   part done 0 {"type":"output_text","annotations":[],"logprobs":[],"text":"so"}
    23 done 4 {"id":"msg_o4","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"so"}]}
    24 Completed ["mcp_o0 completed", "mcpr_o1 -", "mcpa_o2 -", "mcp_o3 completed", "msg_o4 completed"]
    "#);
}

#[test]
fn the_model_is_told_of_the_call_and_its_output_or_why_it_was_not_made() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_asking(shape, Approvals::Waits);
        says(
            &mut run,
            vec![call(0, "send", "{}"), call(1, "put", r#"{"n":1}"#)],
        );
        let pending = waiting(&mut run);
        decide(&mut run, &pending[0].request_id, Choice::Once);
        decide(&mut run, &pending[1].request_id, Choice::Deny);
        assert_eq!(answer_all(&mut run), ["send"]);
        assert_eq!(run.next_step(), Step::CallModel);

        let told = told(call_items(&[], &run.whole_output()));

        let kinds: Vec<(String, String)> = told
            .iter()
            .map(|item| {
                let item: Value = serde_json::from_str(item).unwrap();
                let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
                let output = match &item["output"] {
                    Value::Array(parts) => parts[0]["text"].as_str().unwrap().to_owned(),
                    other => other.as_str().unwrap_or_default().to_owned(),
                };
                (text("type"), text("name") + &output)
            })
            .collect();
        let pair = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
        let denied =
            "A person denied this call. The tool was not called. The reason given: so it is";
        assert_eq!(
            kinds,
            [
                pair("function_call", "put"),
                pair("function_call_output", denied),
                pair("function_call", "send"),
                pair("function_call_output", "done"),
            ]
        );
    }
}

#[test]
fn a_response_completes_with_its_question_and_the_next_one_makes_the_call() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_asking(shape, Approvals::InNextRequest);
        says(&mut run, vec![call(0, "send", r#"{"to":1}"#)]);
        assert_eq!(run.next_step(), Step::Finish(End::Completed));
        run.finish(&End::Completed, 1);
        let output = run.output();
        let (approved, until) =
            ApprovedCall::of_request(&output[0].item, &output[0].upstream_id).unwrap();
        assert_eq!(until, 1_700_000_000);
        assert_eq!(approved.upstream_id, "fc_0");

        let mut next = run_asking(shape, Approvals::InNextRequest);
        next.make_approved(std::slice::from_ref(&approved));
        next.make_approved(std::slice::from_ref(&approved));
        let calls = run_tools(&mut next);

        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].effect, Effect::Once);
        assert_eq!(Some(&calls[0].call_id), approved.call_id().as_ref());
        next.tool_started(&calls[0]);
        // The process dies: it may have taken effect.
        let mut resumed = Run::resume(ID, next.snapshot().clone());
        resumed.use_tools(asking(shape, Approvals::InNextRequest), Limits::default());
        resumed.make_approved(&[approved]);
        assert_eq!(resumed.next_step(), Step::CallModel);
    }
}

#[test]
fn whoever_agrees_for_the_session_is_not_asked_again_and_who_denied_is_neither() {
    let mut run = run_asking(ToolShape::FunctionCall, Approvals::Waits);
    says(
        &mut run,
        vec![call(0, "send", "{}"), call(1, "put", r#"{"n":1, "m":2}"#)],
    );
    let pending = waiting(&mut run);
    decide(&mut run, &pending[0].request_id, Choice::Session);
    decide(&mut run, &pending[1].request_id, Choice::Deny);
    assert_eq!(answer_all(&mut run), ["send"]);

    says(
        &mut run,
        vec![call(0, "put", r#"{"m":2,"n":1}"#), call(1, "send", "{}")],
    );

    assert_eq!(answer_all(&mut run), ["send"]);
    assert_eq!(run.next_step(), Step::CallModel);
    let denials = run
        .output()
        .iter()
        .filter(|item| {
            let item: Value = serde_json::from_slice(&item.item).unwrap();
            item["approve"] == false
        })
        .count();
    assert_eq!(denials, 2);
}

#[test]
fn where_nobody_can_be_asked_the_model_is_told_so() {
    let mut run = run_asking(ToolShape::McpCall, Approvals::Impossible);
    says(&mut run, vec![call(0, "send", "{}")]);
    assert_eq!(run.next_step(), Step::CallModel);

    let item: Value = serde_json::from_slice(&run.output()[0].item).unwrap();
    let told = item["error"]["content"][0]["text"].as_str().unwrap();
    assert!(told.contains("not stored"), "{told}");
}

#[test]
fn a_call_that_breaks_off_was_never_asked_about() {
    let mut run = run_asking(ToolShape::FunctionCall, Approvals::Waits);
    assert_eq!(run.next_step(), Step::CallModel);
    let call = json!({"type": "function_call", "call_id": "c", "name": "send"});
    run.on_model(added(0, call.clone()));
    run.on_model(delta(0, Field::Arguments, r#"{"to":"#));
    assert!(run.is_within_call() && run.step_has_said() && !run.step_has_shown());
    run.model_broke();
    assert_eq!(run.next_step(), Step::CallModel);

    // The same in pieces, as chat upstreams do it.
    run.on_model(added(0, call));
    run.on_model(delta(0, Field::Arguments, r#"{"to":"#));
    run.on_model(delta(0, Field::Arguments, "1}"));
    run.on_model_end();
    let pending = waiting(&mut run);
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].arguments, r#"{"to":1}"#);
}

#[test]
fn wherever_the_process_dies_a_question_is_asked_once_and_its_call_made_once() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_asking(shape, Approvals::Waits);
        says(
            &mut run,
            vec![call(0, "put", r#"{"to":1}"#), call(1, "look", "{}")],
        );
        answer_all(&mut run);
        let pending = waiting(&mut run);
        decide(&mut run, &pending[0].request_id, Choice::Always);
        answer_all(&mut run);
        says(&mut run, vec![delta(0, Field::Text, "so")]);
        let log = run.take_events();
        for length in 2..=log.len() {
            let snapshot = Snapshot::of(&log[..length]).unwrap();
            let mut run = Run::resume(ID, snapshot);
            let asked_before = !pending_calls(run.snapshot()).is_empty();
            run.use_tools(asking(shape, Approvals::Waits), Limits::default());
            let (mut asked, mut put) = (0, 0);
            for _ in 0..10 {
                match run.next_step() {
                    Step::CallModel => {
                        run.on_model(if count_questions(&run) > 0 {
                            delta(0, Field::Text, "so")
                        } else {
                            call(0, "put", r#"{"to":1}"#)
                        });
                        run.on_model_end();
                    }
                    Step::RunTools(calls) => {
                        for call in calls {
                            put += usize::from(call.name == "put");
                            run.tool_started(&call);
                            run.tool_ended(&call, ToolResult::text("done"));
                        }
                    }
                    Step::Wait(calls) => {
                        asked += 1;
                        decide(&mut run, &calls[0].request_id, Choice::Always);
                    }
                    Step::Finish(end) => {
                        run.finish(&end, 1);
                        break;
                    }
                }
            }
            assert!(run.snapshot().is_finished(), "{length}");
            assert!(!asked_before || asked == 1, "{length}: asked {asked} times");
            assert!(asked <= 1 && put <= 1, "{length}: {asked} {put}");
            assert_eq!(count_questions(&run), 1, "{length}");
        }
    }
}

fn count_questions(run: &Run) -> usize {
    let output = run.output();
    let is_question = |item: &&ContextItem| {
        let item: Value = serde_json::from_slice(&item.item).unwrap();
        item["type"] == "mcp_approval_request"
    };
    output.iter().filter(is_question).count()
}

#[test]
fn a_call_that_nobody_could_be_asked_about_is_not_made() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        // The tool's server cannot say what it has while the model makes the call.
        let mut unlisted = ServerTools::clone(&asking(shape, Approvals::Waits));
        unlisted.tools.remove("send");
        let mut run = run_with(Arc::new(unlisted), Limits::default());
        says(&mut run, vec![call(0, "send", "{}")]);
        run.use_tools(asking(shape, Approvals::Waits), Limits::default());

        assert_eq!(run.next_step(), Step::CallModel);

        run.on_model(call(0, "send", "{}"));
        run.on_model_end();
        assert_eq!(waiting(&mut run).len(), 1);
    }
}

#[test]
fn a_word_for_one_server_s_tool_is_none_for_another_s() {
    let of_server = |label: &str| {
        let mut tools = ServerTools::clone(&asking(ToolShape::FunctionCall, Approvals::Waits));
        tools.tools.get_mut("send").unwrap().server_label = label.into();
        Arc::new(tools)
    };
    let mut run = run_with(of_server("staging"), Limits::default());
    says(&mut run, vec![call(0, "send", "{}")]);
    let pending = waiting(&mut run);
    run.use_tools(of_server("production"), Limits::default());
    decide(&mut run, &pending[0].request_id, Choice::Once);

    assert_eq!(run.next_step(), Step::CallModel);
}

#[test]
fn a_model_s_call_cannot_pass_for_one_that_somebody_agreed_to() {
    let mut run = run_asking(ToolShape::FunctionCall, Approvals::Waits);
    let id = format!("call_{}o0", "1".repeat(32));
    says(
        &mut run,
        vec![done(
            0,
            json!({"type": "function_call", "call_id": id, "name": "look", "arguments": "{}"}),
        )],
    );

    assert_ne!(run_tools(&mut run)[0].call_id, id);
    assert_eq!(run.snapshot().step_starts(), [0]);
}

#[test]
fn what_only_the_final_output_holds_is_shown_behind_a_held_call() {
    let mut run = run_asking(ToolShape::FunctionCall, Approvals::Waits);
    assert_eq!(run.next_step(), Step::CallModel);
    let function = |name: &str| {
        object(json!({"type": "function_call", "call_id": name, "name": name, "arguments": "{}"}))
    };
    run.on_model(ModelEvent::Finished {
        outcome: Outcome::Completed,
        usage: None,
        output: vec![function("send"), function("put"), function("look")],
    });

    assert_eq!(answer_all(&mut run), ["look"]);
    assert_eq!(waiting(&mut run).len(), 2);
}
