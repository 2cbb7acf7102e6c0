//! Upstreams that break before anything was shown.

use serde_json::{Value, json};
use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script, Step};

use crate::case::{Case, answers, fails, recovers};
use crate::{good, too_long, whole};

/// What every kind of upstream does.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn cases(kind: ApiKind) -> Vec<Case> {
    let again = |name, broken| recovers(name, broken, good(kind));
    let refused = |name, status| {
        fails(
            name,
            Script::error(status, "odd", "It is refused."),
            "It is refused.",
        )
    };
    let page = || {
        Script::sse()
            .header("content-type", "text/html")
            .raw("<html>hi</html>")
    };
    let whole_again = |name, broken| recovers(name, broken, whole(kind));
    let error_frame = |code: &str, error_type: &str| {
        let error = serde_json::json!({"message": "It broke.", "type": error_type, "code": code, "param": null});
        Script::sse().event(
            "error",
            &serde_json::json!({"type": "error", "error": error}),
        )
    };
    let mut cases = vec![
        again("408", Script::error(408, "slow", "Too slow.")),
        again("409", Script::error(409, "busy", "Busy.")),
        again("429", Script::error(429, "slow_down", "Slow down.")),
        again(
            "429 with a time to wait",
            Script::error(429, "slow_down", "Slow down.").header("retry-after-ms", "600"),
        ),
        again("500", Script::error(500, "oops", "It broke.")),
        again("502 without JSON", bad_gateway()),
        again("503", Script::error(503, "oops", "It broke.")),
        again("529", Script::error(529, "overloaded", "It broke.")),
        again("it hangs up", Script::hang_up()),
        again("it cuts an empty body", Script::sse().cut()),
        again("its body is empty", Script::sse()),
        again(
            "it cuts after a comment",
            Script::sse().raw(": hi\n\n").cut(),
        ),
        again(
            "it cuts within a frame",
            Script::sse().raw("data: {\"ty").cut(),
        ),
        again("it falls silent at once", Script::sse().gate("never")),
        again("it never answers", Script::sse().hold_head("never")),
        again(
            "an error frame",
            error_frame("server_error", "server_error"),
        ),
        again(
            "it is overloaded",
            error_frame("overloaded_error", "overloaded_error"),
        ),
        again("it only says [DONE]", Script::sse().done_mark()),
        again(
            "half a JSON document",
            Script::json(200, &serde_json::json!({})).cut(),
        ),
        whole_again("a web page", page()),
        whole_again("plain text", Script::sse().raw("Sorry, no streams here.")),
        whole_again(
            "400: it cannot stream",
            Script::error(400, "unsupported", "Streaming is not supported."),
        ),
        whole_again(
            "422: it cannot stream",
            Script::error(422, "unsupported", "stream must be false"),
        ),
        whole_again("null", Script::sse().raw("null")),
        whole_again("a JSON array", Script::sse().raw("[]")),
        whole_again("an event without end", too_long(Script::sse())),
        again("501", Script::error(501, "oops", "It broke.")),
        again(
            "an error in place of a stream",
            Script::json(200, &serde_json::json!({"error": {"message": "It broke."}})),
        ),
        again(
            "429 with a time that is none",
            Script::error(429, "slow_down", "Slow down.").header("retry-after", "soon"),
        ),
        again(
            "503 with a time to wait",
            Script::error(503, "oops", "It broke.").header("retry-after", "1"),
        ),
        again(
            "it cuts the error that it answers with",
            Script::error(500, "oops", "It broke.").cut(),
        ),
        again(
            "it falls silent after a comment",
            Script::sse().raw(": hi\n\n").gate("never"),
        ),
        refused("302", 302),
        refused("410", 410),
        refused("418", 418),
        refused("400", 400),
        refused("404", 404),
        refused("413", 413),
        refused("422", 422),
        fails(
            "401",
            Script::error(401, "key", "No."),
            "The upstream refused the server's credentials.",
        ),
        fails(
            "403",
            Script::error(403, "key", "No."),
            "The upstream refused the server's credentials.",
        ),
        fails(
            "an error frame about the request",
            error_frame("context_length_exceeded", "invalid_request_error"),
            "It broke.",
        ),
        Case {
            scripts: vec![
                Script::error(500, "oops", "One."),
                Script::error(500, "oops", "Two."),
            ],
            requests: 2,
            ..fails("500 and 500", Script::sse(), "Two.")
        },
        Case {
            scripts: vec![
                Script::hang_up(),
                Script::error(400, "odd", "It is refused."),
            ],
            requests: 2,
            ..fails("it hangs up, then 400", Script::sse(), "It is refused.")
        },
        Case {
            scripts: vec![page(), page()],
            requests: 2,
            ..fails(
                "nothing but web pages",
                page(),
                "The upstream answered with a web page.",
            )
        },
    ];
    cases.extend(odd_answers(kind));
    cases.extend(match kind {
        ApiKind::Responses => vec![
            again(
                "it cuts after response.created",
                ResponsesStream::new().cut(),
            ),
            again(
                "response.failed",
                ResponsesStream::new().failed("server_error", "It broke."),
            ),
            answers(
                "two items of one id",
                ResponsesStream::new()
                    .event(
                        "response.output_item.done",
                        json!({"output_index": 0,
                        "item": {"type": "reasoning", "id": "same", "summary": []}}),
                    )
                    .event(
                        "response.output_item.done",
                        json!({"output_index": 1,
                        "item": {"type": "message", "id": "same", "content": [
                            {"type": "output_text", "text": "Hello!"}]}}),
                    )
                    .event("response.completed", json!({"response": {"id": "resp_up"}}))
                    .stop(),
            ),
            answers("its numbers have gaps and go backwards", gaps()),
            again(
                "a document of an answer that is not there yet",
                Script::json(
                    200,
                    &json!({"id": "resp_up", "status": "in_progress", "output": []}),
                ),
            ),
            fails(
                "response.failed about the prompt",
                ResponsesStream::new().failed("invalid_prompt", "It is refused."),
                "It is refused.",
            ),
        ],
        ApiKind::ChatCompletions => vec![
            again("it cuts after the role", ChatStream::new().cut()),
            again(
                "it calls a tool and names none",
                ChatStream::new().finish("tool_calls"),
            ),
            fails_without_name(),
            answers(
                "another choice, and none",
                ChatStream::new()
                    .raw("data: {\"choices\":[]}\n\n")
                    .text(&["Hel"])
                    .raw("data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\n\n")
                    .text(&["lo!"])
                    .finish("stop"),
            ),
            Case {
                messages: Vec::new(),
                ..answers(
                    "calls in pieces, out of order and without ids",
                    calls_in_pieces(),
                )
            },
            again(
                "an error instead of a chunk",
                ChatStream::new().failed("server_error", "It broke."),
            ),
        ],
    });
    cases
}

