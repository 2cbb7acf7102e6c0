use serde_json::{Value, json};

use super::{Summary, rest, stream};
use crate::sse::{Frame, frames};
use crate::upstream::{ResponsesStream, Script, Step};

#[test]
fn a_good_stream_passes() {
    let events = good_events();

    let summary = check(&events);

    let last = &events[events.len() - 1]["response"];
    let items = last["output"].as_array().cloned().unwrap_or_default();
    let expected = Summary {
        response_id: last["id"].as_str().unwrap_or_default().to_owned(),
        status: "completed".into(),
        events: 31,
        attempts: 1,
        text: "Hello".into(),
        items,
        response: last.clone(),
    };
    assert_eq!(summary, Ok(expected));
}

#[test]
fn other_good_streams_pass() {
    let background = {
        let mut events = events_of(&ResponsesStream::new().text(&["a"]).completed());
        events.insert(1, events[0].clone());
        events[1]["type"] = json!("response.queued");
        for event in &mut events {
            if event["response"].is_object() {
                event["response"]["background"] = json!(true);
            }
        }
        for event in &mut events[..2] {
            event["response"]["status"] = json!("queued");
        }
        renumber(&mut events);
        events
    };
    let taken_over = {
        let mut events = good_events();
        events.insert(9, events[1].clone());
        renumber(&mut events);
        events
    };
    let cancelled = {
        let open = ResponsesStream::new()
            .text(&["a"])
            .open_text()
            .deltas(&["b"]);
        let mut events = events_of(&open.failed("server_error", ""));
        let response = &mut last(&mut events)["response"];
        response["status"] = json!("cancelled");
        response["error"] = Value::Null;
        events
    };
    let failed_after_error = {
        let mut events = events_of(&ResponsesStream::new().failed("server_error", "no"));
        events.insert(2, error_event());
        renumber(&mut events);
        events
    };
    let new = ResponsesStream::new;
    let scripted = [
        new().completed(),
        new().text(&[]).completed(),
        new().refusal(&["N", "o"]).completed(),
        new().reasoning_text(&["h", "m"]).text(&["a"]).completed(),
        new().text(&["a"]).failed("server_error", "no"),
        new()
            .text(&["a"])
            .open_text()
            .deltas(&["b"])
            .incomplete("max_output_tokens"),
    ];

    let scripted = scripted.iter().map(events_of);
    for events in scripted.chain([background, taken_over, cancelled, failed_after_error]) {
        assert_eq!(check(&events).err(), None, "{events:#?}");
    }
}

#[test]
fn the_rest_of_a_stream_is_numbered_from_where_it_begins() {
    let events = good_events();
    let tail = write(&events[12..]);

    assert_eq!(
        rest(&tail, 12).as_ref(),
        Ok(&events[events.len() - 1]["response"])
    );
    assert!(rest(&tail, 11).is_err());
    assert!(rest(&write(&events[12..20]), 12).is_err());
}

type Change = fn(&mut Vec<Value>);

