//! A database that takes no writes.

use serde_json::json;
use talaria_testkit::postgres::{PrivatePostgres, SmallDisk};
use talaria_testkit::stack::Stack;

use crate::support::{Held, ended, expect_shown, expect_unavailable, noise, post, stack_on};

#[tokio::test]
async fn while_a_database_only_reads_nothing_starts_nothing_fails_and_all_can_be_read()
-> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let stack = stack_on(postgres.url()).await?;
    let (response, frames) = ended(&stack).await?;
    let mut held = Held::begin(&stack, &["during, "]).await?;

    postgres
        .configure("default_transaction_read_only", "on")
        .await?;

    stack.upstream.open("during");
    held.expect_silence().await?;
    expect_reads_only(&stack, &response, &frames, "x").await?;
    let delete = stack.url(&format!(
        "/v1/responses/{}",
        frames[0].json()["response"]["id"]
    ));
    expect_unavailable(stack.http.delete(delete.replace('"', ""))).await?;

    postgres
        .configure("default_transaction_read_only", "off")
        .await?;

    held.until("during, ").await?;
    held.expect_whole(&stack, &["during, "]).await?;
    let session = postgres.connect().await?;
    let rows = session.query_one("SELECT count(*) FROM response", &[]);
    assert_eq!(rows.await?.get::<_, i64>(0), 2, "refusals leave nothing");
    Ok(())
}

#[tokio::test]
async fn while_the_disk_is_full_nothing_starts_nothing_fails_and_all_can_be_read()
-> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let Some(disk) = SmallDisk::mount(&postgres, 48)? else {
        eprintln!("skipped: this needs the right to mount a small file system");
        return Ok(());
    };
    let session = postgres.connect().await?;
    let path = disk.path().display();
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{path}'");
    session.batch_execute(&tablespace).await?;
    let database = "CREATE DATABASE talaria TABLESPACE small";
    session.batch_execute(database).await?;
    let stack = stack_on(postgres.url_of("talaria")).await?;
    let (response, frames) = ended(&stack).await?;
    let large = noise(200_000);
    let during = [&large[..], "during, "];
    let mut held = Held::begin(&stack, &during).await?;

    disk.fill()?;

    stack.upstream.open("during");
    held.expect_silence().await?;
    expect_reads_only(&stack, &response, &frames, &large).await?;

    disk.empty()?;

    held.until("during, ").await?;
    held.expect_whole(&stack, &during).await
}

/// What ended can be read, and nothing begins.
async fn expect_reads_only(
    stack: &Stack,
    response: &serde_json::Value,
    frames: &[talaria_testkit::sse::Frame],
    input: &str,
) -> anyhow::Result<()> {
    let asked = stack.upstream.requests().len();
    tokio::try_join!(
        expect_unavailable(post(stack, &json!({"input": input}))),
        expect_unavailable(post(stack, &json!({"input": input, "stream": true}))),
        expect_unavailable(post(stack, &json!({"input": input, "background": true}))),
        expect_shown(stack, response, frames),
    )?;
    assert_eq!(
        stack.upstream.requests().len(),
        asked,
        "refusals ask nobody"
    );
    Ok(())
}
