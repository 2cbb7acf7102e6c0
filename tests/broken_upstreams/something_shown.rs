//! Upstreams that break after something was shown.

use serde_json::json;
use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::case::{Case, fails, goes_on};
use crate::{good, too_long, whole};

/// What every kind of upstream does after "So far".
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn cases(kind: ApiKind) -> Vec<Case> {
    let on = |name, broken| goes_on(name, broken, good(kind), "So far");
    let error = |code: &str, error_type: &str| {
        let error =
            json!({"message": "It broke.", "type": error_type, "code": code, "param": null});
        so_far(kind).data(&json!({"type": "error", "error": error}))
    };
    let mut cases = vec![
        on("it cuts", so_far(kind).cut()),
        on(
            "it cuts within a frame",
            so_far(kind).raw("data: {\"ty").cut(),
        ),
        on("it falls silent", so_far(kind).gate("never")),
        on("an error frame", error("server_error", "server_error")),
        on(
            "an error frame of an odd code",
            error("overloaded", "overloaded_error"),
        ),
        on(
            "a flat error frame",
            so_far(kind)
                .data(&json!({"type": "error", "message": "It broke.", "code": "server_error"})),
        ),
        Case {
            messages: vec![("incomplete", "So far")],
            ..fails(
                "an error frame about the request",
                error("context_length_exceeded", "invalid_request_error"),
                "It broke.",
            )
        },
        on(
            "it falls silent within a frame",
            so_far(kind).raw("data: {\"ty").gate("never"),
        ),
        on(
            "it falls silent after a comment",
            so_far(kind).raw(": hi\n\n").gate("never"),
        ),
        on(
            "what is no JSON, then it cuts",
            so_far(kind).raw("data: <html>\n\n").cut(),
        ),
        Case {
            messages: vec![("incomplete", "So far")],
            ..fails(
                "an event without end",
                too_long(so_far(kind)),
                "The upstream sent an event that is too long.",
            )
        },
        Case {
            scripts: vec![
                so_far(kind).cut(),
                Script::error(400, "odd", "It is refused."),
            ],
            messages: vec![("incomplete", "So far")],
            requests: 2,
            ..fails("it cuts, then 400", Script::sse(), "It is refused.")
        },
        Case {
            scripts: vec![so_far(kind).cut(), whole(kind)],
            ..on("it cuts, then answers in one document", Script::sse())
        },
        Case {
            scripts: vec![so_far(kind).cut(), so_far(kind).cut()],
            messages: vec![("incomplete", "So far"), ("incomplete", "So far")],
            requests: 2,
            ..fails(
                "it cuts each time",
                Script::sse(),
                "The connection to the upstream broke.",
            )
        },
        Case {
            scripts: vec![
                so_far(kind).cut(),
                Script::error(500, "oops", "Two."),
                good(kind),
            ],
            requests: 3,
            ..on("it cuts, then 500", Script::sse())
        },
        Case {
            messages: vec![("completed", "So far")],
            requests: 1,
            ..on("it ends without saying so", so_far(kind))
        },
    ];
    cases.extend(in_between(kind));
    cases.extend(match kind {
        ApiKind::Responses => vec![
            on(
                "response.failed",
                open_text().failed("server_error", "It broke."),
            ),
            Case {
                messages: vec![("completed", "So far")],
                ..fails(
                    "response.failed after a whole message",
                    ResponsesStream::new()
                        .text(&["So far"])
                        .failed("server_error", "It broke."),
                    "It broke.",
                )
            },
            Case {
                messages: vec![("completed", "So far")],
                requests: 1,
                ..on(
                    "it cuts after a whole message",
                    ResponsesStream::new().text(&["So far"]).cut(),
                )
            },
            Case {
                messages: Vec::new(),
                requests: 1,
                ..on(
                    "it cuts after a whole call of the client's",
                    ResponsesStream::new()
                        .function_call("call_a", "look", &["{}"])
                        .cut(),
                )
            },
            Case {
                messages: vec![("completed", "Hello!")],
                ..on(
                    "it cuts within a call",
                    ResponsesStream::new()
                        .begin_item(
                            &json!({"type": "function_call", "id": "fc_1", "call_id": "call_a",
                            "name": "look", "arguments": ""}),
                        )
                        .cut(),
                )
            },
            Case {
                messages: vec![("completed", "Hello!")],
                ..on(
                    "it ends without saying so before a call's arguments",
                    ResponsesStream::new()
                        .begin_item(
                            &json!({"type": "function_call", "id": "fc_1", "call_id": "call_a",
                            "name": "look", "arguments": ""}),
                        )
                        .stop(),
                )
            },
            Case {
                messages: vec![("completed", "Hello!")],
                ..on(
                    "it cuts within its reasoning",
                    ResponsesStream::new()
                        .begin_item(&json!({"type": "reasoning", "id": "rs_1", "summary": []}))
                        .cut(),
                )
            },
        ],
        ApiKind::ChatCompletions => vec![
            Case {
                messages: vec![("completed", "Hello!")],
                ..on(
                    "it cuts within its reasoning",
                    ChatStream::new().reasoning(&["hm"]).cut(),
                )
            },
            on(
                "a chunk with an error",
                ChatStream::new()
                    .text(&["So far"])
                    .failed("server_error", "It broke."),
            ),
        ],
    });
    cases
}

/// A stream that has said "So far", and does not go on.
pub fn so_far(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => open_text().stop(),
        ApiKind::ChatCompletions => ChatStream::new().text(&["So ", "far"]).stop(),
    }
}

fn open_text() -> ResponsesStream {
    ResponsesStream::new().open_text().deltas(&["So ", "far"])
}

/// What upstreams say in the middle of a text, and it says nothing.
fn in_between(kind: ApiKind) -> Vec<Case> {
    let table = [
        ("a comment", ": hi\n\n"),
        ("nothing but blank lines", "\n\r\n\r\n\n"),
        ("an id and a time to retry", "id: 5\nretry: 10\n\n"),
        ("an event without data", "event: ping\n\n"),
        ("null", "data: null\n\n"),
        ("a list", "data: [1,2]\n\n"),
        ("an empty object", "data: {}\n\n"),
        ("a web page", "data: <html>\n\n"),
        ("half an object", "data: {\"type\":\"respo\n\n"),
        ("NULs", "\0\0\n\n"),
        (
            "an object of unknown members",
            "data: {\"type\":\"x\",\"y\":{\"z\":[{}]}}\n\n",
        ),
        (
            "an event of another kind",
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        ),
        (
            "an error that is null",
            "data: {\"type\":\"x\",\"error\":null}\n\n",
        ),
    ];
    let said = |between: &'static str| match kind {
        ApiKind::Responses => open_text()
            .raw(between)
            .deltas(&[" on."])
            .close()
            .completed(),
        ApiKind::ChatCompletions => ChatStream::new()
            .text(&["So ", "far"])
            .raw(between)
            .text(&[" on."])
            .finish("stop"),
    };
    let case = |(name, between)| Case {
        messages: vec![("completed", "So far on.")],
        requests: 1,
        ..goes_on(name, said(between), Script::sse(), "So far")
    };
    table.into_iter().map(case).collect()
}