/// What is done to the good stream, and the words with which it is refused. Numbers are put right afterwards.
const MUTATIONS: &[(&str, Change)] = &[
    ("comes before response.created", |events| {
        drop(events.remove(0));
    }),
    ("was created before", |events| {
        events.insert(1, events[0].clone());
    }),
    ("comes before response.in_progress", |events| {
        drop(events.remove(1));
    }),
    ("has no last event", |events| drop(events.pop())),
    ("comes after the end", |events| {
        events.push(events[events.len() - 1].clone());
    }),
    ("fco_1 was never done", |events| {
        let last = events.len() - 1;
        events.swap(last, last - 1);
    }),
    ("clients do not know", |events| {
        first(events, "output_text.delta")["type"] = json!("acme:delta");
    }),
    ("clients do not know", |events| {
        last(events)["type"] = json!("response.cancelled");
    }),
    ("clients do not know", |events| {
        first(events, "output_text.delta")["type"] = json!("response.output_text.more");
    }),
    ("clients do not know", |events| {
        first(events, "mcp_call.in_progress")["type"] = json!("response.mcp_call.begun");
    }),
    ("is not followed by response.failed", |events| {
        events.insert(2, error_event());
    }),
    ("has no error.code", |events| {
        let mut error = error_event();
        error["error"] = Value::Null;
        events.insert(2, error);
    }),
    // Snapshots
    ("the response's id changed", |events| {
        last(events)["response"]["id"] = json!("resp_00000000000000000000000000000000");
    }),
    ("the response's created_at changed", |events| {
        last(events)["response"]["created_at"] = json!(1);
    }),
    ("response.id is not", |events| {
        events[0]["response"]["id"] = json!("resp_short");
    }),
    ("is not an id", |events| {
        events[0]["response"]["id"] = json!("resp_0000000000000000000000000000000/");
    }),
    ("response.object is not", |events| {
        events[0]["response"]["object"] = json!("answer");
    }),
    ("response.usage is missing", |events| {
        remove(&mut events[1]["response"], "usage");
    }),
    ("response.safety_identifier is missing", |events| {
        remove(&mut events[0]["response"], "safety_identifier");
    }),
    ("response.temperature is null", |events| {
        events[0]["response"]["temperature"] = Value::Null;
    }),
    ("response.top_logprobs is 0.5", |events| {
        events[0]["response"]["top_logprobs"] = json!(0.5);
    }),
    ("response.output_text does not belong", |events| {
        last(events)["response"]["output_text"] = json!("Hello");
    }),
    ("verbosity is null", |events| {
        events[0]["response"]["text"]["verbosity"] = Value::Null;
    }),
    ("a function tool has no strict", |events| {
        let tool =
            json!({ "type": "function", "name": "f", "description": null, "parameters": null });
        events[0]["response"]["tools"] = json!([tool]);
    }),
    ("response.status is completed", |events| {
        events[1]["response"]["status"] = json!("completed");
    }),
    ("in the background is queued", |events| {
        events[0]["response"]["status"] = json!("queued");
    }),
    ("response.usage is set", |events| {
        events[1]["response"]["usage"] = json!({});
    }),
    ("response.output is not empty", |events| {
        events[1]["response"]["output"] = json!([{}]);
    }),
    ("completed_at is null", |events| {
        last(events)["response"]["completed_at"] = Value::Null;
    }),
    ("before created_at", |events| {
        last(events)["response"]["completed_at"] = json!(1);
    }),
    ("usage/total_tokens", |events| {
        remove(&mut last(events)["response"]["usage"], "total_tokens");
    }),
    ("response.error is set", |events| {
        last(events)["response"]["error"] = json!({});
    }),
    // Items
    ("output_index is 1", |events| {
        first(events, "output_item.added")["output_index"] = json!(1);
    }),
    ("output_index is not an index", |events| {
        remove(first(events, "output_text.delta"), "output_index");
    }),
    ("is used twice", |events| {
        let id = events[2]["item"]["id"].clone();
        nth(events, "output_item.added", 1)["item"]["id"] = id;
    }),
    ("the item's id", |events| {
        events[2]["item"]["id"] = json!("");
    }),
    ("the item's call_id", |events| {
        nth(events, "output_item.added", 2)["item"]["call_id"] = json!("");
    }),
    ("the item's arguments does not begin", |events| {
        nth(events, "output_item.added", 2)["item"]["arguments"] = json!("{");
    }),
    ("the item's content does not begin", |events| {
        nth(events, "output_item.added", 1)["item"]["content"] = json!([{}]);
    }),
    ("the item's status does not begin", |events| {
        nth(events, "output_item.added", 1)["item"]["status"] = json!("completed");
    }),
    ("the item's call_id changed", |events| {
        nth(events, "output_item.done", 2)["item"]["call_id"] = json!("call_2");
    }),
    ("the item's id changed", |events| {
        nth(events, "output_item.done", 1)["item"]["id"] = json!("msg_2");
    }),
    ("item_id is msg_2", |events| {
        first(events, "output_text.delta")["item_id"] = json!("msg_2");
    }),
    ("item_id is not a string", |events| {
        remove(first(events, "output_text.delta"), "item_id");
    }),
    ("there is no item at", |events| {
        first(events, "output_text.delta")["output_index"] = json!(7);
    }),
    ("the item is done already", |events| {
        let delta = first(events, "reasoning_summary_text.delta").clone();
        events.insert(9, delta);
    }),
    ("was done before", |events| {
        events.insert(9, events[8].clone());
    }),
    ("was never done", |events| drop(events.remove(8))),
    ("done with status \"in_progress\"", |events| {
        nth(events, "output_item.done", 1)["item"]["status"] = json!("in_progress");
    }),
    ("phase is null", |events| {
        nth(events, "output_item.done", 1)["item"]["phase"] = Value::Null;
    }),
    ("encrypted_content is null", |events| {
        events[8]["item"]["encrypted_content"] = Value::Null;
    }),
    ("content is not what its parts", |events| {
        nth(events, "output_item.done", 1)["item"]["content"][0]["text"] = json!("Hell");
    }),
    ("summary is not what its parts", |events| {
        events[8]["item"]["summary"] = json!([]);
    }),
    ("not what the items ended as", |events| {
        last(events)["response"]["output"][1]["id"] = json!("msg_other");
    }),
    ("not what the items ended as", |events| {
        if let Some(output) = last(events)["response"]["output"].as_array_mut() {
            output.swap(0, 1);
        }
    }),
    ("not what the items ended as", |events| {
        last(events)["response"]["output"] = json!([]);
    }),
    // Parts
    ("content_index is 1", |events| {
        first(events, "content_part.added")["content_index"] = json!(1);
    }),
    ("summary_index is 1", |events| {
        first(events, "reasoning_summary_part.added")["summary_index"] = json!(1);
    }),
    ("there is no part at", |events| {
        rerepeat_first(events, "content_part.added");
    }),
    ("a message does not hold", |events| {
        first(events, "content_part.added")["part"]["type"] = json!("reasoning_text");
    }),
    ("the part's text is \"H\"", |events| {
        first(events, "content_part.added")["part"]["text"] = json!("H");
    }),
    ("the part's logprobs", |events| {
        remove(&mut first(events, "content_part.done")["part"], "logprobs");
    }),
    ("logprobs is not a list", |events| {
        remove(first(events, "output_text.delta"), "logprobs");
    }),
    ("logprobs is not a list", |events| {
        remove(first(events, "output_text.done"), "logprobs");
    }),
    ("text is not the deltas", |events| {
        first(events, "output_text.delta")["delta"] = json!("hel");
    }),
    ("text is not the deltas", |events| {
        rerepeat_first(events, "output_text.delta");
    }),
    ("text is not the deltas", |events| {
        rerepeat_first(events, "reasoning_summary_text.delta");
    }),
    ("the text is done already", |events| {
        repeat_first(events, "output_text.delta", "output_text.done");
    }),
    ("text was never done", |events| {
        rerepeat_first(events, "output_text.done");
    }),
    ("a part was never done", |events| {
        rerepeat_first(events, "content_part.done");
    }),
    ("the part's text is \"Hell\"", |events| {
        first(events, "content_part.done")["part"]["text"] = json!("Hell");
    }),
    ("the part is a output_text", |events| {
        first(events, "output_text.delta")["type"] = json!("response.refusal.delta");
    }),
    ("annotation_index is 3", |events| {
        first(events, "output_text.annotation.added")["annotation_index"] = json!(3);
    }),
    ("the part's annotations", |events| {
        rerepeat_first(events, "output_text.annotation.added");
    }),
    // Calls
    ("arguments is not the deltas", |events| {
        rerepeat_first(events, "function_call_arguments.delta");
    }),
    ("arguments were never done", |events| {
        rerepeat_first(events, "function_call_arguments.done");
    }),
    ("arguments are done already", |events| {
        repeat_first(
            events,
            "function_call_arguments.delta",
            "function_call_arguments.done",
        );
    }),
    ("the item's arguments is not what", |events| {
        nth(events, "output_item.done", 2)["item"]["arguments"] = json!("{}");
    }),
    ("the item is a message", |events| {
        let delta = first(events, "output_text.delta");
        delta["type"] = json!("response.function_call_arguments.delta");
    }),
    ("its last event was", |events| {
        rerepeat_first(events, "mcp_call.completed");
    }),
    ("its last event was", |events| {
        first(events, "mcp_call.completed")["type"] = json!("response.mcp_call.failed");
    }),
    ("no call call_2 waits", |events| {
        nth(events, "output_item.added", 4)["item"]["call_id"] = json!("call_2");
    }),
    ("no call call_1 waits", |events| {
        let mut again = nth(events, "output_item.added", 4).clone();
        again["output_index"] = json!(5);
        again["item"]["id"] = json!("fco_2");
        let behind = position(events, "output_item.added", 4) + 1;
        events.insert(behind, again);
    }),
    ("status does not begin as", |events| {
        nth(events, "output_item.added", 4)["item"]["status"] = json!("completed");
    }),
    ("neither a text nor a list", |events| {
        nth(events, "output_item.done", 4)["item"]["output"] = Value::Null;
    }),
];

