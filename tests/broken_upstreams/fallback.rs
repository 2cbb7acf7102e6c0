//! An agent with more than one upstream.

use std::time::Duration;

use serde_json::json;
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, Script, Upstream};

use crate::something_shown::so_far;
use crate::{TALARIA, good, messages};

/// A stack whose agent `two` asks `first` and then, by the other API, the stack's own upstream.
async fn stack(first: &Upstream) -> anyhow::Result<Stack> {
    let options = Options {
        kind: ApiKind::ChatCompletions,
        upstream: format!(
            "max_retries = 1\n\
             [[agents]]\nname = \"two\"\nupstream = [\"first\", \"main\"]\nmodel = \"scripted\"\n\
             [upstreams.first]\nkind = \"responses\"\nbase_url = \"{}\"\nmax_retries = 1",
            first.base_url()
        ),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

#[tokio::test]
async fn what_the_first_upstream_cannot_do_the_next_one_does() -> anyhow::Result<()> {
    let first = Upstream::start().await?;
    let stack = stack(&first).await?;
    let oops = || Script::error(500, "oops", "It broke.");
    let table = [
        ("500 twice", vec![oops(), oops()]),
        ("401", vec![Script::error(401, "key", "No.")]),
        ("404", vec![Script::error(404, "model", "No such model.")]),
    ];
    for (name, scripts) in table {
        let (asked, expected) = (first.requests().len(), scripts.len());
        for script in scripts {
            first.push(script);
        }
        stack.upstream.push(good(ApiKind::ChatCompletions));

        let response = stack
            .create_json(&json!({"model": "two", "input": "hi"}))
            .await?;

        assert_eq!(messages(&response), [("completed", "Hello!")], "{name}");
        assert_eq!(first.requests().len() - asked, expected, "{name}");
    }
    first.push(Script::error(400, "odd", "It is refused."));

    let refused = stack
        .create_json(&json!({"model": "two", "input": "hi"}))
        .await?;

    assert_eq!(refused["error"]["message"], "It is refused.");
    assert_eq!(stack.upstream.requests().len(), 3);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_broke_off_is_gone_on_with_by_the_next_upstream_if_the_first_is_gone()
-> anyhow::Result<()> {
    let first = Upstream::start().await?;
    let stack = stack(&first).await?;
    first.push(so_far(ApiKind::Responses).cut());
    first.push(Script::hang_up());
    stack
        .upstream
        .push(ChatStream::new().text(&["And on."]).finish("stop"));

    let frames = stack
        .stream(&json!({"model": "two", "input": "hi"}))
        .await?
        .collect()
        .await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let expected = [("incomplete", "So far"), ("completed", "And on.")];
    assert_eq!(messages(&seen.response), expected);
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_fails_again_and_again_is_left_alone() -> anyhow::Result<()> {
    let first = Upstream::start().await?;
    let stack = stack(&first).await?;
    first.choose(|_| Some(Script::hang_up()));
    stack
        .upstream
        .choose(|_| Some(good(ApiKind::ChatCompletions)));
    let began = std::time::Instant::now();

    for _ in 0..6 {
        let response = stack
            .create_json(&json!({"model": "two", "input": "hi"}))
            .await?;
        assert_eq!(response["status"], "completed", "{response}");
    }

    // Afterwards one call tries again, which a slow machine may come to.
    if began.elapsed() < Duration::from_secs(10) {
        assert_eq!(first.requests().len(), 5);
    }
    Ok(())
}