fn bad_gateway() -> Script {
    let mut script = Script::sse()
        .header("content-type", "text/plain")
        .raw("bad gateway");
    script.status = 502;
    script
}

/// Answers that are odd, and answers all the same; and some that are none.
fn odd_answers(kind: ApiKind) -> Vec<Case> {
    let again = |name, broken| recovers(name, broken, good(kind));
    let whole_again = |name, broken| recovers(name, broken, whole(kind));
    let usage = |count: &Value| {
        let usage = json!({"prompt_tokens": count, "input_tokens": count, "completion_tokens": count,
            "output_tokens": count, "total_tokens": count});
        with_usage(kind, &usage)
    };
    let redirect = |status| {
        fails(
            "a redirect",
            Script::error(status, "odd", "It is elsewhere.").header("location", "/v1/elsewhere"),
            "It is elsewhere.",
        )
    };
    // The head of a gzip stream, and no more.
    let zipped = Script::sse()
        .header("content-encoding", "gzip")
        .raw(&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..]);
    vec![
        answers("byte by byte", drip(good(kind))),
        answers(
            "as application/json",
            good(kind).header("content-type", "application/json"),
        ),
        answers(
            "as text/html",
            good(kind).header("content-type", "text/html"),
        ),
        answers("after a byte order mark", after("\u{feff}", good(kind))),
        answers("after NULs", after("\0\0\n\n", good(kind))),
        answers(
            "after a comment of 1 MiB",
            after(&format!(":{}\n\n", "x".repeat(1 << 20)), good(kind)),
        ),
        answers(
            "after an event of 1 MiB that says nothing",
            after(
                &format!("data: \"{}\"\n\n", "x".repeat(1 << 20)),
                good(kind),
            ),
        ),
        answers(
            "after half a character",
            after_bytes(b"data: \xf0\x9f\n\n", good(kind)),
        ),
        answers("twice over", twice(good(kind))),
        answers(
            "with an answer behind [DONE]",
            twice(good(kind).done_mark()),
        ),
        answers(
            "with an error behind its end",
            good(kind)
                .done_mark()
                .event("error", &json!({"error": {"message": "Late."}})),
        ),
        answers("as one document", whole(kind)),
        answers(
            "as one document behind white space",
            after("\n\n  ", whole(kind)),
        ),
        answers("with a negative usage", usage(&json!(-5))),
        answers("with a usage beyond measure", usage(&json!(1e300))),
        answers("with a usage of words", usage(&json!("many"))),
        answers(
            "though it cuts behind its end",
            good(kind).done_mark().cut(),
        ),
        answers(
            "though it falls silent behind its end",
            good(kind).done_mark().gate("never"),
        ),
        whole_again("a zipped answer", zipped),
        again(
            "a flat error frame",
            Script::sse()
                .data(&json!({"type": "error", "code": "server_error", "message": "It broke."})),
        ),
        again(
            "an error frame that is a text",
            Script::sse().event("error", &json!({"error": "It broke."})),
        ),
        redirect(301),
        redirect(307),
        redirect(308),
    ]
}

