//! Streams of the Responses API that do not keep to its letter.

use serde_json::{Value, json};
use talaria_testkit::upstream::{ResponsesStream, Script, response_object};

use crate::case::{Case, failed, good, incomplete};

const RATE_LIMITS: &str =
    "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\",\"plan_type\":\"pro\"}\n\n";

pub fn cases() -> Vec<Case> {
    [odd_beginnings(), odd_ends(), failures()]
        .into_iter()
        .flatten()
        .collect()
}

fn new() -> ResponsesStream {
    ResponsesStream::new()
}

fn headless() -> ResponsesStream {
    ResponsesStream::headless()
}

fn response(status: &str) -> Value {
    json!({"response": response_object("resp_up", status, &[])})
}

fn odd_beginnings() -> Vec<Case> {
    vec![
        good(
            "events before response.created",
            headless()
                .raw(RATE_LIMITS)
                .raw("data: {\"hello\":1}\n\n")
                .event("response.created", response("in_progress"))
                .event("response.in_progress", response("in_progress"))
                .text(&["o", "k"])
                .completed(),
            "ok",
        ),
        good(
            "no response.created",
            headless().text(&["o", "k"]).completed(),
            "ok",
        ),
        good(
            "response.in_progress first",
            headless()
                .event("response.in_progress", response("in_progress"))
                .text(&["o", "k"])
                .completed(),
            "ok",
        ),
        good(
            "events of unknown types",
            new()
                .event(
                    "response.sparkle.delta",
                    json!({"item_id": "spk_1", "delta": "✨"}),
                )
                .open_text()
                .deltas(&["o"])
                .raw(RATE_LIMITS)
                .raw("event: response.sparkle.done\ndata: not even JSON\n\n")
                .raw("data: [1,2]\n\n")
                .deltas(&["k"])
                .close()
                .event("response.metadata", json!({"x": null}))
                .completed(),
            "ok",
        ),
    ]
}

fn odd_ends() -> Vec<Case> {
    let completed_with = |change: &dyn Fn(&mut Value)| {
        let mut fields = response("completed");
        change(&mut fields["response"]);
        let stream = new().text(&["o", "k"]);
        stream.event("response.completed", fields).stop()
    };
    let message = json!({
        "id": "msg_up", "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "ok", "annotations": [], "logprobs": []}],
    });
    let whole = response_object("resp_up", "completed", &[message]);
    vec![
        good(
            "no response.completed",
            new().text(&["o", "k"]).stop(),
            "ok",
        ),
        good(
            "no response.completed but [DONE]",
            new().text(&["o", "k"]).stop().done_mark(),
            "ok",
        ),
        good(
            "nothing that ends anything",
            new().open_text().deltas(&["o", "k"]).stop(),
            "ok",
        ),
        good(
            "empty output",
            new().text(&["o", "k"]).completed_without_output(),
            "ok",
        ),
        good(
            "output null",
            completed_with(&|r| r["output"] = Value::Null),
            "ok",
        ),
        good(
            "no output, no usage",
            completed_with(&|r| {
                if let Some(response) = r.as_object_mut() {
                    response.remove("output");
                    response.remove("usage");
                }
            }),
            "ok",
        ),
        good(
            "usage null",
            completed_with(&|r| r["usage"] = Value::Null),
            "ok",
        ),
        good(
            "the whole text only in the final output",
            headless()
                .event("response.completed", json!({"response": whole}))
                .stop(),
            "ok",
        ),
        good("a whole JSON body", Script::json(200, &whole), "ok"),
        good(
            "reasoning before the text",
            headless()
                .reasoning_summary(&["let me ", "see"])
                .reasoning_text(&["2", "+2"])
                .text(&["four"])
                .completed_without_output(),
            "four",
        ),
    ]
}

fn failures() -> Vec<Case> {
    let nested = json!({"type": "x", "code": "rate_limit_exceeded", "message": "Too busy."});
    vec![
        failed(
            "a flat error frame",
            new()
                .open_text()
                .deltas(&["so ", "far"])
                .event(
                    "error",
                    json!({"code": "overloaded", "message": "Too busy."}),
                )
                .stop(),
            "so far",
            "server_error",
            "Too busy.",
        ),
        failed(
            "a nested error frame",
            new()
                .open_text()
                .deltas(&["so ", "far"])
                .event("error", json!({"error": nested}))
                .stop(),
            "so far",
            "rate_limit_exceeded",
            "Too busy.",
        ),
        failed(
            "an error without a type",
            new()
                .raw("data: {\"error\":{\"message\":\"Too busy.\",\"code\":\"overloaded\"}}\n\n")
                .stop(),
            "",
            "server_error",
            "Too busy.",
        ),
        failed(
            "response.failed",
            new()
                .text(&["so far"])
                .failed("invalid_prompt", "Too busy."),
            "so far",
            "invalid_prompt",
            "Too busy.",
        ),
        incomplete(
            "response.incomplete",
            new()
                .open_text()
                .deltas(&["so far"])
                .incomplete("max_output_tokens"),
            "so far",
            "max_output_tokens",
        ),
        failed(
            "nothing but a head",
            new().stop(),
            "",
            "server_error",
            "The model ended its answer without saying anything.",
        ),
        failed(
            "cut in the middle of a text",
            new().open_text().deltas(&["so ", "far"]).cut(),
            "so far",
            "server_error",
            "The connection to the upstream broke.",
        ),
    ]
}
