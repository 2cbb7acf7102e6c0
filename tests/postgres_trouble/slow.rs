//! A database that is slow, or in which somebody is in the way.

use std::time::Duration;

use serde_json::json;
use talaria_testkit::postgres::{PrivatePostgres, Proxy, TestDatabase};
use talaria_testkit::upstream::ResponsesStream;

use crate::support::{Held, ended, expect_shown, stack_on};

/// What the store's sessions are served by.
const SESSIONS: &str = "SELECT pid FROM pg_stat_activity WHERE application_name = 'talaria'";

#[tokio::test]
async fn a_table_that_somebody_locks_for_three_seconds_is_waited_for() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let stack = stack_on(database.url.clone()).await?;
    let (response, frames) = ended(&stack).await?;
    let held = Held::begin(&stack, &["during, "]).await?;
    let script = ResponsesStream::new().text(&["late"]);
    stack.upstream.push(script.completed());
    let locker = database.connect().await?;
    locker
        .batch_execute("BEGIN; LOCK TABLE response IN ACCESS EXCLUSIVE MODE")
        .await?;

    stack.upstream.open("during");
    let unlock = async {
        let unlocking = locker.batch_execute("SELECT pg_sleep(3); COMMIT");
        Ok(unlocking.await?)
    };
    let create = async { stack.create_json(&json!({"input": "2"})).await };
    let shown = expect_shown(&stack, &response, &frames);
    let ((), created, ()) = tokio::try_join!(unlock, create, shown)?;

    assert_eq!(created["status"], "completed");
    held.expect_whole(&stack, &["during, "]).await
}

#[tokio::test]
async fn when_each_answer_takes_half_a_second_everything_goes_on_in_order() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let proxy = Proxy::start(&database.url).await?;
    let stack = stack_on(proxy.url()).await?;
    ended(&stack).await?;
    let words: Vec<String> = (0..100).map(|n| format!("{n} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let held = Held::begin(&stack, &words).await?;

    proxy.delay(Duration::from_millis(500));

    stack.upstream.open("during");
    let create = async {
        let script = ResponsesStream::new().text(&["late"]).completed();
        stack.upstream.push(script);
        stack.create_json(&json!({"input": "2"})).await
    };
    let (created, ()) = tokio::try_join!(create, held.expect_whole(&stack, &words))?;
    assert_eq!(created["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn sessions_that_freeze_for_three_seconds_cost_three_seconds() -> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let stack = stack_on(postgres.url()).await?;
    ended(&stack).await?;
    let mut held = Held::begin(&stack, &["during, "]).await?;
    let session = postgres.connect().await?;

    anyhow::ensure!(postgres.freeze(SESSIONS).await? > 0, "nothing to freeze");
    stack.upstream.open("during");
    let frozen = async {
        session.batch_execute("SELECT pg_sleep(3)").await?;
        postgres.thaw(SESSIONS).await
    };
    let ended = async { ended(&stack).await };
    let (_, (response, frames)) = tokio::try_join!(frozen, ended)?;

    held.until("during, ").await?;
    held.expect_whole(&stack, &["during, "]).await?;
    expect_shown(&stack, &response, &frames).await
}

#[tokio::test]
async fn connections_may_be_killed_again_and_again() -> anyhow::Result<()> {
    const ROUNDS: usize = 25;
    let kill = format!("SELECT pg_terminate_backend(pid) FROM ({SESSIONS}) AS of_ours");
    let postgres = PrivatePostgres::start().await?;
    let stack = stack_on(postgres.url()).await?;
    let (response, frames) = ended(&stack).await?;
    let words: Vec<String> = (0..ROUNDS).map(|n| format!("{n} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut held = Held::begin(&stack, &words).await?;
    let killer = postgres.connect().await?;

    stack.upstream.open("during");
    for word in &words {
        killer.query(&kill, &[]).await?;
        let script = ResponsesStream::new().text(&["x"]).completed();
        let is_shown = expect_shown(&stack, &response, &frames);
        tokio::try_join!(held.until(word), is_shown)?;
        if word.starts_with('1') {
            stack.upstream.push(script);
            stack.create_json(&json!({"input": "2"})).await?;
        }
    }

    held.expect_whole(&stack, &words).await
}
