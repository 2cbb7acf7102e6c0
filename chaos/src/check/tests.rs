use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::history::{Action, Order, What};
use crate::plan::{Place, Plan, Tool, token};

const ID: Uuid = Uuid::from_u128(7);

fn frame(seq: u64, event: Value) -> Bytes {
    let mut event = event;
    event["sequence_number"] = seq.into();
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    Bytes::from(format!("event: {kind}\ndata: {event}\n\n"))
}

/// A log of one run that said two tokens and completed.
fn log() -> Vec<Bytes> {
    let tokens = [0, 1].map(|number| token("r", 0, 0, number));
    let script = talaria_testkit::upstream::ResponsesStream::new()
        .text(&[&tokens[0], &tokens[1]])
        .completed();
    let mut text = Vec::new();
    for step in &script.steps {
        if let talaria_testkit::upstream::Step::Send(bytes) = step {
            text.extend_from_slice(bytes);
        }
    }
    let mut frames = talaria_testkit::sse::frames(&text);
    for frame in &mut frames {
        let with_id = String::from_utf8_lossy(&frame.raw).into_owned();
        frame.raw = Bytes::from(renamed(&with_id));
    }
    frames.into_iter().map(|frame| frame.raw).collect()
}

/// The frame with the response's id in place of the one it was made with.
fn renamed(text: &str) -> String {
    match text.split_once("\"id\":\"resp_") {
        Some((before, rest)) => {
            let rest = &rest[32..];
            format!("{before}\"id\":\"{}{rest}", response_id(ID))
        }
        None => text.to_owned(),
    }
}

/// What that run was asked for.
fn order() -> Order {
    Order {
        plan: Plan {
            run: "r".into(),
            steps: Vec::new(),
            tokens: 2,
            pace_ms: 1,
            tool_ms: 1,
        },
        previous: None,
        conversation: None,
    }
}

/// Gives the run another order.
fn ordered(facts: &mut Facts, change: impl FnOnce(&mut Order)) {
    if let What::Sent {
        order: Some(order), ..
    } = &mut facts.entries[0].what
    {
        change(order);
    }
}

/// An episode in which one client streamed one run, and all is well.
fn good() -> Facts {
    let log = log();
    let last = super::view::event_of(&log[log.len() - 1]);
    let mut whats = vec![What::Sent {
        op: 0,
        gateway: 0,
        action: Action::Stream,
        response: None,
        run: Some("r".into()),
        key: Some("k".into()),
        order: Some(order()),
    }];
    for (seq, raw) in (0..).zip(&log) {
        let raw = raw.clone();
        whats.push(What::Frame { op: 0, seq, raw });
    }
    whats.push(What::Ended {
        op: 0,
        done: true,
        comments: Vec::new(),
    });
    let shown = Shown {
        object: (200, last["response"].clone()),
        log: Ok(log.clone()),
    };
    let length = i64::try_from(log.len()).expect("it is short");
    let mut facts = Facts {
        rows: vec![Row {
            id: ID,
            status: 3,
            epoch: 1,
            next_seq: length,
            conversation: None,
            parent_turn: None,
            chunks: vec![(0, 1, 1), (2, length - 1, 1)],
        }],
        shown: HashMap::from([(response_id(ID), vec![shown.clone(), shown])]),
        ..Facts::default()
    };
    for what in whats {
        push(&mut facts, what);
    }
    facts
}

fn push(facts: &mut Facts, what: What) {
    let at_ns = facts.entries.len() as u64;
    facts.entries.push(Entry {
        at_ns,
        client: 0,
        what,
    });
}

/// A request about the response, and its answer.
fn asked(facts: &mut Facts, op: u64, action: Action, status: u16, body: Value) {
    let sent = What::Sent {
        op,
        gateway: 1,
        action,
        response: Some(response_id(ID)),
        run: Some("r".into()),
        key: None,
        order: None,
    };
    push(facts, sent);
    let answered = What::Answered {
        op,
        status,
        retry_after: false,
        body,
    };
    push(facts, answered);
}

/// The only stream breaks at its end.
fn broken(facts: &mut Facts) {
    facts.entries.pop();
    let why = String::new();
    push(facts, What::Broken { op: 0, why });
}

/// Something is done to a gateway all the time.
fn touch(gateway: usize, drains: bool) -> Touch {
    Touch {
        gateway,
        from_ns: 0,
        to_ns: u64::MAX,
        drains,
    }
}

