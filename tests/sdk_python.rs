//! OpenAI's Python SDK, validating strictly, against the product: the tests are in `sdk_python/`.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use talaria_testkit::deadline::within_duration;
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
    let Some(python) = tokio::task::spawn_blocking(python).await?? else {
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

    let mut pytest = tokio::process::Command::from(clean(&python));
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

/// A Python that has what requirements.txt asks for, or `None` where there is none and nobody insists.
fn python() -> anyhow::Result<Option<PathBuf>> {
    let version = match Command::new("python3").arg("--version").output() {
        Ok(output) => output,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: python3 cannot be started: {error}");
            return Ok(None);
        }
        Err(error) => return Err(error).context("starting python3, which CI must have"),
    };
    let requirements = sources().join("requirements.txt");
    let mut hasher = DefaultHasher::new();
    std::fs::read(&requirements)?.hash(&mut hasher);
    version.stdout.hash(&mut hasher);
    let home = format!(
        "{}/sdk_python-{:016x}",
        env!("CARGO_TARGET_TMPDIR"),
        hasher.finish()
    );
    install(Path::new(&home), &requirements).map(Some)
}

/// The interpreter of the virtual environment at `home`, which is made if it is not there yet.
fn install(home: &Path, requirements: &Path) -> anyhow::Result<PathBuf> {
    // Tests may be run twice at the same time. The lock ends with the file.
    let lock = File::create(home.with_extension("lock"))?;
    lock.lock()?;
    let python = home.join("bin/python");
    let complete = home.join("complete");
    if !complete.exists() {
        let mut venv = clean(Path::new("python3"));
        venv.args(["-m", "venv", "--clear"]).arg(home);
        succeeded("making a virtual environment", &venv.output()?)?;
        let mut pip = clean(&python);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "-r"]);
        succeeded("installing the SDK", &pip.arg(requirements).output()?)?;
        File::create(complete)?;
    }
    Ok(python)
}

/// A command of `python` without the surroundings' settings for it and for the SDK.
fn clean(python: &Path) -> Command {
    let mut command = Command::new(python);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["OPENAI_", "PYTEST_", "PYTHON"]
            .iter()
            .any(|foreign| text.starts_with(foreign))
        {
            command.env_remove(&name);
        }
    }
    command
}