#[test]
fn every_broken_rule_is_named() {
    let refuse = |change: &Change| {
        let mut events = good_events();
        change(&mut events);
        renumber(&mut events);
        check(&events).err().unwrap_or_default()
    };

    let refusals = MUTATIONS
        .iter()
        .map(|(expected, change)| (expected, refuse(change)));

    let wrong: Vec<_> = refusals
        .filter(|(expected, refusal)| !refusal.contains(*expected))
        .collect();
    assert!(wrong.is_empty(), "expected and got: {wrong:#?}");
}

#[test]
fn broken_failures_and_early_ends_are_named() {
    let failed = ResponsesStream::new()
        .text(&["a"])
        .open_text()
        .failed("server_error", "no");
    let incomplete = ResponsesStream::new()
        .text(&["a"])
        .incomplete("max_output_tokens");
    let mutations: [(&str, &Script, Change); 7] = [
        ("error.code is", &failed, |events| {
            last(events)["response"]["error"]["code"] = json!("oops");
        }),
        ("error.param is missing", &failed, |events| {
            remove(&mut last(events)["response"]["error"], "param");
        }),
        ("error.type is not", &failed, |events| {
            remove(&mut last(events)["response"]["error"], "type");
        }),
        ("neither empty nor", &failed, |events| {
            last(events)["response"]["output"] = json!([{}]);
        }),
        ("response.error is set", &failed, |events| {
            last(events)["response"]["status"] = json!("cancelled");
        }),
        ("reason is None", &incomplete, |events| {
            last(events)["response"]["incomplete_details"] = Value::Null;
        }),
        ("response.completed_at is set", &incomplete, |events| {
            last(events)["response"]["completed_at"] = json!(1_741_476_543);
        }),
    ];

    for (expected, script, change) in mutations {
        let mut events = events_of(script);
        change(&mut events);
        let refusal = check(&events).err().unwrap_or_default();
        assert!(refusal.contains(expected), "{expected:?}, got {refusal:?}");
    }
}

