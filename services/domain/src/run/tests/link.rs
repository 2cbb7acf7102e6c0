//! Laws of runs whose upstream keeps what it makes: wherever the process dies, nothing is lost, and nothing said twice.

use super::tools::{call, run_with, tools};
use super::*;
use crate::link::Link;

/// What an upstream says in one event of its stream; the last is its end.
type Said = Vec<ModelEvent>;

fn usage(tokens: u64) -> Usage {
    Usage {
        input_tokens: tokens,
        total_tokens: tokens,
        ..Usage::default()
    }
}

fn the_end(outcome: Outcome, output: Value) -> ModelEvent {
    ModelEvent::Finished {
        outcome,
        usage: Some(usage(5)),
        output: serde_json::from_value(output).unwrap(),
    }
}

fn began() -> ModelEvent {
    ModelEvent::Began {
        upstream: "up".into(),
        response_id: "resp_up".into(),
    }
}

/// Says the events after `after`, each with its number, as a parser does it.
fn say(run: &mut Run, said: &Said, after: Option<u64>) {
    for (number, event) in (0..).zip(said) {
        if after.is_some_and(|after| number <= after) {
            continue;
        }
        let is_end = matches!(event, ModelEvent::Finished { .. });
        run.on_model(event.clone());
        if !is_end {
            run.on_model(ModelEvent::Heard { cursor: number });
        }
    }
}

fn end(run: &mut Run) -> Vec<Event> {
    let Step::Finish(end) = run.next_step() else {
        panic!("the run does not end")
    };
    run.finish(&end, 1);
    run.take_events()
}

/// The run of what was said, uncut: its log.
fn uncut(mut run: Run, said: &Said) -> Vec<Event> {
    assert_eq!(run.next_step(), Step::CallModel);
    say(&mut run, said, None);
    end(&mut run)
}

/// The log without what takeovers add, numbered anew, and without notes.
fn told(log: &[Event]) -> Vec<Kind> {
    let mut starts = 0;
    let kinds = log.iter().filter_map(|event| event.kind.clone());
    kinds
        .filter(|kind| {
            starts += u32::from(matches!(kind, Kind::InProgress(_)));
            !matches!(kind, Kind::InProgress(_)) || starts == 1
        })
        .collect()
}

/// Another process takes the run over from `log`: where it goes on, if it can, and the run.
fn taken_over(log: &[Event], shape: Option<ToolShape>) -> (Run, Option<Link>) {
    let mut run = Run::resume(ID, Snapshot::of(log).unwrap());
    if let Some(shape) = shape {
        run.use_tools(tools(shape, false), Limits::default());
    }
    run.start();
    let link = run.link();
    (run, link)
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    let key = 0..4_u64;
    let field = prop_oneof![
        3 => Just(Field::Text),
        1 => Just(Field::Refusal),
        1 => Just(Field::ReasoningSummary),
        1 => Just(Field::ReasoningText),
        1 => Just(Field::Arguments),
    ];
    let item = prop_oneof![
        Just(json!({"type": "message", "id": "msg_up", "content": [
            {"type": "output_text", "text": "abc", "annotations": [{"type": "url_citation"}]}, {"type": "odd"}]})),
        Just(
            json!({"type": "reasoning", "id": "rs_up", "summary": [{"type": "summary_text", "text": "ab"}]})
        ),
        Just(
            json!({"type": "function_call", "id": "fc_up", "call_id": "c", "name": "look", "arguments": "{}"})
        ),
        Just(
            json!({"type": "function_call", "id": "fc_up", "call_id": "d", "name": "mine", "arguments": "{}"})
        ),
        Just(json!({"type": "web_search_call", "id": "ws_up", "status": "completed"})),
    ];
    let part = 0..3_u32;
    let text = prop_oneof![Just("a"), Just("b"), Just("{"), Just("}"), Just("{}")];
    prop_oneof![
        2 => (key.clone(), item.clone()).prop_map(|(key, item)| added(key, item)),
        2 => (key.clone(), item).prop_map(|(key, item)| done(key, item)),
        6 => (key.clone(), field.clone(), part.clone(), text.clone()).prop_map(|(key, field, part, text)| {
            ModelEvent::Delta {
                key: ItemKey(key),
                field,
                part: if matches!(field, Field::Arguments) { 0 } else { part },
                delta: text.into(),
                logprobs: Vec::new(),
            }
        }),
        1 => (key.clone(), field, part.clone(), text).prop_map(|(key, field, part, text)| ModelEvent::Text {
            key: ItemKey(key),
            field,
            part,
            text: text.repeat(2),
        }),
        1 => (key.clone(), part).prop_map(|(key, part)| ModelEvent::Annotation {
            key: ItemKey(key),
            part,
            annotation: object(json!({"type": "url_citation"})),
        }),
        1 => key.prop_map(|key| ModelEvent::Progress {
            key: ItemKey(key),
            name: "response.web_search_call.searching".into(),
            fields: Object::new(),
        }),
    ]
}

