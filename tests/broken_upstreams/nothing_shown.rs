//! Upstreams that break before anything was shown.

use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::case::{Case, fails, recovers};
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
            fails(
                "response.failed about the prompt",
                ResponsesStream::new().failed("invalid_prompt", "It is refused."),
                "It is refused.",
            ),
        ],
        ApiKind::ChatCompletions => vec![
            again("it cuts after the role", ChatStream::new().cut()),
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
