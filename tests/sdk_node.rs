//! OpenAI's Node SDK, whose helpers are the strictest readers of streams, against the product: the tests are in
//! `sdk_node/`.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use talaria_testkit::deadline::within_duration;
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
    let Some(home) = tokio::task::spawn_blocking(home).await?? else {
        return Ok(());
    };
    let environment = vec![("TALARIA_API_KEY".to_owned(), KEY.to_owned())];
    let options = Options {
        environment,
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(scenarios::answer);

    let mut node = tokio::process::Command::from(clean("node", &home));
    node.arg("--test")
        .args(tests()?)
        .env("OPENAI_BASE_URL", stack.url("/v1"))
        .env("OPENAI_API_KEY", KEY)
        .kill_on_drop(true);
    let output = within_duration("the Node tests", PATIENCE, node.output()).await??;

    succeeded("the Node tests", &output)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk_node")
}

/// The names of the files with tests.
fn tests() -> anyhow::Result<Vec<String>> {
    let mut names = file_names()?;
    names.retain(|name| name.ends_with(".test.mjs"));
    ensure!(!names.is_empty(), "no tests");
    Ok(names)
}

fn file_names() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(sources())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A folder with the tests beside what their lock file asks for, or `None` where there is no Node and nobody insists.
fn home() -> anyhow::Result<Option<PathBuf>> {
    let mut hasher = DefaultHasher::new();
    for program in ["node", "npm"] {
        match Command::new(program).arg("--version").output() {
            Ok(output) => output.stdout.hash(&mut hasher),
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: {program} cannot be started: {error}");
                return Ok(None);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("starting {program}, which CI must have"));
            }
        }
    }
    // Imports are looked for beside the file that has them, so the sources are copied: each content to a folder of its own.
    let names = file_names()?;
    for name in &names {
        std::fs::read(sources().join(name))?.hash(&mut hasher);
    }
    let home = format!(
        "{}/sdk_node-{:016x}",
        env!("CARGO_TARGET_TMPDIR"),
        hasher.finish()
    );
    let home = PathBuf::from(home);
    install(&home, &names)?;
    Ok(Some(home))
}

fn install(home: &Path, names: &[String]) -> anyhow::Result<()> {
    // Tests may be run twice at the same time. The lock ends with the file.
    let lock = File::create(home.with_extension("lock"))?;
    lock.lock()?;
    let complete = home.join("complete");
    if !complete.exists() {
        std::fs::create_dir_all(home)?;
        for name in names {
            std::fs::copy(sources().join(name), home.join(name))?;
        }
        let mut npm = clean("npm", home);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        succeeded("installing the SDK", &npm.output()?)?;
        File::create(complete)?;
    }
    Ok(())
}

/// A command in `home` without the surroundings' settings for Node and for the SDK.
fn clean(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(home);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["OPENAI_", "NODE_OPTIONS", "NODE_TEST_"]
            .iter()
            .any(|foreign| text.starts_with(foreign))
        {
            command.env_remove(&name);
        }
    }
    command
}