fn any_said() -> impl Strategy<Value = Said> {
    let output = prop_oneof![
        2 => Just(json!([])),
        1 => Just(json!([{"type": "message", "content": [{"type": "output_text", "text": "abcd"}]}])),
        1 => Just(json!([{"type": "message", "content": []}, {"type": "message", "content": [{"type": "odd"}]}])),
    ];
    let outcome = prop_oneof![
        3 => Just(Outcome::Completed),
        1 => Just(Outcome::Incomplete { reason: "max_output_tokens".into() }),
    ];
    (
        proptest::collection::vec(any_event(), 0..14),
        output,
        outcome,
    )
        .prop_map(|(mut said, output, outcome)| {
            said.insert(0, began());
            said.push(the_end(outcome, output));
            said
        })
}

/// Where one write of `log` may end.
fn ends(log: &[Event]) -> Vec<usize> {
    let has_cursor = |event: &Event| {
        event
            .note
            .as_ref()
            .is_some_and(|note| note.cursor.is_some())
    };
    let ends = log.iter().enumerate();
    ends.filter(|(_, event)| has_cursor(event))
        .map(|(at, _)| at + 1)
        .collect()
}

proptest! {
    #[test]
    fn a_run_that_is_taken_over_tells_what_it_would_have_told(said in any_said()) {
        let log = uncut(run(), &said);
        for at in ends(&log) {
            let (mut again, link) = taken_over(&log[..at], None);
            let link = link.expect("the log ends where the upstream can go on");
            prop_assert_eq!(again.next_step(), Step::CallModel);
            say(&mut again, &said, Some(link.cursor));
            let mut whole = log[..at].to_vec();
            whole.extend(end(&mut again));
            Snapshot::of(&whole).unwrap();

            prop_assert_eq!(told(&whole), told(&log), "cut at {}", at);
        }
    }

    #[test]
    fn a_run_may_be_taken_over_after_every_event_and_again(
        said in any_said(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..5),
    ) {
        let log = uncut(run(), &said);
        let mut whole = log[..ends(&log).first().copied().unwrap_or(0)].to_vec();
        if whole.is_empty() {
            return Ok(());
        }
        for cut in cuts {
            let (mut again, link) = taken_over(&whole, None);
            let link = link.expect("the log ends where the upstream can go on");
            again.next_step();
            say(&mut again, &said, Some(link.cursor));
            let more = again.take_events();
            let mut ends = ends(&more);
            ends.push(1);
            whole.extend_from_slice(&more[..ends[cut.index(ends.len())]]);
        }
        let (mut again, link) = taken_over(&whole, None);
        say(&mut again, &said, link.map(|link| link.cursor));
        whole.extend(end(&mut again));

        prop_assert_eq!(told(&whole), told(&log));
    }

    #[test]
    fn a_stream_that_breaks_after_any_event_is_gone_on_with_by_the_same_process(
        said in any_said(),
        at in any::<prop::sample::Index>(),
    ) {
        let log = uncut(run(), &said);
        let mut broken = run();
        broken.next_step();
        let at = at.index(said.len() - 1);
        say(&mut broken, &said[..=at].to_vec(), None);
        let link = broken.link().expect("all that was said is covered");
        prop_assert_eq!(link.cursor, at as u64);

        say(&mut broken, &said, Some(link.cursor));

        prop_assert_eq!(end(&mut broken), log);
    }

    #[test]
    fn a_log_that_was_parted_is_sealed_and_nothing_is_taken_back(said in any_said()) {
        let log = uncut(run(), &said);
        let ends = ends(&log);
        for at in 1..log.len() {
            if ends.contains(&at) {
                continue;
            }
            let (mut again, link) = taken_over(&log[..at], None);
            // Behind the beginning, which no upstream has a part in, only a takeover says where it goes on.
            prop_assert_eq!(link, None, "cut at {}", at);
            if again.next_step() == Step::CallModel {
                again.on_model(delta(0, Field::Text, "again"));
                again.on_model_end();
            }
            let mut whole = log[..at].to_vec();
            whole.extend(end(&mut again));
            let snapshot = Snapshot::of(&whole).unwrap();
            prop_assert!(snapshot.is_finished());
        }
    }
}

