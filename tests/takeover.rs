//! Runs whose orchestrator is gone, frozen, cut off, or asked to stop: another one goes on with them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::{PrivatePostgres, Session};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const POLL: Duration = Duration::from_millis(20);

/// Places of the processes of [`two_orchestrators`].
const STORE: usize = 0;
const ORCHESTRATORS: [usize; 2] = [1, 2];

fn two_orchestrators(runs: &str) -> Options {
    Options {
        orchestrators: 2,
        runs: runs.to_owned(),
        ..Options::default()
    }
}

/// Two orchestrators that watch each other.
async fn stack(options: Options) -> anyhow::Result<Stack> {
    let stack = Stack::apart(TALARIA, options).await?;
    for orchestrator in ORCHESTRATORS {
        stack.processes[orchestrator]
            .wait_for_line(|line| line.contains("watching another orchestrator"))
            .await?;
    }
    Ok(stack)
}

/// A reply that never goes on after its second delta.
fn held_reply() -> Script {
    ResponsesStream::new()
        .open_text()
        .deltas(&["one ", "two "])
        .gate("never")
        .stop()
}

fn rest() -> Script {
    ResponsesStream::new().text(&["three"]).completed()
}

/// A run that was shown as far as "two ".
struct Held {
    reader: Reader,
    frames: Vec<Frame>,
    id: String,
}

impl Held {
    async fn begin(stack: &Stack) -> anyhow::Result<Self> {
        stack.upstream.push(held_reply());
        let mut reader = stack.stream(&json!({"input": "count"})).await?;
        let frames = reader
            .until(|frame| frame.json()["delta"] == "two ")
            .await?;
        let id = frames[0].json()["response"]["id"].clone();
        let id = id.as_str().context("no id in the first event")?.to_owned();
        Ok(Self { reader, frames, id })
    }

    /// Reads the next event; answers how long that took.
    async fn next_event(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.frames.extend(self.reader.until(|_| true).await?);
        Ok(began.elapsed())
    }

    /// Reads the rest, and expects that another process went on once.
    async fn expect_the_rest(mut self, attempts: usize) -> anyhow::Result<Vec<Frame>> {
        self.frames.extend(self.reader.collect().await?);
        let seen = check::stream(&self.frames).map_err(anyhow::Error::msg)?;
        assert_eq!(
            (seen.status.as_str(), seen.text.as_str()),
            ("completed", "one two three")
        );
        assert_eq!(seen.attempts, attempts);
        Ok(self.frames)
    }
}

/// The place of the process that has the run, and that of the other.
async fn owner(stack: &Stack, session: &Session, id: &str) -> anyhow::Result<(usize, usize)> {
    const SQL: &str = "
        SELECT o.address
        FROM response r
        JOIN orchestrator o ON o.incarnation = r.owner
        WHERE r.id::text = $1";
    let address: String = session.query_one(SQL, &[&uuid(id)?]).await?.get(0);
    let [first, second] = ORCHESTRATORS;
    Ok(if stack.url_of(first)? == address {
        (first, second)
    } else {
        ensure!(
            stack.url_of(second)? == address,
            "{address} is nobody's address"
        );
        (second, first)
    })
}

/// The id of a response as the database spells it.
fn uuid(id: &str) -> anyhow::Result<String> {
    let digits = id.strip_prefix("resp_").context("no id of a response")?;
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    Ok(parts.join("-"))
}

async fn session(stack: &Stack) -> anyhow::Result<Session> {
    let database = stack.database().context("no database of its own")?;
    database.connect().await
}

#[tokio::test]
async fn a_process_that_starts_is_watched_before_the_store_tells_of_it() -> anyhow::Result<()> {
    const RENEWED: &str = "SELECT count(*) FROM orchestrator WHERE renewed_at > unbroken_since";

    let stack = stack(two_orchestrators("lease_seconds = 60")).await?;

    // The store tells of others when a lease is renewed: the first did not know of the second when it registered.
    let renewed: i64 = session(&stack).await?.query_one(RENEWED, &[]).await?.get(0);
    assert_eq!(renewed, 0);
    Ok(())
}

