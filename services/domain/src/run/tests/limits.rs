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
        ..Limits::default()
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
        ..Limits::default()
    };

    let (end, ..) = play_loop(ToolShape::McpCall, limits, calls);

    assert_eq!(end, incomplete("max_steps"));
}

#[test]
fn an_answer_after_the_last_call_that_is_allowed_completes_the_run() {
    let limits = Limits {
        max_steps: 2,
        max_tool_calls: Some(1),
        ..Limits::default()
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

/// A model call that makes `calls` and used so many tokens, read and written.
fn with_usage(calls: Vec<ModelEvent>, input_tokens: u64, output_tokens: u64) -> Vec<ModelEvent> {
    let usage = Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        ..Usage::default()
    };
    let end = ModelEvent::Finished {
        outcome: Outcome::Completed,
        usage: Some(usage),
        output: Vec::new(),
    };
    [calls, vec![end]].concat()
}

#[test]
fn a_run_whose_tokens_are_used_up_asks_the_model_no_more() {
    let total = |limit| Limits {
        max_total_tokens: Some(limit),
        ..Limits::default()
    };
    let output = |limit| Limits {
        max_output_tokens: Some(limit),
        ..Limits::default()
    };
    let calls = |step: usize| {
        let arguments = format!("{{\"n\":{step}}}");
        with_usage(vec![call(0, "look", &arguments)], 10, 5)
    };
    let table = [
        (total(1), "max_total_tokens", 1),
        (total(15), "max_total_tokens", 1),
        (total(16), "max_total_tokens", 2),
        (total(45), "max_total_tokens", 3),
        (output(5), "max_output_tokens", 1),
        (output(16), "max_output_tokens", 4),
    ];
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        for (limits, reason, steps) in table {
            let (end, ran, _) = play_loop(shape, limits, calls);
            assert_eq!((end, ran), (incomplete(reason), steps), "{limits:?}");
        }
        let answer = |_| with_usage(vec![delta(0, Field::Text, "so")], 10, 5);
        let (end, ..) = play_loop(shape, total(1), answer);
        assert_eq!(end, End::Completed, "nothing was left to ask");
    }
}

#[test]
fn later_model_calls_may_write_what_earlier_ones_left_also_after_a_crash() {
    let limits = Limits {
        max_output_tokens: Some(12),
        ..Limits::default()
    };
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_with(tools(shape, true), limits);
        assert_eq!(run.output_tokens_left(), Some(12));
        says(&mut run, with_usage(vec![call(0, "look", "{}")], 10, 5));
        for call in run_tools(&mut run) {
            run.tool_started(&call);
            run.tool_ended(&call, ToolResult::text("a"));
        }
        assert_eq!(run.output_tokens_left(), Some(7));

        let log = run.take_events();
        let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
        run.use_tools(tools(shape, true), limits);
        assert_eq!(run.output_tokens_left(), Some(7));
        run.use_tools(tools(shape, true), Limits::default());
        assert_eq!(run.output_tokens_left(), None);
    }
}

#[test]
fn calls_that_run_when_the_time_is_up_end_with_a_result_that_says_so() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let mut run = run_with(tools(shape, true), Limits::default());
        let calls = vec![
            call(0, "look", "{}"),
            call(1, "send", "{}"),
            call(2, "put", "{}"),
        ];
        says(&mut run, calls);
        for call in &run_tools(&mut run)[..2] {
            run.tool_started(call);
        }

        let end = run.time_is_up();
        run.finish(&end, 1);

        assert_eq!(end, incomplete("max_run_seconds"));
        let shown = super::tools::shown(&run.take_events());
        let told = "The time of this run was up before the tool ended.";
        // Each is said once, and again in the item where an `mcp_call` holds it.
        assert_eq!(shown.matches(told).count(), 2, "{shown}");
        assert!(!shown.contains("outcome unknown"), "{shown}");
        let items = crate::context::call_items(&[], &run.whole_output());
        assert_eq!(crate::context::check_pairs(&items), Ok(()));
    }
}

#[test]
fn the_time_of_a_run_counts_from_its_first_attempt() {
    let mut run = Run::create(ID, Response::default());
    assert_eq!(run.snapshot().spent_ms(900), 0, "it waits for its turn");
    run.start();
    let mut log = run.take_events();
    log[1].at_ms = 250;
    let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
    run.start();
    assert_eq!(run.snapshot().spent_ms(900), 650);
}

#[test]
fn the_time_of_a_run_leaves_out_how_long_it_waits_for_people() {
    let mut asking = ServerTools::clone(&tools(ToolShape::McpCall, true));
    for tool in asking.tools.values_mut() {
        tool.needs_approval = true;
    }
    asking.approvals = Approvals::Waits;
    let mut run = run_with(Arc::new(asking), Limits::default());
    says(&mut run, vec![call(0, "look", "{}")]);
    assert!(matches!(run.next_step(), Step::Wait(_)));
    let mut log = run.take_events();
    let before = log.len();
    for (event, at_ms) in log.iter_mut().zip((0..).step_by(10)) {
        event.at_ms = at_ms;
    }
    let worked = log[before - 1].at_ms - log[1].at_ms;

    let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
    assert_eq!(run.snapshot().spent_ms(1_000_000), worked);
    run.start();
    let mut events = run.take_events();
    events[0].at_ms = 1_000_000;
    log.extend(events);
    // Nobody has decided, so it waits once more.
    let snapshot = Snapshot::of(&log).unwrap();
    assert_eq!(snapshot.spent_ms(1_000_500), worked);
}