#[test]
fn frames_that_are_written_differently_are_refused() {
    let good = text_of(&good_events());
    assert_eq!(stream(&frames(good.as_bytes())).err(), None);
    let mutations = [
        (
            "not end with `data: [DONE]`",
            good.replace("data: [DONE]\n\n", ""),
        ),
        (
            "the end mark comes before",
            format!("{good}data: [DONE]\n\n"),
        ),
        (
            "not end with `data: [DONE]`",
            good.replace("data: [DONE]", "event: done\ndata: [DONE]"),
        ),
        (
            "there is no event line",
            good.replacen("event: response.created\n", "", 1),
        ),
        (
            "the event line says",
            good.replacen("event: response.created\n", "event: response.queued\n", 1),
        ),
        (
            "not one event line",
            good.replacen("\ndata: ", "\nid: 1\ndata: ", 1),
        ),
        (
            "not one event line",
            good.replace('\n', "\r\n")
                .replace("data: [DONE]\r\n\r\n", "data: [DONE]\n\n"),
        ),
        (
            "not one event line",
            good.replacen("\ndata: {", "\ndata: {\ndata: ", 1),
        ),
        ("not JSON", good.replacen("data: {", "data: ", 1)),
        (
            "sequence_number is 7",
            good.replacen("\"sequence_number\":1,", "\"sequence_number\":7,", 1),
        ),
        (
            "sequence_number is null",
            good.replacen("\"sequence_number\":1,", "", 1),
        ),
        ("the stream is empty", String::new()),
    ];

    for (expected, text) in mutations {
        let refusal = stream(&frames(text.as_bytes())).err().unwrap_or_default();
        assert!(refusal.contains(expected), "{expected:?}, got {refusal:?}");
    }
}

