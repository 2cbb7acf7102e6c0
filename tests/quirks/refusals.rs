//! Upstreams that refuse, whatever their API.

use talaria_testkit::upstream::Script;

use crate::case::{Case, failed};

/// Upstreams that do not even begin.
pub fn cases() -> Vec<Case> {
    vec![
        failed(
            "500",
            Script::error(500, "oops", "It broke."),
            "",
            "server_error",
            "It broke.",
        ),
        failed(
            "401",
            Script::error(
                401,
                "invalid_api_key",
                "Incorrect API key provided: sk-of-the-upstream-0123456789.",
            ),
            "",
            "server_error",
            "The upstream refused the server's credentials.",
        ),
        failed(
            "429",
            Script::error(429, "slow_down", "Slow down.").header("retry-after", "7"),
            "",
            "rate_limit_exceeded",
            "Slow down.",
        ),
        failed(
            "400 that repeats the key",
            Script::error(
                400,
                "bad",
                "No model for sk-of-the-upstream-0123456789 here.",
            ),
            "",
            "server_error",
            "No model for … here.",
        ),
        failed(
            "a web page",
            Script::sse()
                .header("content-type", "text/html")
                .raw("<html>hi</html>"),
            "",
            "server_error",
            "The upstream answered with a web page.",
        ),
        failed(
            "no answer at all",
            Script::hang_up(),
            "",
            "server_error",
            "The connection to the upstream broke.",
        ),
    ]
}
