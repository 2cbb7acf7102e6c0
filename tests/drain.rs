//! An orchestrator that is asked to stop, and what becomes of its runs meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::Session;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const ORCHESTRATOR: usize = 1;
const POLL: Duration = Duration::from_millis(20);

/// REQ-53
#[tokio::test]
async fn a_draining_orchestrator_keeps_its_lease_for_as_long_as_it_has_runs() -> anyhow::Result<()>
{
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::apart(TALARIA, options).await?;
    let database = stack.database().context("no database of its own")?;
    let session = database.connect().await?;
    let reply = ResponsesStream::new()
        .open_text()
        .deltas(&["before "])
        .gate("rest")
        .deltas(&["after"])
        .close()
        .completed();
    stack.upstream.push(reply);
    let mut reader = stack.stream(&json!({"input": "hi"})).await?;
    let mut frames = reader
        .until(|frame| frame.json()["delta"] == "before ")
        .await?;

    stack.processes[ORCHESTRATOR].terminate()?;
    stack.processes[ORCHESTRATOR]
        .wait_for_line(|line| line.contains("stopping"))
        .await?;
    within("renewals after SIGTERM", lease_is_renewed(&session)).await??;
    stack.upstream.open("rest");
    frames.extend(reader.collect().await?);

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.text, "before after");
    stack.processes[ORCHESTRATOR].wait_for_success().await?;
    let leases = session
        .query("SELECT FROM orchestrator WHERE ended_at IS NULL", &[])
        .await?;
    assert_eq!(leases.len(), 0);
    Ok(())
}

/// Waits until the only lease was renewed by someone who began to do so after this was called.
async fn lease_is_renewed(session: &Session) -> anyhow::Result<()> {
    const SQL: &str = "SELECT lease_until::text FROM orchestrator";
    let mut seen = BTreeSet::new();
    // One renewal may be under way already, so it takes two.
    while seen.len() < 3 {
        seen.insert(session.query_one(SQL, &[]).await?.get::<_, String>(0));
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