#[test]
fn what_is_noted_stands_on_the_events_and_nothing_is_noted_of_others() {
    let said = vec![
        began(),
        added(0, json!({"type": "message", "id": "msg_up"})),
        delta(0, Field::Text, "a"),
        ModelEvent::Text {
            key: ItemKey(0),
            field: Field::Text,
            part: 0,
            text: "a".into(),
        },
        done(0, json!({"type": "message", "id": "msg_up"})),
        the_end(Outcome::Completed, json!([])),
    ];
    let shown = |log: Vec<Event>| -> Vec<String> {
        let notes = log.into_iter().map(|event| match event.note {
            None => "-".to_owned(),
            Some(note) => format!(
                "{}{} cursor {:?} place {:?} usage {:?}",
                note.upstream,
                note.upstream_response_id,
                note.cursor,
                note.place,
                note.usage.map(|usage| usage.total_tokens)
            ),
        });
        notes.collect()
    };
    insta::assert_snapshot!(shown(uncut(run(), &said)).join("\n"), @r"
    -
    -
    upresp_up cursor Some(1) place Some(0) usage None
     cursor None place Some(0) usage None
     cursor Some(2) place None usage None
    -
    -
     cursor Some(4) place None usage None
    -
    ");

    let others = said
        .into_iter()
        .filter(|event| !matches!(event, ModelEvent::Began { .. }));
    let log = shown(uncut(run(), &others.collect()));
    assert!(log.iter().all(|note| note == "-"), "{log:?}");
}

#[test]
fn a_run_with_tools_goes_on_with_the_stream_before_it_runs_them() {
    for shape in [ToolShape::FunctionCall, ToolShape::McpCall] {
        let said = vec![
            began(),
            delta(9, Field::Text, "I look"),
            call(0, "look", "{}"),
            added(
                1,
                json!({"type": "function_call", "call_id": "e", "name": "look"}),
            ),
            delta(1, Field::Arguments, "{\"a\""),
            delta(1, Field::Arguments, ":1}"),
            the_end(Outcome::Completed, json!([])),
        ];
        let tell = |run: &mut Run, after| {
            assert_eq!(run.next_step(), Step::CallModel);
            say(run, &said, after);
            let Step::RunTools(calls) = run.next_step() else {
                panic!("there are calls to run")
            };
            assert_eq!(calls.len(), 2);
            for call in &calls {
                run.tool_started(call);
                run.tool_ended(call, ToolResult::text("seen"));
            }
            assert_eq!(run.next_step(), Step::CallModel);
            run.on_model(delta(0, Field::Text, "so"));
            run.on_model_end();
            end(run)
        };
        let log = tell(&mut run_with(tools(shape, false), Limits::default()), None);
        let ends = ends(&log);
        assert!(ends.len() > 4, "{ends:?}");
        for at in ends {
            let (mut again, link) = taken_over(&log[..at], Some(shape));
            let mut whole = log[..at].to_vec();
            whole.extend(tell(&mut again, link.map(|link| link.cursor)));
            assert_eq!(told(&whole), told(&log), "{shape:?} cut at {at}");
            let Some(Kind::Completed(response)) = &whole.last().unwrap().kind else {
                panic!("it completes")
            };
            assert_eq!(response.usage, Some(usage(5)), "{shape:?} cut at {at}");
        }
    }
}

/// What the log does not know of yet is not covered, so no cursor stands behind it.
#[test]
fn a_call_that_a_person_has_to_agree_to_is_heard_again_or_asked_for_again() {
    let asking = || {
        let mut tools = ServerTools::clone(&tools(ToolShape::FunctionCall, false));
        tools.approvals = Approvals::Waits;
        tools.tools.get_mut("send").unwrap().needs_approval = true;
        Arc::new(tools)
    };
    let send = json!({"type": "function_call", "call_id": "c", "name": "send"});
    let said = vec![
        began(),
        delta(9, Field::Text, "I send"),
        added(0, send.clone()),
        delta(0, Field::Arguments, "{\"a\""),
        delta(9, Field::Text, " it"),
        delta(0, Field::Arguments, ":1}"),
        the_end(Outcome::Completed, json!([])),
    ];
    let asked = |run: &mut Run| match run.next_step() {
        Step::Wait(calls) => calls,
        step => panic!("nobody is asked but {step:?}"),
    };
    let mut first = run_with(asking(), Limits::default());
    first.next_step();
    say(&mut first, &said, None);
    let expected = asked(&mut first);
    assert_eq!(expected.len(), 1);
    let log = first.take_events();

    let mut links = 0;
    for at in 3..log.len() {
        let mut again = Run::resume(ID, Snapshot::of(&log[..at]).unwrap());
        again.use_tools(asking(), Limits::default());
        again.start();
        let link = again.link();
        links += usize::from(link.is_some());
        if again.next_step() == Step::CallModel {
            say(&mut again, &said, link.clone().map(|link| link.cursor));
        }
        let calls = asked(&mut again);
        assert_eq!(calls.len(), 1, "cut at {at}");
        assert_eq!(calls[0].arguments, expected[0].arguments, "cut at {at}");
        let mut whole = log[..at].to_vec();
        whole.extend(again.take_events());
        if link.is_some() {
            assert_eq!(told(&whole), told(&log), "cut at {at}");
        }
    }
    assert_eq!(links, 1, "only behind the text before the call");
}

#[test]
fn what_failed_attempts_used_is_counted_and_survives_a_takeover() {
    let mut first = run();
    first.next_step();
    first.on_model(delta(0, Field::Text, "So far"));
    first.add_usage(Some(usage(3)));
    first.model_broke();
    let mut log = first.take_events();

    let (mut second, _) = taken_over(&log, None);
    assert_eq!(second.next_step(), Step::CallModel);
    second.on_model(delta(0, Field::Text, "And on."));
    second.on_model(the_end(Outcome::Completed, json!([])));
    log.extend(end(&mut second));

    let Some(Kind::Completed(response)) = &log.last().unwrap().kind else {
        panic!("it completes")
    };
    assert_eq!(response.usage, Some(usage(8)));
}

#[test]
fn a_response_that_is_named_when_some_of_it_was_said_is_not_gone_on_with() {
    let said = vec![
        done(
            0,
            json!({"type": "message", "content": [{"type": "output_text", "text": "So far"}]}),
        ),
        began(),
        delta(1, Field::Text, " and on"),
    ];
    let mut first = run();
    first.next_step();
    say(&mut first, &said, None);
    assert_eq!(first.link(), None);
    let log = first.take_events();

    for at in 1..=log.len() {
        let (_, link) = taken_over(&log[..at], None);
        assert_eq!(link, None, "cut at {at}");
    }
}

#[test]
fn what_was_said_without_a_number_is_not_covered_by_the_end() {
    let mut first = run();
    first.next_step();
    let said = vec![began(), delta(0, Field::Text, "So far")];
    say(&mut first, &said, None);
    first.on_model(delta(0, Field::Text, " and on"));
    first.on_model(the_end(Outcome::Completed, json!([])));
    let mut log = first.take_events();

    let (mut second, link) = taken_over(&log, None);

    assert_eq!(link, None);
    log.extend(end(&mut second));
    assert_eq!(
        Snapshot::of(&log).unwrap().response().output.len(),
        1,
        "nothing is said twice"
    );
}
