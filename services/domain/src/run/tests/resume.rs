//! Laws of runs with tools, whatever the model does and wherever the process dies.

use std::collections::BTreeMap;

use super::tools::{call, run_asked, run_tools, run_with, says, tools};
use super::*;
use crate::context::{call_items, check_pairs};
use crate::item::Item;

/// One model call.
#[derive(Clone, Debug)]
struct Said {
    text: Option<&'static str>,
    /// Name and arguments.
    calls: Vec<(&'static str, &'static str)>,
    /// Calls come in pieces and are never said to be over, as chat upstreams do it.
    in_pieces: bool,
    /// The first time, the stream breaks after this many events.
    breaks: Option<usize>,
    /// The order in which the calls end.
    ends_backwards: bool,
}

impl Said {
    fn events(&self) -> Vec<ModelEvent> {
        let mut events: Vec<ModelEvent> = self
            .text
            .iter()
            .map(|text| delta(9, Field::Text, text))
            .collect();
        for (key, (name, arguments)) in (0..).zip(&self.calls) {
            if self.in_pieces {
                events.push(added(
                    key,
                    json!({"type": "function_call", "call_id": "c", "name": name}),
                ));
                events.extend(
                    arguments
                        .chars()
                        .map(|c| delta(key, Field::Arguments, &c.to_string())),
                );
            } else {
                events.push(call(key, name, arguments));
            }
        }
        let usage = Usage {
            input_tokens: 1,
            output_tokens: 1,
            total_tokens: 1,
            ..Usage::default()
        };
        events.push(ModelEvent::Finished {
            outcome: Outcome::Completed,
            usage: Some(usage),
            output: Vec::new(),
        });
        events
    }
}

