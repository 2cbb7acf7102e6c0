//! Where a run with tools stops by itself.

use super::tools::{call, run_tools, run_with, says, tools};
use super::*;

/// Answers every call until the run ends; the model makes `calls(step)` in each step.
fn play_loop(
    shape: ToolShape,
    limits: Limits,
    calls: impl Fn(usize) -> Vec<ModelEvent>,
) -> (End, usize, Run) {
    let mut run = run_with(tools(shape, true), limits);
    let mut ran = 0;
    for step in 0..20 {
        says(&mut run, calls(step));
        loop {
            match run.next_step() {
                Step::CallModel => break,
                Step::RunTools(calls) => {
                    for call in &calls {
                        ran += 1;
                        run.tool_started(call);
                        run.tool_ended(call, ToolResult::text("a"));
                    }
                }
                Step::Wait(_) => panic!("nobody is to be asked"),
                Step::Finish(end) => {
                    run.finish(&end, 1);
                    return (end, ran, run);
                }
            }
        }
    }
    panic!("the run goes on")
}

fn incomplete(reason: &str) -> End {
    End::Incomplete {
        reason: reason.into(),
    }
}

#[test]
fn every_limit_ends_the_run_as_incomplete_with_its_reason() {
    let counting = |step: usize| vec![call(0, "look", &format!("{{\"n\":{step}}}"))];
    let two = |step: usize| {
        [
            counting(step),
            vec![call(1, "send", &step.to_string().replace(|_| true, "{}"))],
        ]
        .concat()
    };
    let same = |_| vec![call(0, "look", r#"{"a":1,"b":2}"#)];
    let unreadable = |step: usize| vec![call(0, "look", ["[1]", "nonsense", "1"][step % 3])];
    let of = |max_steps, max_tool_calls| Limits {
        max_steps,
        max_tool_calls,
    };
    let none = Limits::default();
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let steps = play_loop(shape, of(5, None), counting);
        assert_eq!((steps.0, steps.1), (incomplete("max_steps"), 5));

        let calls = play_loop(shape, of(20, Some(3)), counting);
        assert_eq!((calls.0, calls.1), (incomplete("max_tool_calls"), 3));
        let calls = play_loop(shape, of(20, Some(3)), two);
        assert_eq!((calls.0, calls.1), (incomplete("max_tool_calls"), 3));
        let calls = play_loop(shape, of(20, Some(0)), two);
        assert_eq!((calls.0, calls.1), (incomplete("max_tool_calls"), 0));

        let repeated = play_loop(shape, none, same);
        assert_eq!((repeated.0, repeated.1), (incomplete("repeated_calls"), 3));

        let unreadable = play_loop(shape, none, unreadable);
        assert_eq!(
            (unreadable.0, unreadable.1),
            (incomplete("invalid_tool_calls"), 0)
        );
        assert_eq!(unreadable.2.snapshot().step_starts().len(), 3);
        let open = unreadable.2.output().iter().any(|item| {
            let item: Value = serde_json::from_slice(&item.item).unwrap();
            item["status"] != "completed" && item["status"] != "failed"
        });
        assert!(!open);
    }
}

#[test]
fn a_call_that_differs_now_and_then_is_no_circle() {
    let calls = |step: usize| {
        let arguments = if step % 3 == 2 { "{}" } else { r#"{"a":1}"# };
        vec![call(0, "look", arguments)]
    };
    let limits = Limits {
        max_steps: 12,
        max_tool_calls: None,
    };

    let (end, ..) = play_loop(ToolShape::McpCall, limits, calls);

    assert_eq!(end, incomplete("max_steps"));
}

#[test]
fn an_answer_after_the_last_call_that_is_allowed_completes_the_run() {
    let limits = Limits {
        max_steps: 2,
        max_tool_calls: Some(1),
    };
    let calls = |step| match step {
        0 => vec![call(0, "look", "{}")],
        _ => vec![delta(0, Field::Text, "so")],
    };

    let (end, ran, _) = play_loop(ToolShape::FunctionCall, limits, calls);

    assert_eq!((end, ran), (End::Completed, 1));
}

#[test]
fn unreadable_arguments_go_back_to_the_model() {
    let mut run = run_with(tools(ToolShape::FunctionCall, false), Limits::default());
    says(
        &mut run,
        vec![call(0, "look", "{\"a\""), call(1, "put", "{}")],
    );

    let calls = run_tools(&mut run);

    assert_eq!(calls.len(), 1);
    let answer: Value = serde_json::from_slice(&run.output()[2].item).unwrap();
    assert_eq!(answer["call_id"], "c0");
    assert_eq!(
        answer["output"],
        "The arguments are not a JSON object. The tool was not called."
    );
    run.tool_started(&calls[0]);
    run.tool_ended(&calls[0], ToolResult::text("a"));
    assert_eq!(run.next_step(), Step::CallModel);
}

#[test]
fn a_run_that_is_stopped_closes_what_is_open() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_with(tools(shape, true), Limits::default());
        says(
            &mut run,
            vec![
                call(0, "look", "{}"),
                call(1, "send", "{}"),
                call(2, "put", "{}"),
            ],
        );
        for call in &run_tools(&mut run)[..2] {
            run.tool_started(call);
        }

        run.finish(&incomplete("max_seconds"), 1);

        let events = run.take_events();
        let count = |wanted: fn(&Kind) -> bool| {
            events
                .iter()
                .filter(|event| wanted(event.kind.as_ref().unwrap()))
                .count()
        };
        assert_eq!(
            count(|kind| matches!(kind, Kind::OutputItemAdded(_))),
            count(|kind| matches!(kind, Kind::OutputItemDone(_)))
        );
        let shown = super::tools::shown(&events);
        assert!(shown.contains("outcome unknown"), "{shown}");
        assert!(
            shown.contains("The run ended before the tool did."),
            "{shown}"
        );
    }
}