/// A reasoning item, a message with an annotation, a function call, an MCP call and the function's output.
fn good_events() -> Vec<Value> {
    let mcp_call = |status: &str, arguments: &str, output: Value| {
        json!({
            "id": "mcp_1", "type": "mcp_call", "status": status, "server_label": "files", "name": "read",
            "arguments": arguments, "output": output, "error": null, "approval_request_id": null,
        })
    };
    let output = |status: &str, output: Value| {
        json!({
            "id": "fco_1", "type": "function_call_output", "status": status, "call_id": "call_1",
            "output": output,
        })
    };
    let place = json!({ "item_id": "mcp_1", "output_index": 3 });
    let arguments = |field: &str| json!({ "item_id": "mcp_1", "output_index": 3, field: "{}" });
    let script = ResponsesStream::new()
        .reasoning_summary(&["th", "ink"])
        .text(&["Hel", "lo"])
        .function_call("call_1", "look", &["{\"a\"", ":1}"])
        .begin_item(&mcp_call("in_progress", "", Value::Null))
        .event("response.mcp_call.in_progress", place.clone())
        .event("response.mcp_call_arguments.delta", arguments("delta"))
        .event("response.mcp_call_arguments.done", arguments("arguments"))
        .event("response.mcp_call.completed", place)
        .end_item(mcp_call("completed", "{}", json!("ok")))
        .begin_item(&output("in_progress", json!([])))
        .end_item(output(
            "completed",
            json!([{ "type": "input_text", "text": "ok" }]),
        ))
        .completed();
    let mut events = events_of(&script);
    annotate(&mut events);
    renumber(&mut events);
    events
}

/// Puts an annotation into the message, as if it had been there from the beginning.
fn annotate(events: &mut Vec<Value>) {
    let annotation = json!({
        "type": "url_citation", "url": "http://a", "title": "a", "start_index": 0, "end_index": 1,
    });
    let done = position(events, "output_text.done", 0);
    let mut added = events[done].clone();
    added["type"] = json!("response.output_text.annotation.added");
    added["annotation_index"] = json!(0);
    added["annotation"] = annotation.clone();
    events.insert(done, added);
    first(events, "content_part.done")["part"]["annotations"] = json!([annotation]);
    let item = &mut nth(events, "output_item.done", 1)["item"];
    item["content"][0]["annotations"] = json!([annotation]);
    last(events)["response"]["output"][1] = item_done(events, 1);
}

fn item_done(events: &[Value], index: usize) -> Value {
    events[position(events, "output_item.done", index)]["item"].clone()
}

fn error_event() -> Value {
    let error =
        json!({ "type": "server_error", "code": "server_error", "message": "no", "param": null });
    let mut event = error.clone();
    event["type"] = json!("error");
    event["error"] = error;
    event
}

fn events_of(script: &Script) -> Vec<Value> {
    let sent = script.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(bytes.as_ref()),
        Step::Pause(_) | Step::Gate(_) | Step::Cut => None,
    });
    let bytes: Vec<u8> = sent.flatten().copied().collect();
    frames(&bytes).iter().map(Frame::json).collect()
}

fn check(events: &[Value]) -> Result<Summary, String> {
    stream(&write(events))
}

fn write(events: &[Value]) -> Vec<Frame> {
    frames(text_of(events).as_bytes())
}

fn text_of(events: &[Value]) -> String {
    let frame = |event: &Value| {
        let kind = event["type"].as_str().unwrap_or_default();
        format!("event: {kind}\ndata: {event}\n\n")
    };
    let frames: String = events.iter().map(frame).collect();
    frames + "data: [DONE]\n\n"
}

fn renumber(events: &mut [Value]) {
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
}

fn position(events: &[Value], kind: &str, n: usize) -> usize {
    let kind = format!("response.{kind}");
    let mut found = (0..events.len()).filter(|&i| events[i]["type"] == kind.as_str());
    found.nth(n).expect("the good stream has this event")
}

fn nth<'a>(events: &'a mut [Value], kind: &str, n: usize) -> &'a mut Value {
    let position = position(events, kind, n);
    &mut events[position]
}

fn first<'a>(events: &'a mut [Value], kind: &str) -> &'a mut Value {
    nth(events, kind, 0)
}

fn last(events: &mut [Value]) -> &mut Value {
    events.last_mut().expect("the good stream is not empty")
}

fn remove(object: &mut Value, field: &str) {
    let object = object
        .as_object_mut()
        .expect("the good stream has an object here");
    object.shift_remove(field);
}

fn rerepeat_first(events: &mut Vec<Value>, kind: &str) {
    events.remove(position(events, kind, 0));
}

/// Puts the first event of one kind once more behind the first of another.
fn repeat_first(events: &mut Vec<Value>, kind: &str, behind: &str) {
    let event = first(events, kind).clone();
    events.insert(position(events, behind, 0) + 1, event);
}