fn any_said() -> impl Strategy<Value = Said> {
    let name = prop_oneof![
        4 => Just("look"), 4 => Just("put"), 4 => Just("send"), 2 => Just("pick"),
        1 => Just("mine"), 1 => Just("fly"),
    ];
    let arguments = prop_oneof![Just("{}"), Just(r#"{"a":1}"#), Just(""), Just("[")];
    (
        prop_oneof![Just(None), Just(Some("I call"))],
        proptest::collection::vec((name, arguments), 0..4),
        any::<bool>(),
        prop_oneof![3 => Just(None), 1 => (0..5usize).prop_map(Some)],
        any::<bool>(),
    )
        .prop_map(|(text, calls, in_pieces, breaks, ends_backwards)| Said {
            text,
            calls,
            in_pieces,
            breaks,
            ends_backwards,
        })
}

/// Drives a run to its end. The calls that it is told to begin are noted by their output index.
fn drive(run: &mut Run, script: &[Said], may_break: bool) -> BTreeMap<u32, (Effect, bool)> {
    let mut begun = BTreeMap::new();
    let mut broken = Vec::new();
    for _ in 0..60 {
        match run.next_step() {
            Step::CallModel => {
                let items = call_items(&[], &run.whole_output());
                assert_eq!(check_pairs(&items), Ok(()), "{items:?}");
                let starts = run.snapshot().step_starts().len();
                let step = if run.snapshot().is_answered() {
                    starts
                } else {
                    starts.saturating_sub(1)
                };
                let Some(said) = script.get(step) else {
                    run.on_model(delta(0, Field::Text, "so"));
                    run.on_model_end();
                    continue;
                };
                let breaks = said.breaks.filter(|_| may_break && !broken.contains(&step));
                let events = said.events();
                if let Some(at) = breaks {
                    broken.push(step);
                    for event in events.into_iter().take(at) {
                        run.on_model(event);
                    }
                    run.model_broke();
                    continue;
                }
                for event in events {
                    run.on_model(event);
                }
            }
            Step::RunTools(mut calls) => {
                assert!(!calls.is_empty());
                check_rules(run, &calls);
                calls.retain(|call| {
                    let is_unfit = is_unfit(call);
                    if is_unfit {
                        run.tool_refused(call, "unfit");
                    }
                    !is_unfit
                });
                for call in &calls {
                    let again = begun.insert(call.output_index, (call.effect, call.repetition));
                    assert_eq!(again, None, "one attempt runs a call once");
                    run.tool_started(call);
                }
                if script.iter().any(|said| said.ends_backwards) {
                    calls.reverse();
                }
                for call in &calls {
                    let result = ToolResult::text(call.name.clone());
                    run.tool_ended(call, result);
                }
            }
            Step::Wait(_) => panic!("nobody is to be asked"),
            Step::Finish(end) => {
                run.finish(&end, 1);
                return begun;
            }
        }
    }
    panic!("the run does not end")
}

/// What whoever runs the tools refuses.
fn is_unfit(call: &ToolCall) -> bool {
    call.name == "pick" && call.arguments.is_empty() && !call.repetition
}

/// Calls that may run are what the request allows.
fn check_rules(run: &Run, calls: &[ToolCall]) {
    let settings = RawObject::parse(&run.snapshot().base().settings).unwrap();
    let choice = settings.get("tool_choice").unwrap_or_default();
    let allowed = |name: &str| choice.is_empty() || choice.contains(&format!("\"{name}\""));
    assert!(calls.iter().all(|call| allowed(&call.name)), "{calls:?}");
    let is_one = settings.get("parallel_tool_calls") != Some("false") || calls.len() == 1;
    assert!(is_one, "{calls:?}");
}

/// The rules of a whole log.
fn check_log(log: &[Event], run: &Run) {
    let folded = Snapshot::of(log).unwrap();
    assert_eq!(folded.response(), run.snapshot().response());
    assert_eq!(folded.step_starts(), run.snapshot().step_starts());
    let ends = log
        .iter()
        .filter(|event| snapshot::is_terminal_event(event));
    assert_eq!(ends.count(), 1);
    assert!(snapshot::is_terminal_event(log.last().unwrap()));
    let all_done = folded
        .items()
        .iter()
        .all(|item| matches!(item, Item::Done { .. }));
    assert!(all_done || folded.status() == Status::Failed);
    // What each call has seen: function calls by call id, MCP calls by output index.
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for event in log {
        match event.kind.as_ref().unwrap() {
            Kind::OutputItemAdded(added) => {
                let item: Value = serde_json::from_slice(&added.item).unwrap();
                if item["type"] == "function_call_output" {
                    let seen = seen.get_mut(item["call_id"].as_str().unwrap()).unwrap();
                    seen.push_str(" begun");
                } else if item["type"] == "mcp_call" {
                    let before = seen.insert(added.output_index.to_string(), String::new());
                    assert_eq!(before, None);
                }
            }
            Kind::McpCallArgumentsDone(done) => {
                seen.get_mut(&done.output_index.to_string())
                    .unwrap()
                    .push_str(" made");
            }
            Kind::ItemProgress(progress) => {
                // Of calls that others run we only pass on what they say.
                if let Some(seen) = seen.get_mut(&progress.output_index.to_string()) {
                    seen.push_str(match progress.r#type.as_str() {
                        "response.mcp_call.in_progress" => " begun",
                        "response.mcp_call.completed" | "response.mcp_call.failed" => " ended",
                        other => panic!("{other}"),
                    });
                }
            }
            Kind::OutputItemDone(done) => {
                let item: Value = serde_json::from_slice(&done.item).unwrap();
                let status = item["status"].as_str().unwrap_or_default();
                match item["type"].as_str().unwrap() {
                    "function_call" if status == "completed" => {
                        let call_id = item["call_id"].as_str().unwrap().to_owned();
                        assert_eq!(seen.insert(call_id, "made".into()), None);
                    }
                    "function_call_output" => {
                        let seen = seen.get_mut(item["call_id"].as_str().unwrap()).unwrap();
                        seen.push_str(" done");
                    }
                    "mcp_call" => {
                        let seen = seen.get_mut(&done.output_index.to_string()).unwrap();
                        seen.push_str(if status == "incomplete" {
                            " cut"
                        } else {
                            " done"
                        });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    for (call, seen) in seen {
        // Where the process died between end and done, the call was repeated, or given up.
        let seen = seen.trim().replace(" ended ended", " ended");
        let seen = seen.replace(" ended ended", " ended");
        let fits = [
            "made",
            "made begun done",
            "made begun ended done",
            "made ended done",
            "made cut",
        ];
        assert!(fits.contains(&seen.as_str()), "{call}: {seen}");
    }
}

/// The calls of which the log says that they may not be repeated and have begun, by output index.
fn begun_once(log: &[Event]) -> Vec<u32> {
    let mut by_id = BTreeMap::new();
    let mut begun = Vec::new();
    let mut once = Vec::new();
    for event in log {
        match event.kind.as_ref().unwrap() {
            Kind::OutputItemDone(done) => {
                let item: Value = serde_json::from_slice(&done.item).unwrap();
                if item["type"] == "function_call" {
                    by_id.insert(item["call_id"].to_string(), done.output_index);
                }
            }
            Kind::OutputItemAdded(added) => {
                let item: Value = serde_json::from_slice(&added.item).unwrap();
                let is_once = added.upstream_id.starts_with("effect:once");
                if item["type"] == "function_call_output" && is_once {
                    begun.push(by_id[&item["call_id"].to_string()]);
                } else if item["type"] == "mcp_call" && is_once {
                    once.push(added.output_index);
                }
            }
            Kind::ItemProgress(progress) => {
                let begins = progress.r#type == "response.mcp_call.in_progress";
                if begins && once.contains(&progress.output_index) {
                    begun.push(progress.output_index);
                }
            }
            _ => {}
        }
    }
    begun
}

/// How a run is set up and what its model says.
#[derive(Clone, Debug)]
struct Case {
    shape: ToolShape,
    streamed: bool,
    limits: Limits,
    /// What the request says of calls.
    request: Value,
    script: Vec<Said>,
}

impl Case {
    /// Goes on to the end after `log`; returns the whole log.
    fn go_on(&self, log: &[Event]) -> Vec<Event> {
        let resume = || {
            let mut run = Run::resume(ID, Snapshot::of(log).unwrap());
            run.start();
            run.use_tools(tools(self.shape, self.streamed), self.limits);
            run
        };
        let mut run = resume();
        let again = resume().take_events();
        let begun = drive(&mut run, &self.script, false);
        for once in begun_once(log) {
            assert!(!begun.contains_key(&once), "{once} ran twice");
        }
        for (index, (effect, repetition)) in begun {
            assert!(effect != Effect::Once || !repetition, "{index} is repeated");
        }
        let events = run.take_events();
        assert_eq!(
            events[..again.len()],
            again,
            "the seal is a function of the log"
        );
        let whole = [log.to_vec(), events].concat();
        check_log(&whole, &run);
        whole
    }

    /// Ends after `log` because the time is up, in the same process or in the next.
    fn run_out_of_time(&self, log: &[Event]) {
        let end = || {
            let mut run = Run::resume(ID, Snapshot::of(log).unwrap());
            run.use_tools(tools(self.shape, self.streamed), self.limits);
            let end = run.time_is_up();
            run.finish(&end, 1);
            run
        };
        let mut run = end();
        let events = run.take_events();
        assert_eq!(events, end().take_events());
        assert_eq!(run.snapshot().status(), Status::Incomplete);
        let items = call_items(&[], &run.whole_output());
        let is_client_left =
            |error: &crate::context::Error| format!("{error}").contains("No tool output");
        if let Err(error) = check_pairs(&items) {
            assert!(is_client_left(&error), "{error}");
        }
        check_log(&[log.to_vec(), events].concat(), &run);
    }

    /// Plays the run whole, then dies after each event of its log and goes on; and dies a second time `later`.
    fn die_everywhere(&self, later: usize) {
        let tools = tools(self.shape, self.streamed);
        let mut run = run_asked(tools, self.limits, &self.request);
        drive(&mut run, &self.script, true);
        let log = run.take_events();
        check_log(&log, &run);
        for died in 2..log.len() {
            self.run_out_of_time(&log[..died]);
            let whole = self.go_on(&log[..died]);
            let died_again = (died + later).min(whole.len() - 1);
            self.go_on(&whole[..died_again]);
        }
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![Just(ToolShape::FunctionCall), Just(ToolShape::McpCall)];
    let max_tool_calls = prop_oneof![2 => Just(None), 1 => (0..4u32).prop_map(Some)];
    let tokens = || prop_oneof![3 => Just(None), 1 => (0..4u64).prop_map(Some)];
    let script = proptest::collection::vec(any_said(), 0..4);
    let tokens = (tokens(), tokens());
    let all = (
        shape,
        any::<bool>(),
        max_tool_calls,
        tokens,
        any_request(),
        script,
    );
    all.prop_map(
        |(shape, streamed, max_tool_calls, tokens, request, script)| Case {
            shape,
            streamed,
            limits: Limits {
                max_steps: 10,
                max_tool_calls,
                max_total_tokens: tokens.0,
                max_output_tokens: tokens.1,
            },
            request,
            script,
        },
    )
}

fn any_request() -> impl Strategy<Value = Value> {
    let some = json!([{"type": "function", "name": "look"}, {"type": "function", "name": "pick"}]);
    prop_oneof![
        4 => Just(json!({})),
        1 => Just(json!({"tool_choice": "none"})),
        1 => Just(json!({"parallel_tool_calls": false})),
        1 => Just(json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": some}})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_run_with_tools_ends_well_wherever_it_dies(case in any_case(), later in 0..30usize) {
        case.die_everywhere(later);
    }
}

fn any_progress() -> impl Strategy<Value = ModelEvent> {
    let name = prop_oneof![
        Just("response.mcp_call.in_progress"),
        Just("response.mcp_call.completed"),
    ];
    (0..3u64, name).prop_map(|(key, name)| ModelEvent::Progress {
        key: ItemKey(key),
        name: name.into(),
        fields: Object::new(),
    })
}

proptest! {
    /// The model calls the tool `f`, now and then with arguments that can be read.
    #[test]
    fn whatever_an_upstream_says_calls_are_recorded_in_order(
        events in proptest::collection::vec(prop_oneof![9 => any_event(), 1 => any_progress()], 0..30),
        cut in 0..40usize,
        dies in any::<bool>(),
        is_mcp in any::<bool>(),
    ) {
        let shape = if is_mcp { ToolShape::McpCall } else { ToolShape::FunctionCall };
        let mut with_f = (*tools(shape, true)).clone();
        let send = with_f.tools["send"].clone();
        with_f.tools.insert("f".into(), send);
        let tools = Arc::new(with_f);
        let mut run = run_with(Arc::clone(&tools), Limits::default());
        let mut log = Vec::new();
        prop_assert_eq!(run.next_step(), Step::CallModel);
        let is_cut = cut < events.len();
        for event in events.into_iter().take(cut) {
            run.on_model(event);
        }
        if !is_cut {
            run.on_model_end();
        } else if dies {
            log.extend(run.take_events());
            run = Run::resume(ID, Snapshot::of(&log).unwrap());
            run.start();
            run.use_tools(tools, Limits::default());
        } else {
            run.model_broke();
        }

        drive(&mut run, &[], false);

        log.extend(run.take_events());
        check_log(&log, &run);
    }
}

#[test]
fn calls_side_by_side_survive_every_death() {
    let said = |text, calls: &[_], in_pieces, breaks, ends_backwards| Said {
        text,
        calls: calls.to_vec(),
        in_pieces,
        breaks,
        ends_backwards,
    };
    let (one, none) = (r#"{"a":1}"#, "{}");
    let script = vec![
        said(
            Some("I call"),
            &[("send", one), ("look", none), ("put", one)],
            true,
            Some(4),
            true,
        ),
        said(None, &[("send", none), ("fly", "[")], false, None, false),
        said(
            Some("so"),
            &[("put", one), ("mine", one)],
            false,
            None,
            false,
        ),
    ];
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let case = Case {
            shape,
            streamed: true,
            limits: Limits::default(),
            request: json!({}),
            script: script.clone(),
        };
        let mut run = run_with(tools(shape, true), Limits::default());
        drive(&mut run, &script, true);
        assert_eq!(begun_once(&run.take_events()).len(), 2);
        case.die_everywhere(3);
    }
}

/// Dies while a call of `name` runs; says what the next attempt does with it, and what the model reads of it.
fn dies_in(shape: ToolShape, name: &str) -> (Step, String) {
    let mut run = run_with(tools(shape, false), Limits::default());
    says(&mut run, vec![call(0, name, "{}")]);
    let calls = run_tools(&mut run);
    run.tool_started(&calls[0]);
    let log = run.take_events();

    let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
    run.start();
    run.use_tools(tools(shape, false), Limits::default());
    let step = run.next_step();
    let context = call_items(&[], &run.whole_output());
    let read = context.last().map(|item| {
        let item: Value = serde_json::from_slice(&item.json).unwrap();
        item["output"].as_str().unwrap_or_default().to_owned()
    });
    (step, read.unwrap_or_default())
}

#[test]
fn an_interrupted_call_is_repeated_unless_it_may_not_be() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        for (name, effect) in [("look", Effect::Pure), ("put", Effect::Idempotent)] {
            let (step, _) = dies_in(shape, name);
            let again = ToolCall {
                output_index: 0,
                call_id: "c0".into(),
                name: name.into(),
                arguments: Object::new(),
                effect,
                repetition: true,
            };
            assert_eq!(step, Step::RunTools(vec![again]));
        }
        let (step, read) = dies_in(shape, "send");
        assert_eq!(step, Step::CallModel);
        assert_eq!(
            read,
            "outcome unknown: the server that ran this tool stopped before its result was recorded; \
             it may or may not have taken effect"
        );
    }
}

#[test]
fn usage_is_the_sum_over_all_model_calls_and_attempts() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let said = |name| Said {
            text: None,
            calls: vec![(name, "{}")],
            in_pieces: false,
            breaks: None,
            ends_backwards: false,
        };
        let script = [said("look"), said("put")];
        let mut run = run_with(tools(shape, false), Limits::default());
        for said in &script {
            says(&mut run, said.events());
            for call in run_tools(&mut run) {
                run.tool_started(&call);
                run.tool_ended(&call, ToolResult::text("a"));
            }
        }
        let log = run.take_events();

        let mut run = Run::resume(ID, Snapshot::of(&log).unwrap());
        run.start();
        run.use_tools(tools(shape, false), Limits::default());
        let mut last = said("mine");
        last.text = Some("so");
        says(&mut run, last.events());
        run.finish(&End::Completed, 1);

        let usage = run.snapshot().response().usage.unwrap();
        assert_eq!((usage.input_tokens, usage.total_tokens), (3, 3));
    }
}

#[test]
fn processes_count_that_had_a_run_without_finishing_anything() {
    let mut log = Vec::new();
    let mut run = run();
    let mut crash = |run: Run, events: Vec<ModelEvent>, attempt| {
        let mut run = run;
        for event in events {
            run.on_model(event);
        }
        log.extend(run.take_events());
        let snapshot = Snapshot::of(&log).unwrap();
        let fruitless = snapshot.fruitless_attempts(attempt);
        let mut run = Run::resume(ID, snapshot);
        run.start_again(attempt);
        (run, fruitless)
    };
    let text = || delta(0, Field::Text, "half of it");
    let item = || {
        vec![
            delta(0, Field::Text, "all of it"),
            done(0, json!({"type": "message"})),
            delta(1, Field::Text, "and"),
        ]
    };
    let mut counted = Vec::new();
    let said = [
        vec![text()],
        vec![text()],
        item(),
        vec![text()],
        Vec::new(),
        item(),
    ];
    for (attempt, events) in (2..).zip(said) {
        let (next, fruitless) = crash(run, events, attempt);
        run = next;
        counted.push(fruitless);
    }

    assert_eq!(counted, [2, 3, 1, 2, 3, 1]);
}
