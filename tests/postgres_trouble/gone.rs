//! A database that is gone for a while, with a word or without.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use talaria_testkit::postgres::{PrivatePostgres, Proxy, TestDatabase};

use crate::support::{Held, ended, expect_reads, expect_shown, expect_unavailable, stack_on};

/// Within which a read is told that there is no database.
const TOLD: Duration = Duration::from_secs(6);
/// Within which events flow again.
const BACK: Duration = Duration::from_secs(4);

#[tokio::test]
async fn events_flow_as_soon_as_a_killed_database_is_back() -> anyhow::Result<()> {
    goes_for(Duration::from_secs(3)).await
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn events_flow_as_soon_as_a_database_that_was_gone_for_a_minute_is_back() -> anyhow::Result<()>
{
    goes_for(Duration::from_mins(1)).await
}

async fn goes_for(outage: Duration) -> anyhow::Result<()> {
    let mut postgres = PrivatePostgres::start().await?;
    let stack = stack_on(postgres.url()).await?;
    let (response, frames) = ended(&stack).await?;
    let id = response["id"].as_str().context("no id")?;
    let get = stack.url(&format!("/v1/responses/{id}"));
    let mut held = Held::begin(&stack, &["during, "]).await?;

    postgres.kill9().await?;
    stack.upstream.open("during");
    // The model says the rest too: it is not to be silent for longer than a model may.
    stack.upstream.open("after");
    held.expect_silence().await?;
    let gone = Instant::now();
    while gone.elapsed() < outage {
        let asked = Instant::now();
        expect_unavailable(stack.http.get(&get)).await?;
        ensure!(asked.elapsed() < TOLD, "told after {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    postgres.restart().await?;
    let back = Instant::now();

    held.until("during, ").await?;
    let took = back.elapsed();
    eprintln!("events flow again after {took:?}");
    ensure!(took < BACK, "events flow again after {took:?}");
    expect_shown(&stack, &response, &frames).await?;
    held.expect_whole(&stack, &["during, "]).await
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_told_of_and_got_over() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let proxy = Proxy::start(&database.url).await?;
    let stack = stack_on(proxy.url()).await?;
    let (response, frames) = ended(&stack).await?;
    let id = response["id"].as_str().context("no id")?;
    let get = stack.url(&format!("/v1/responses/{id}"));
    let mut held = Held::begin(&stack, &["during, "]).await?;

    proxy.freeze();
    stack.upstream.open("during");
    held.expect_silence().await?;
    for _ in 0..2 {
        let asked = Instant::now();
        let gets = (0..20).map(|_| expect_unavailable(stack.http.get(&get)));
        futures::future::try_join_all(gets).await?;
        ensure!(asked.elapsed() < TOLD, "told after {:?}", asked.elapsed());
    }
    proxy.thaw();
    let back = Instant::now();

    held.until("during, ").await?;
    let took = back.elapsed();
    eprintln!("events flow again after {took:?}");
    ensure!(took < BACK, "events flow again after {took:?}");
    expect_reads(&stack, &response, BACK).await?;
    expect_shown(&stack, &response, &frames).await?;
    held.expect_whole(&stack, &["during, "]).await
}
