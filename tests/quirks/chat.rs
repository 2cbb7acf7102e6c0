//! Streams of the Chat Completions API that do not keep to its letter.

use serde_json::json;
use talaria_testkit::upstream::{ChatStream, Script};

use crate::case::{Case, failed, good, incomplete};

pub fn cases() -> Vec<Case> {
    let new = ChatStream::new;
    let completion = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": "ok"}}],
    });
    vec![
        good(
            "chunks before the role, of unknown shapes",
            new()
                .raw("event: ping\ndata: {}\n\n")
                .raw("data: {\"object\":\"rate_limits\"}\n\n")
                .raw("data: {\"choices\":[]}\n\ndata: not JSON\n\n")
                .text(&["o", "k"])
                .finish("stop"),
            "ok",
        ),
        good(
            "no role",
            Script::sse()
                .data(&json!({"choices": [{"delta": {"content": "ok"}}]}))
                .data(&json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})),
            "ok",
        ),
        good(
            "no usage, no [DONE]",
            new().text(&["o", "k"]).finish_without_usage("stop"),
            "ok",
        ),
        good(
            "an unknown finish reason",
            new().text(&["o", "k"]).finish("eos"),
            "ok",
        ),
        good(
            "reasoning before the text",
            new()
                .reasoning(&["let me ", "see"])
                .text(&["four"])
                .finish("stop"),
            "four",
        ),
        good("a whole JSON body", Script::json(200, &completion), "ok"),
        good("no finish reason", new().text(&["o", "k"]).stop(), "ok"),
        good(
            "no finish reason but [DONE]",
            new().text(&["o", "k"]).stop().done_mark(),
            "ok",
        ),
        incomplete(
            "the length is reached",
            new().text(&["so far"]).finish("length"),
            "so far",
            "max_output_tokens",
        ),
        incomplete(
            "filtered",
            new().text(&["so far"]).finish("content_filter"),
            "so far",
            "content_filter",
        ),
        failed(
            "an error in the stream",
            new()
                .text(&["so ", "far"])
                .failed("overloaded", "Too busy."),
            "so far",
            "server_error",
            "Too busy.",
        ),
        failed(
            "a flat error frame",
            new()
                .text(&["so ", "far"])
                .raw("event: error\ndata: {\"code\":\"overloaded\",\"message\":\"Too busy.\"}\n\n")
                .stop(),
            "so far",
            "server_error",
            "Too busy.",
        ),
        failed(
            "nothing but a head",
            Script::sse().done_mark(),
            "",
            "server_error",
            "The model ended its answer without saying anything.",
        ),
        failed(
            "cut in the middle of a text",
            new().text(&["so ", "far"]).cut(),
            "so far",
            "server_error",
            "The connection to the upstream broke.",
        ),
    ]
}