/// Makes the response one whose only request was refused.
fn refused_before(facts: &mut Facts, status: u16, code: &str) {
    facts.entries.truncate(1);
    if let What::Sent { key, .. } = &mut facts.entries[0].what {
        *key = None;
    }
    facts.inputs.insert(response_id(ID), "r".into());
    let body = json!({ "error": { "code": code } });
    let answered = What::Answered {
        op: 0,
        status,
        retry_after: true,
        body,
    };
    push(facts, answered);
}

fn execution(tool: Tool, attempt: u64, key: &str) -> Execution {
    Execution {
        at_ns: 0,
        tool,
        run: "r".into(),
        place: Place { step: 0, call: 0 },
        attempt,
        key: Some(key.into()),
        ended_ns: None,
    }
}

fn model_call(step: usize) -> Call {
    Call {
        at_ns: 0,
        run: "r".into(),
        step,
        attempt: 0,
        kept: false,
        before: Vec::new(),
        trouble: None,
    }
}

#[test]
fn an_episode_in_which_all_is_well_has_no_violations() {
    assert_eq!(check(&good()), []);
}

type Change = fn(&mut Facts);

/// What breaks which invariant.
const CHANGES: [(&str, Change); 43] = [
    ("I-1", |facts| asked(facts, 1, Action::Get, 404, json!({}))),
    ("I-1", |facts| {
        asked(facts, 1, Action::Delete, 200, json!({}));
        asked(facts, 2, Action::Get, 200, json!({}));
    }),
    ("I-1", |facts| facts.rows.clear()),
    ("I-2", |facts| {
        let body = json!({ "id": "resp_other" });
        let sent = What::Sent {
            op: 1,
            gateway: 1,
            action: Action::Wait,
            response: None,
            run: Some("r".into()),
            key: Some("k".into()),
            order: None,
        };
        push(facts, sent);
        let answered = What::Answered {
            op: 1,
            status: 200,
            retry_after: false,
            body,
        };
        push(facts, answered);
    }),
    ("I-3", |facts| {
        let log = facts.shown.values_mut().next().expect("there is one");
        log[1].log = Ok(Vec::new());
    }),
    ("I-4", |facts| facts.rows[0].chunks[1].0 = 3),
    ("I-4", |facts| facts.rows[0].chunks[0].2 = 2),
    ("I-5", |facts| drop(facts.entries.remove(2))),
    ("I-6", |facts| {
        let raw = frame(
            9,
            json!({ "type": "response.output_text.delta", "delta": "x" }),
        );
        facts.entries.insert(
            9,
            Entry {
                at_ns: 0,
                client: 0,
                what: What::Frame {
                    op: 0,
                    seq: 99,
                    raw,
                },
            },
        );
    }),
    ("I-7", |facts| {
        facts.rows[0].next_seq += 1;
        facts.rows[0].chunks[1].1 += 1;
    }),
    ("I-7", |facts| {
        let error = json!({ "error": { "code": "invalid_value", "param": "starting_after" } });
        asked(facts, 1, Action::Attach { after: Some(1) }, 400, error);
    }),
    ("I-8", |facts| facts.rows[0].status = 4),
    ("I-9", |facts| {
        for shown in facts.shown.values_mut().flatten() {
            let log = shown.log.as_mut().expect("there is one");
            // The item's beginning, once more.
            let again = log[2].clone();
            log.insert(3, again);
        }
    }),
    ("I-9", |facts| {
        for shown in facts.shown.values_mut().flatten() {
            let log = shown.log.as_mut().expect("there is one");
            log.swap(4, 5);
        }
    }),
    ("I-10", |facts| {
        let shown = facts.shown.values_mut().next().expect("there is one");
        shown[0].object.1["model"] = json!("another");
    }),
    ("I-10", |facts| {
        ordered(facts, |order| order.plan.tokens = 3);
    }),
    ("I-10", |facts| {
        ordered(facts, |order| order.plan.steps = vec![vec![Tool::Look]]);
    }),
    ("I-10", |facts| {
        if let What::Sent { run, .. } = &mut facts.entries[0].what {
            *run = Some("another".into());
        }
    }),
    ("I-12", |facts| {
        // The last event, which stands before the end of the stream.
        let place = facts.entries.len() - 2;
        facts.entries.remove(place);
    }),
    ("I-12", |facts| {
        broken(facts);
        // It is another's, or came later.
        facts.touches = vec![
            touch(1, true),
            Touch {
                from_ns: 99,
                ..touch(0, true)
            },
        ];
    }),
    ("I-12", |facts| {
        let place = facts.entries.len() - 2;
        facts.entries.remove(place);
        facts.touches = vec![touch(1, true), touch(0, false)];
    }),
    ("I-13", |facts| {
        facts.executions = vec![
            execution(Tool::Charge, 0, "a"),
            execution(Tool::Charge, 1, "b"),
        ];
    }),
    ("I-14", |facts| {
        facts.executions = vec![execution(Tool::Keep, 0, "a"), execution(Tool::Keep, 0, "b")];
    }),
    ("I-14", |facts| {
        facts.executions = vec![execution(Tool::Keep, 0, "a"), execution(Tool::Keep, 1, "a")];
    }),
    // The tool began, and did not end.
    ("I-15", |facts| {
        facts.executions = vec![execution(Tool::Look, 0, "a")];
        for shown in facts.shown.values_mut().flatten() {
            let log = shown.log.as_mut().expect("there is one");
            let call = json!({ "type": "function_call", "call_id": "c", "arguments":
                json!({ "run": "r", "step": 0, "call": 0, "attempt": 0 }).to_string() });
            let result =
                json!({ "type": "function_call_output", "call_id": "c", "output": "done" });
            for item in [call, result] {
                let event = json!({ "type": "response.output_item.done", "item": item });
                log.push(frame(0, event));
            }
        }
    }),
    ("I-16", |facts| {
        facts.executions = vec![execution(Tool::Look, 0, "a")];
    }),
    ("I-18", |facts| {
        facts.calls = (0..5).map(|_| model_call(0)).collect();
    }),
    ("I-19", |facts| {
        facts.calls = vec![model_call(0), model_call(1), model_call(0)];
    }),
    ("I-24", |facts| {
        facts.rows[0].parent_turn = Some(Uuid::from_u128(8));
        let mut parent = facts.rows[0].clone();
        parent.id = Uuid::from_u128(8);
        parent.parent_turn = None;
        parent.status = 6;
        facts.rows.push(parent);
        let shown = facts.shown[&response_id(ID)].clone();
        facts.shown.insert(response_id(Uuid::from_u128(8)), shown);
    }),
    ("I-24", |facts| {
        ordered(facts, |order| order.previous = Some("resp_x".into()));
    }),
    ("I-24", |facts| {
        ordered(facts, |order| order.conversation = Some("c".into()));
    }),
    ("I-24", |facts| {
        let told = crate::plan::TurnSeen {
            run: "r".into(),
            text: "something else".into(),
        };
        let mut call = model_call(0);
        call.before.push(told);
        facts.calls = vec![call];
    }),
    ("I-33", |facts| {
        let body = json!({ "object": "response", "status": "completed" });
        asked(facts, 1, Action::Get, 200, body);
    }),
    ("I-30", |facts| {
        asked(facts, 1, Action::Get, 500, json!({}));
    }),
    ("I-30", |facts| {
        asked(facts, 1, Action::Attach { after: None }, 502, json!({}));
    }),
    ("I-30", |facts| {
        asked(facts, 1, Action::Stream, 404, json!({}));
    }),
    // It completed.
    ("I-30", |facts| {
        let error = json!({ "error": { "message": "Cannot cancel a failed response." } });
        asked(facts, 1, Action::Cancel, 400, error);
    }),
    ("I-33", |facts| {
        asked(facts, 1, Action::Delete, 503, json!({}));
    }),
    ("I-1", |facts| {
        asked(facts, 1, Action::Cancel, 404, json!({}));
    }),
    ("I-33", |facts| {
        refused_before(facts, 409, "previous_response_not_completed");
    }),
    ("I-33", |facts| {
        refused_before(facts, 503, "store_unavailable");
    }),
    ("I-25", |facts| facts.rows[0].status = 2),
    ("I-30", |facts| {
        let body = json!({ "error": { "code": "invalid_prompt" } });
        asked(facts, 1, Action::Get, 400, body);
    }),
];

#[test]
fn a_cancel_that_comes_too_late_may_say_so() {
    let mut facts = good();
    let error = json!({ "error": { "message": "Cannot cancel a completed response." } });
    asked(&mut facts, 1, Action::Cancel, 400, error);

    assert_eq!(check(&facts), []);
}

#[test]
fn a_stream_may_break_with_its_gateway() {
    let mut facts = good();
    broken(&mut facts);
    facts.touches = vec![touch(0, false)];

    assert_eq!(check(&facts), []);
}

#[test]
fn every_broken_invariant_is_named() {
    for (invariant, change) in CHANGES {
        let mut facts = good();
        change(&mut facts);
        let found: Vec<&str> = check(&facts).iter().map(|v| v.invariant).collect();
        assert!(found.contains(&invariant), "{invariant}, got {found:?}");
    }
}
