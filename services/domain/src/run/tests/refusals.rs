//! Calls that are answered without being run.

use std::collections::BTreeMap;

use super::tools::{call, run_asked, run_with, says, tools};
use super::*;

/// What became of each call of the first step: `runs`, or what the model reads.
fn first_step(shape: ToolShape, request: &Value, calls: &[(&str, &str)]) -> Vec<String> {
    let mut run = run_asked(tools(shape, false), Limits::default(), request);
    let made = (0..).zip(calls);
    let made = made.map(|(key, (name, arguments))| call(key, name, arguments));
    says(&mut run, made.collect());
    fates(&mut run)
}

/// By place in the output, of all calls that the server answers.
fn fates(run: &mut Run) -> Vec<String> {
    let mut fates = BTreeMap::new();
    if let Step::RunTools(calls) = run.next_step() {
        for call in calls {
            fates.insert(call.call_id, "runs".to_owned());
        }
    }
    let context = crate::context::call_items(&[], &run.whole_output());
    for item in &context {
        let item: Value = serde_json::from_slice(&item.json).unwrap();
        if let (Some(call_id), Some(output)) = (item["call_id"].as_str(), item["output"].as_str()) {
            fates.insert(call_id.to_owned(), output.to_owned());
        }
    }
    fates.into_values().collect()
}

const RUNS: &str = "runs";
const UNREADABLE: &str = "The arguments are not a JSON object. The tool was not called.";
const NOT_ALLOWED: &str = "The request's tool_choice does not allow this tool. It was not called.";
const ONE_AT_A_TIME: &str = "Only one call at a time is allowed: parallel_tool_calls is false. The tool was not called; \
                             make this call alone, in a step of its own.";
const NO_TOOL: &str = "There is no tool named \"fly\".";

#[test]
fn a_call_that_the_request_does_not_allow_is_answered_and_not_run() {
    let one = |name: &str| json!({"tool_choice": {"type": "function", "name": name}});
    let only = |tools: Value| json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": tools}});
    let of_server = json!({"type": "mcp", "server_label": "files"});
    let one_of_server = json!({"type": "mcp", "server_label": "files", "name": "send"});
    let of_another = json!({"type": "mcp", "server_label": "web", "name": "look"});
    let two: &[_] = &[("look", "{}"), ("send", "{}")];
    let table = [
        (json!({}), two, vec![RUNS, RUNS]),
        (json!({"tool_choice": "required"}), two, vec![RUNS, RUNS]),
        (
            json!({"tool_choice": "none"}),
            two,
            vec![NOT_ALLOWED, NOT_ALLOWED],
        ),
        (one("look"), two, vec![RUNS, NOT_ALLOWED]),
        (
            json!({"tool_choice": {"type": "custom", "name": "look"}}),
            two,
            vec![NOT_ALLOWED, NOT_ALLOWED],
        ),
        (
            json!({"tool_choice": {"type": "web_search"}}),
            two,
            vec![RUNS, RUNS],
        ),
        (one("mine"), two, vec![NOT_ALLOWED, NOT_ALLOWED]),
        (only(json!([])), two, vec![NOT_ALLOWED, NOT_ALLOWED]),
        (
            only(json!([{"type": "function", "name": "send"}])),
            two,
            vec![NOT_ALLOWED, RUNS],
        ),
        (
            only(json!([{"type": "custom", "name": "send"}])),
            two,
            vec![NOT_ALLOWED, NOT_ALLOWED],
        ),
        (only(json!([of_server])), two, vec![RUNS, RUNS]),
        (only(json!([one_of_server])), two, vec![NOT_ALLOWED, RUNS]),
        (
            only(json!([of_another])),
            two,
            vec![NOT_ALLOWED, NOT_ALLOWED],
        ),
        (
            json!({"parallel_tool_calls": false}),
            two,
            vec![RUNS, ONE_AT_A_TIME],
        ),
        (json!({"parallel_tool_calls": true}), two, vec![RUNS, RUNS]),
        // The client has to make one call; the server makes none besides.
        (
            json!({"parallel_tool_calls": false}),
            &[("mine", "{}"), ("look", "{}")],
            vec![ONE_AT_A_TIME],
        ),
        (
            json!({}),
            &[("fly", "{}"), ("look", "[")],
            vec![NO_TOOL, UNREADABLE],
        ),
        (
            json!({}),
            &[("fly", "{}"), ("look", "{}")],
            vec![NO_TOOL, RUNS],
        ),
    ];
    for (request, calls, expected) in table {
        for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
            assert_eq!(
                first_step(shape, &request, calls),
                expected,
                "{request} {calls:?}"
            );
        }
    }
}

