//! OpenAI's Python SDK, validating strictly, against the product: the tests are in `sdk_python/`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use talaria_testkit::deadline::within_duration;
use talaria_testkit::foreign::Python;
use talaria_testkit::process::succeeded;
use talaria_testkit::stack::{Options, Stack};

#[path = "sdk_python/scenarios.rs"]
mod scenarios;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const KEY: &str = "the-key-of-the-sdk-tests";
/// For all Python tests together.
const PATIENCE: Duration = Duration::from_mins(2);

/// REQ-91
#[tokio::test]
async fn the_python_sdk_finds_nothing_to_complain_about() -> anyhow::Result<()> {
    let requirements = sources().join("requirements.txt");
    let Some(python) = Python::with(requirements, env!("CARGO_TARGET_TMPDIR")).await? else {
        return Ok(());
    };
    let environment = vec![("TALARIA_API_KEY".to_owned(), KEY.to_owned())];
    let options = Options {
        environment,
        // A failure reaches the SDK as it is, and not as a second answer.
        runs: "on_broken_stream = \"fail\"".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(scenarios::answer);

    let mut pytest = python.command();
    pytest
        .args(["-B", "-m", "pytest"])
        .arg(sources())
        .env("OPENAI_BASE_URL", stack.url("/v1"))
        .env("OPENAI_API_KEY", KEY)
        .kill_on_drop(true);
    let output = within_duration("the Python tests", PATIENCE, pytest.output()).await??;

    succeeded("the Python tests", &output)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk_python")
}
