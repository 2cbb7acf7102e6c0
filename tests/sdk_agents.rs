//! Frameworks for agents, against agents whose tools the server runs: the tests are in `sdk_agents/`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::foreign::{Node, Python};
use talaria_testkit::process::succeeded;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::Upstream;
use tempfile::TempDir;

#[path = "sdk_agents/model.rs"]
mod model;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");
const KEY: &str = "the-key-of-the-sdk-tests";
/// For all tests of one language together.
const PATIENCE: Duration = Duration::from_mins(2);

/// REQ-91
#[tokio::test]
async fn the_openai_agents_sdk_drives_agents_with_tools_of_their_own() -> anyhow::Result<()> {
    let requirements = in_tests("sdk_python/requirements.txt");
    let Some(python) = Python::with(requirements, FOLDER).await? else {
        return Ok(());
    };
    let mut pytest = python.command();
    pytest
        .args(["-B", "-m", "pytest"])
        .arg(in_tests("sdk_agents"));

    succeed("the Python tests", pytest).await
}

/// REQ-91
#[tokio::test]
async fn the_ai_sdk_drives_agents_with_tools_of_their_own() -> anyhow::Result<()> {
    let Some(node) = Node::with(in_tests("sdk_node"), FOLDER).await? else {
        return Ok(());
    };
    let tests = node.tests(&in_tests("sdk_agents"))?;

    succeed("the Node tests", tests).await
}

/// The programs in docs/clients.md print what stands below them.
#[tokio::test]
async fn programs_that_the_docs_show_run_against_the_demo() -> anyhow::Result<()> {
    let requirements = in_tests("sdk_python/requirements.txt");
    let python = Python::with(requirements, FOLDER).await?;
    let node = Node::with(in_tests("sdk_node"), FOLDER).await?;
    let (Some(python), Some(node)) = (python, node) else {
        return Ok(());
    };
    let options = Options {
        runs: "[[agents]]\nname = \"hermes-agent\"\nupstream = \"toy\"".to_owned(),
        upstream: "[upstreams.toy]\nkind = \"demo\"".to_owned(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let docs = std::fs::read_to_string(in_tests("../docs/clients.md"))?;
    let docs = docs.replace("http://127.0.0.1:8642", &stack.gateways[0]);
    let directory = TempDir::new()?;

    let (program, expected) = shown(&docs, "python")?;
    let file = directory.path().join("program.py");
    std::fs::write(&file, program)?;
    let said = printed("the Python program", python.command().arg(&file)).await?;
    assert_eq!(said, expected);

    let (program, expected) = shown(&docs, "js")?;
    let file = directory.path().join("program.mjs");
    std::fs::write(&file, program)?;
    let mut command = node.program(directory.path())?;
    let said = printed("the Node program", &mut command).await?;
    assert_eq!(said, expected);
    Ok(())
}

/// The block of code in `language`, and the block after it, which is what it prints.
fn shown<'a>(docs: &'a str, language: &str) -> anyhow::Result<(&'a str, &'a str)> {
    let fence = format!("\n```{language}\n");
    let (_, program) = docs.split_once(&fence).context("no such block")?;
    let (program, rest) = program.split_once("```\n```\n").context("no end")?;
    let (printed, _) = rest.split_once("```\n").context("no end of the output")?;
    Ok((program, printed))
}

async fn printed(what: &str, program: &mut tokio::process::Command) -> anyhow::Result<String> {
    let output = within_duration(what, PATIENCE, program.kill_on_drop(true).output()).await??;
    succeeded(what, &output)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `tests` against a server of their own.
///
/// `MCP_LOG` tells them what the server's tools were asked, `AGENTS` the names of the agents: one for each kind of upstream.
/// A third, `careful`, asks people first.
async fn succeed(what: &str, mut tests: tokio::process::Command) -> anyhow::Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let chat = Upstream::start().await?;
    let options = Options {
        agent: "mcp_servers = [\"scripted\"]".to_owned(),
        upstream: format!(
            "[upstreams.chat]\nkind = \"chat_completions\"\nbase_url = \"{}\"\n\
             [[agents]]\nname = \"chatting\"\nmodel = \"scripted\"\nupstream = \"chat\"\nmcp_servers = [\"scripted\"]\n\
             [[agents]]\nname = \"careful\"\nmodel = \"scripted\"\nupstream = \"main\"\nmcp_servers = [\"scripted\"]\n\
             require_approval = [\"once_effect\"]\n\
             [mcp_servers.scripted]\ncommand = \"python3\"\nargs = [\"{}\"]\nenv = {{ MCP_LOG = \"{}\" }}\n",
            chat.base_url(),
            in_tests("mcp/server.py").display(),
            log.display(),
        ),
        environment: vec![("TALARIA_API_KEY".to_owned(), KEY.to_owned())],
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.choose(model::responses);
    chat.choose(model::chat_completions);

    tests
        .env("OPENAI_BASE_URL", stack.url("/v1"))
        .env("OPENAI_API_KEY", KEY)
        .env("AGENTS", "agent chatting")
        .env("MCP_LOG", &log)
        .kill_on_drop(true);
    let output = within_duration(what, PATIENCE, tests.output()).await??;

    succeeded(what, &output)
}

fn in_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}