#[test]
fn a_choice_of_one_tool_is_over_when_it_has_run_and_not_before() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let request = json!({"tool_choice": {"type": "function", "name": "look"}});
        let mut run = run_asked(tools(shape, false), Limits::default(), &request);
        says(&mut run, vec![call(0, "send", "{}")]);
        says(&mut run, vec![call(1, "send", "{}"), call(2, "look", "{}")]);
        assert!(!run.has_run_tools());
        let Step::RunTools(calls) = run.next_step() else {
            panic!("nothing runs");
        };
        assert_eq!(calls.len(), 1);
        run.tool_started(&calls[0]);
        assert!(run.has_run_tools());
        run.tool_ended(&calls[0], ToolResult::text("seen"));
        says(&mut run, vec![call(3, "send", "{}")]);

        assert_eq!(fates(&mut run), [NOT_ALLOWED, NOT_ALLOWED, "seen", RUNS]);
    }
}

#[test]
fn refused_calls_show_as_failed_and_never_as_begun() {
    let mut run = run_with(tools(ToolShape::McpCall, true), Limits::default());
    says(&mut run, vec![call(0, "look", "{}")]);
    let calls = super::tools::run_tools(&mut run);
    run.tool_refused(&calls[0], "at /a: 1 is not a string");

    let shown = super::tools::shown(&run.take_events()[2..]);
    insta::assert_snapshot!(shown, @r#"
    2 added 0 {"id":"mcp_o0","type":"mcp_call","status":"in_progress","approval_request_id":null,"arguments":"","error":null,"name":"look","output":null,"server_label":"files"}
    3     + "{}"
    4     = "{}"
    5   response.mcp_call.failed 
    6 done 0 {"id":"mcp_o0","type":"mcp_call","status":"failed","approval_request_id":null,"arguments":"{}","error":{"type":"mcp_tool_execution_error","content":[{"type":"text","text":"at /a: 1 is not a string"}]},"name":"look","output":null,"server_label":"files"}
    "#);
    assert_eq!(run.next_step(), Step::CallModel);
}

#[test]
fn a_model_that_only_makes_calls_that_are_refused_is_stopped() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let request = json!({"tool_choice": "none"});
        let mut run = run_asked(tools(shape, false), Limits::default(), &request);
        for n in 0..3 {
            let arguments = format!("{{\"n\":{n}}}");
            says(&mut run, vec![call(n, "look", &arguments)]);
        }
        let reason = "invalid_tool_calls".to_owned();
        assert_eq!(run.next_step(), Step::Finish(End::Incomplete { reason }));
    }
}

#[test]
fn refused_calls_are_not_counted_as_calls_that_ran() {
    let limits = Limits {
        max_tool_calls: Some(1),
        ..Limits::default()
    };
    let mut run = run_with(tools(ToolShape::McpCall, false), limits);
    says(&mut run, vec![call(0, "look", "[")]);
    says(&mut run, vec![call(1, "fly", "{}")]);
    says(&mut run, vec![call(2, "look", "{}")]);

    assert_eq!(super::tools::run_tools(&mut run).len(), 1);
}

/// Tools of which each needs a person.
fn asking(shape: ToolShape, approvals: Approvals) -> Arc<ServerTools> {
    let mut asking = ServerTools::clone(&tools(shape, false));
    for tool in asking.tools.values_mut() {
        tool.needs_approval = true;
    }
    asking.approvals = approvals;
    Arc::new(asking)
}

#[test]
fn nobody_is_asked_about_a_call_that_the_request_does_not_allow() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let request = json!({"tool_choice": "none"});
        let tools = asking(shape, Approvals::Waits);
        let mut run = run_asked(tools, Limits::default(), &request);
        says(&mut run, vec![call(0, "look", "{}")]);

        assert_eq!(fates(&mut run), [NOT_ALLOWED]);
        assert_eq!(run.next_step(), Step::CallModel);
    }
}

#[test]
fn calls_that_a_person_agreed_to_are_made_whatever_the_request_says_of_others() {
    let request = json!({"tool_choice": "none", "parallel_tool_calls": false});
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let tools = asking(shape, Approvals::InNextRequest);
        let mut run = run_asked(tools, Limits::default(), &request);
        let agreed = |index: u32| ApprovedCall {
            request_id: format!("mcpr_{}o{index}", Uuid::from_u128(8).simple()),
            server_label: "files".to_owned(),
            name: "send".to_owned(),
            arguments: "{}".to_owned(),
            effect: Effect::Once,
            upstream_id: String::new(),
        };
        run.make_approved(&[agreed(0), agreed(1)]);

        assert_eq!(fates(&mut run), [RUNS, RUNS]);
    }
}
