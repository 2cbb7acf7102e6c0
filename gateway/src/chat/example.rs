//! Runs to try the translations on.

use serde_json::{Value, json};
use talaria_domain::model::{Field, ItemKey, ModelEvent, Outcome};
use talaria_domain::run::{Run, Step};
use talaria_proto::v1::{Event, Response, Status, Usage};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x0192_3456_789a_7bcd_8ef0_1234_5678_9abc);

/// What the model says.
#[derive(Clone, Debug)]
pub enum Say {
    Text(&'static [&'static str]),
    Refusal(&'static str),
    Thought(&'static [&'static str]),
    Summary(&'static [&'static str]),
    /// Id, name and the pieces of its arguments.
    Call(&'static str, &'static str, &'static [&'static str]),
    /// A call of which only these pieces come.
    HalfCall(&'static str, &'static str, &'static [&'static str]),
    CustomCall(&'static str, &'static str, &'static [&'static str]),
    /// A whole item, with nothing streamed of it.
    Item(Value),
    /// The process dies, and another goes on.
    Crash,
}

/// A response of a client that offers the function tools `weather` and `time` and the custom tool `shell`.
pub fn created() -> Response {
    let tools = json!([
        {"type": "function", "name": "weather"}, {"type": "function", "name": "time"},
        {"type": "custom", "name": "shell"}, {"type": "web_search"},
    ]);
    Response {
        id: format!("resp_{}", ID.simple()),
        status: Status::InProgress.into(),
        created_at: 1_741_476_542,
        model: "gpt-\"4o\"".to_owned(),
        settings: json!({"tools": tools}).to_string().into(),
        ..Response::default()
    }
}

/// The events of a run in which the model says all of `said`, and ends so.
pub fn events(said: &[Say], outcome: Outcome) -> Vec<Event> {
    let mut run = Run::create(ID, created());
    run.start();
    let mut events = Vec::new();
    for (say, key) in said.iter().zip(0..) {
        if matches!(say, Say::Crash) {
            events.extend(run.take_events());
            run = Run::resume(ID, run.snapshot().clone());
            run.start();
            if run.next_step() != Step::CallModel {
                break;
            }
        }
        for event in said_as(ItemKey(key), say) {
            run.on_model(event);
        }
    }
    run.on_model(ModelEvent::Finished {
        outcome,
        usage: Some(Usage {
            input_tokens: 8,
            cached_tokens: 2,
            output_tokens: 3,
            reasoning_tokens: 1,
            total_tokens: 11,
            ..Usage::default()
        }),
        output: Vec::new(),
    });
    if let Step::Finish(end) = run.next_step() {
        run.finish(&end, 1_741_476_543);
    }
    events.extend(run.take_events());
    events
}

/// The response that the last of `events` shows.
pub fn final_response(events: &[Event]) -> Response {
    use talaria_proto::v1::event::Kind;
    match events.last().and_then(|last| last.kind.clone()) {
        Some(Kind::Completed(last) | Kind::Failed(last) | Kind::Incomplete(last)) => last,
        other => panic!("not an end: {other:?}"),
    }
}

fn said_as(key: ItemKey, say: &Say) -> Vec<ModelEvent> {
    let call = |kind: &str, id: &str, name: &str| ModelEvent::ItemAdded {
        key,
        item: object(json!({"type": kind, "call_id": id, "name": name})),
    };
    match say {
        Say::Text(pieces) => deltas(key, Field::Text, pieces),
        Say::Refusal(text) => deltas(key, Field::Refusal, &[text]),
        Say::Thought(pieces) => deltas(key, Field::ReasoningText, pieces),
        Say::Summary(pieces) => deltas(key, Field::ReasoningSummary, pieces),
        Say::Call(id, name, pieces) => {
            let mut events = said_as(key, &Say::HalfCall(id, name, pieces));
            let arguments = pieces.concat();
            let item = json!({"type": "function_call", "call_id": id, "name": name,
                "arguments": arguments, "status": "completed"});
            events.push(ModelEvent::ItemDone {
                key,
                item: object(item),
            });
            events
        }
        Say::HalfCall(id, name, pieces) => {
            let mut events = vec![call("function_call", id, name)];
            events.extend(deltas(key, Field::Arguments, pieces));
            events
        }
        Say::CustomCall(id, name, pieces) => {
            let mut events = vec![call("custom_tool_call", id, name)];
            events.extend(deltas(key, Field::Input, pieces));
            let input = pieces.concat();
            let item = json!({"type": "custom_tool_call", "call_id": id, "name": name,
                "input": input, "status": "completed"});
            events.push(ModelEvent::ItemDone {
                key,
                item: object(item),
            });
            events
        }
        Say::Item(item) => {
            let item = object(item.clone());
            vec![ModelEvent::ItemDone { key, item }]
        }
        Say::Crash => Vec::new(),
    }
}

fn deltas(key: ItemKey, field: Field, pieces: &[&str]) -> Vec<ModelEvent> {
    let delta = |piece: &&str| ModelEvent::Delta {
        key,
        field,
        part: 0,
        delta: (*piece).to_owned(),
        logprobs: Vec::new(),
    };
    pieces.iter().map(delta).collect()
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}
