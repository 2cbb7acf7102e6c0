//! OpenAI's Node SDK, whose helpers are the strictest readers of streams, against the product: the tests are in
//! `sdk_node/`.

use std::path::Path;
use std::time::Duration;

use talaria_testkit::deadline::within_duration;
use talaria_testkit::foreign::Node;
use talaria_testkit::process::succeeded;
use talaria_testkit::stack::{Options, Stack};

#[path = "sdk_python/scenarios.rs"]
mod scenarios;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const KEY: &str = "the-key-of-the-sdk-tests";
/// For all Node tests together.
const PATIENCE: Duration = Duration::from_mins(1);

/// REQ-91
#[tokio::test]
async fn the_node_sdk_finds_nothing_to_complain_about() -> anyhow::Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk_node");
    let Some(node) = Node::with(sources.clone(), env!("CARGO_TARGET_TMPDIR")).await? else {
        return Ok(());
    };
    let environment = vec![("TALARIA_API_KEY".to_owned(), KEY.to_owned())];
    let options = Options {
        environment,
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(scenarios::answer);

    let mut tests = node.tests(&sources)?;
    tests
        .env("OPENAI_BASE_URL", stack.url("/v1"))
        .env("OPENAI_API_KEY", KEY)
        .kill_on_drop(true);
    let output = within_duration("the Node tests", PATIENCE, tests.output()).await??;

    succeeded("the Node tests", &output)
}