/// REQ-14
#[tokio::test]
async fn who_sees_that_a_process_is_gone_does_not_wait_for_its_lease() -> anyhow::Result<()> {
    let mut stack = stack(two_orchestrators("lease_seconds = 20")).await?;
    let session = session(&stack).await?;
    let mut held = Held::begin(&stack).await?;
    let (owner, _) = owner(&stack, &session, &held.id).await?;
    stack.upstream.push(rest());

    stack.processes[owner].kill9().await?;
    let took = held.next_event().await?;

    held.expect_the_rest(2).await?;
    eprintln!("the next event came after {took:?}");
    ensure!(
        took < Duration::from_secs(5),
        "it took {took:?}, of a lease of 20 s"
    );
    Ok(())
}

#[tokio::test]
async fn a_process_that_starts_where_another_died_goes_on_at_once() -> anyhow::Result<()> {
    let options = Options {
        runs: "lease_seconds = 20".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::apart(TALARIA, options).await?;
    let held = Held::begin(&stack).await?;
    stack.upstream.push(rest());
    let listen = stack.url_of(ORCHESTRATORS[0])?;
    let listen = listen.trim_start_matches("http://").to_owned();

    stack.processes[ORCHESTRATORS[0]].kill9().await?;
    let store = stack.url_of(STORE)?;
    stack.start_orchestrator(&store, &listen).await?;

    held.expect_the_rest(2).await?;
    Ok(())
}

/// REQ-53
#[tokio::test]
async fn a_process_that_stops_hands_its_runs_over() -> anyhow::Result<()> {
    let runs = "lease_seconds = 20\ndrain_seconds = 1";
    let mut stack = stack(two_orchestrators(runs)).await?;
    let session = session(&stack).await?;
    let mut held = Held::begin(&stack).await?;
    let (owner, _) = owner(&stack, &session, &held.id).await?;
    stack.upstream.push(rest());

    stack.processes[owner].terminate()?;
    stack.processes[owner]
        .wait_for_line(|line| line.contains("released the run"))
        .await?;
    let took = held.next_event().await?;

    held.expect_the_rest(2).await?;
    eprintln!("the next event came after {took:?}");
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    stack.processes[owner].wait_for_success().await?;
    let attempt: i32 = session
        .query_one("SELECT attempt FROM response", &[])
        .await?
        .get(0);
    assert_eq!(attempt, 1, "nobody died of it");
    Ok(())
}

/// An orchestrator without a store has the most room, and can begin nothing.
#[tokio::test]
async fn runs_begin_where_there_is_a_store() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    let (store, well) = (stack.url_of(STORE)?, stack.url_of(ORCHESTRATORS[0])?);
    let lost = stack
        .start_orchestrator("http://127.0.0.1:1", "127.0.0.1:0")
        .await?;
    let both = format!("{lost},{well}");
    let gateway = stack.start_gateway(&store, &both, "127.0.0.1:0").await?;
    stack.gateways = vec![gateway];

    let channel = Endpoint::new(lost)?.connect().await?;
    let health = HealthCheckRequest::default();
    let health = HealthClient::new(channel).check(health).await?;
    assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
    for _ in 0..4 {
        stack.upstream.push(rest());
        let began = Instant::now();
        let created = stack.create(&json!({"input": "count"})).await?;
        assert_eq!(created.status(), 200);
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(4), "it took {took:?}");
    }
    Ok(())
}

/// A stack whose agent has the scripted MCP server, which writes down what it is asked in a log.
fn with_tools(runs: &str, directory: &Path) -> (Options, PathBuf) {
    let log = directory.join("log");
    let options = Options {
        agent: "mcp_servers = [\"scripted\"]".to_owned(),
        upstream: format!(
            "[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [\"{SERVER}\"]\n\
             env = {{ MCP_LOG = \"{}\", MCP_GATE = \"{}\" }}\n",
            log.display(),
            directory.join("gate").display(),
        ),
        ..two_orchestrators(runs)
    };
    (options, log)
}

/// How often the MCP server was asked to run a tool.
fn times_called(log: &Path) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["method"] == "tools/call")
        .count()
}