/// The good answer, with a usage as it comes.
fn with_usage(kind: ApiKind, usage: &Value) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new()
            .text(&["Hel", "lo!"])
            .event(
                "response.completed",
                json!({"response": {"status": "completed", "usage": usage}}),
            )
            .stop(),
        ApiKind::ChatCompletions => ChatStream::new()
            .text(&["Hel", "lo!"])
            .finish_without_usage("stop")
            .data(&json!({"choices": [], "usage": usage}))
            .done_mark(),
    }
}

fn fails_without_name() -> Case {
    let nameless = json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]});
    let script = || {
        Script::sse()
            .data(&nameless)
            .data(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}))
    };
    Case {
        scripts: vec![script(), script()],
        requests: 2,
        ..fails(
            "calls without a name, twice",
            Script::sse(),
            "The model called a tool and named none.",
        )
    }
}

fn calls_in_pieces() -> Script {
    let chunk = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
    Script::sse()
        .data(&chunk(json!([{"index": 1, "function": {"name": "b", "arguments": "{"}}])))
        .data(&chunk(json!([{"index": 0, "function": {"arguments": "{}"}}])))
        .data(&chunk(json!([{"index": 0, "function": {"name": "a"}}, {"index": 1, "function": {"arguments": "}"}}])))
        .data(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}))
        .done_mark()
}

/// The good answer with numbers that no stream has.
fn gaps() -> Script {
    let mut script = good(ApiKind::Responses);
    for (at, step) in script.steps.iter_mut().enumerate() {
        if let Step::Send(bytes) = step {
            let text = String::from_utf8_lossy(bytes);
            let odd = format!("\"sequence_number\":{}", [7, 900, 3, 3][at % 4]);
            *bytes = text
                .replace(&format!("\"sequence_number\":{at}"), &odd)
                .into();
        }
    }
    script
}

fn drip(mut script: Script) -> Script {
    let steps = std::mem::take(&mut script.steps);
    for step in steps {
        let Step::Send(bytes) = &step else {
            script.steps.push(step);
            continue;
        };
        script
            .steps
            .extend((0..bytes.len()).map(|at| Step::Send(bytes.slice(at..=at))));
    }
    script
}

fn after(before: &str, script: Script) -> Script {
    after_bytes(before.as_bytes(), script)
}

fn after_bytes(before: &[u8], mut script: Script) -> Script {
    script.steps.insert(0, Step::Send(before.to_vec().into()));
    script
}

fn twice(mut script: Script) -> Script {
    script.steps.extend_from_within(..);
    script
}
