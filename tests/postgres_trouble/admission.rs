//! Admissions that the store leaves without an answer.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use talaria_testkit::deadline::within;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;

use crate::support::{expect_unavailable, post};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const STORE: usize = 0;

/// Within which a client is told by the orchestrator, rather than by a façade that gave up.
const TOLD: Duration = Duration::from_secs(18);

#[tokio::test]
async fn while_the_store_is_frozen_clients_are_told_the_truth_in_time() -> anyhow::Result<()> {
    let options = Options {
        // Those that wait for the store do not keep others from it.
        runs: "lease_seconds = 60\nmax_starting = 1".into(),
        ..Options::default()
    };
    let mut stack = Stack::apart(TALARIA, options).await?;
    stack
        .upstream
        .choose(|_| Some(ResponsesStream::new().text(&["x"]).completed()));
    let first = stack
        .create_json(&json!({"input": "1", "conversation": "c"}))
        .await?;

    stack.processes[STORE].freeze()?;
    let asked = Instant::now();
    let bodies = [
        json!({"input": "2"}),
        json!({"input": "2", "stream": true}),
        json!({"input": "2", "previous_response_id": first["id"]}),
        json!({"input": "2", "conversation": "c"}),
    ];
    let without_key = bodies.iter().map(|body| post(&stack, body));
    let with_key = bodies
        .iter()
        .zip(0..)
        .map(|(body, n)| post(&stack, body).header("Idempotency-Key", format!("key-{n}")));
    let all = without_key.chain(with_key).map(expect_unavailable);
    futures::future::try_join_all(all).await?;
    ensure!(asked.elapsed() < TOLD, "told after {:?}", asked.elapsed());
    stack.processes[STORE].thaw()?;

    // What had a key is found by it or is made, once; of the rest nothing stays.
    let again = post(&stack, &bodies[0]).header("Idempotency-Key", "key-0");
    let again: Value = again.send().await?.error_for_status()?.json().await?;
    assert_eq!(again["status"], "completed");
    within("what was refused to be gone", async {
        while !stack.rows().await?.contains(&"2 in response".to_owned()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })
    .await?
}