/// REQ-14
#[tokio::test]
async fn a_process_that_was_frozen_past_its_lease_changes_nothing() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (options, log) = with_tools("lease_seconds = 2", directory.path());
    let mut stack = stack(options).await?;
    let session = session(&stack).await?;
    stack.upstream.push(
        ResponsesStream::new()
            .function_call("call_a", "gate", &["{}"])
            .completed(),
    );
    stack.upstream.push(rest());
    let mut reader = stack.stream(&json!({"input": "do it once"})).await?;
    let mut frames = reader.until(|frame| is_intent(&frame.json())).await?;
    within("the call", async {
        while times_called(&log) == 0 {
            tokio::time::sleep(POLL).await;
        }
    })
    .await?;
    let id = frames[0].json()["response"]["id"].clone();
    let id = id.as_str().context("no id in the first event")?.to_owned();
    let (owner, _) = owner(&stack, &session, &id).await?;

    stack.processes[owner].freeze()?;
    frames.extend(reader.collect().await?);
    std::fs::write(directory.path().join("gate"), "")?;
    stack.processes[owner].thaw()?;
    stack.processes[owner]
        .wait_for_line(|line| line.contains("lost the run"))
        .await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str(), seen.attempts),
        ("completed", "three", 2)
    );
    assert_eq!(stack.replay(&id, None).await?.collect().await?, frames);
    assert_eq!(times_called(&log), 1);
    assert_eq!(stack.upstream.requests().len(), 2);
    Ok(())
}

/// Whether an event says that a call of a tool of the server's begins.
fn is_intent(event: &Value) -> bool {
    event["type"] == "response.output_item.added" && event["item"]["type"] == "function_call_output"
}

#[tokio::test]
async fn an_outage_of_the_database_moves_no_run() -> anyhow::Result<()> {
    const LEASE: Duration = Duration::from_secs(2);
    let mut postgres = PrivatePostgres::start().await?;
    let options = Options {
        database_url: Some(postgres.url()),
        ..two_orchestrators("lease_seconds = 2")
    };
    let stack = stack(options).await?;
    let reply = ResponsesStream::new()
        .open_text()
        .deltas(&["one ", "two "])
        .gate("rest")
        .deltas(&["three"])
        .close()
        .completed();
    stack.upstream.push(reply);
    let mut reader = stack.stream(&json!({"input": "count"})).await?;
    let frames = reader
        .until(|frame| frame.json()["delta"] == "two ")
        .await?;
    let held = Held {
        id: String::new(),
        reader,
        frames,
    };

    postgres.kill9().await?;
    // What is waited for is that all leases have run out.
    tokio::time::sleep(LEASE * 2).await;
    postgres.restart().await?;
    stack.upstream.open("rest");

    held.expect_the_rest(1).await?;
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

/// Whoever had it may hold what the request's MCP servers were given.
#[tokio::test]
async fn a_run_that_was_decided_goes_back_to_the_process_that_had_it() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (mut options, _) = with_tools("lease_seconds = 20", directory.path());
    options
        .agent
        .push_str("\nrequire_approval = [\"once_effect\"]");
    let stack = stack(options).await?;
    let session = session(&stack).await?;
    for turn in 0..4 {
        let call = ResponsesStream::new().function_call("call_a", "once_effect", &["{}"]);
        stack.upstream.push(call.completed());
        stack.upstream.push(held_reply());
        let started = stack.http.post(stack.url("/v1/runs"));
        let started = started.json(&json!({"input": "do it"})).send().await?;
        let started: Value = started.error_for_status()?.json().await?;
        let run = started["run_id"].as_str().context("no id")?.to_owned();
        let before = within("a run that waits", owner_when(&session, &run, true)).await??;

        let approve = format!("{}/v1/runs/{run}/approval", stack.gateways[turn % 2]);
        let approved = stack.http.post(approve).json(&json!({"choice": "once"}));
        approved.send().await?.error_for_status()?;

        let after = within("its owner", owner_when(&session, &run, false)).await??;
        assert_eq!(after, before);
        // Each run has its own scripts.
        stack.upstream.request(2 * turn + 1).await?;
    }
    Ok(())
}

/// Who had the run, once it waits; or who has it, once it does not.
async fn owner_when(session: &Session, run: &str, waits: bool) -> anyhow::Result<String> {
    const SQL: &str = "
        SELECT CASE WHEN $2 THEN last_owner ELSE owner END::text
        FROM response
        WHERE id::text = $1
          AND (waits_until IS NOT NULL AND owner IS NULL) = $2
          AND (waits_until IS NOT NULL) = $2
          AND CASE WHEN $2 THEN last_owner ELSE owner END IS NOT NULL";
    let id = uuid(&run.replacen("run_", "resp_", 1))?;
    loop {
        if let Some(row) = session.query(SQL, &[&id, &waits]).await?.first() {
            return Ok(row.get(0));
        }
        tokio::time::sleep(POLL).await;
    }
}
