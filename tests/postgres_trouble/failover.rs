//! A primary that dies, and a standby that takes its place.

use anyhow::Context;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::{PrivatePostgres, Session};

use crate::support::{Held, ended, expect_shown, stack_on};

/// A primary that waits for its standby with each commit, and the URL of both.
async fn pair() -> anyhow::Result<(PrivatePostgres, PrivatePostgres, String)> {
    let primary = PrivatePostgres::start().await?;
    let standby = primary.standby().await?;
    primary
        .configure("synchronous_standby_names", "ANY 1 (*)")
        .await?;
    let session = primary.connect().await?;
    let is_followed = "SELECT FROM pg_stat_replication WHERE sync_state = 'quorum'";
    until_some(&session, is_followed).await?;
    let host = |postgres: &PrivatePostgres| {
        let url = postgres.url();
        let host = url
            .split('@')
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        host.map(str::to_owned).context("no host")
    };
    let url = format!(
        "postgres://postgres@{},{}/postgres?target_session_attrs=read-write",
        host(&standby)?,
        host(&primary)?
    );
    Ok((primary, standby, url))
}

/// Waits until a query answers with a row.
async fn until_some(session: &Session, sql: &str) -> anyhow::Result<()> {
    within(sql, async {
        while session.query(sql, &[]).await?.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test]
async fn when_a_standby_takes_over_nothing_that_was_shown_is_lost_and_runs_go_on()
-> anyhow::Result<()> {
    let (mut primary, standby, url) = pair().await?;
    let stack = stack_on(url).await?;
    let (response, frames) = ended(&stack).await?;
    let mut held = Held::begin(&stack, &["during, "]).await?;

    primary.kill9().await?;
    stack.upstream.open("during");
    held.expect_silence().await?;
    standby.promote().await?;

    held.until("during, ").await?;
    held.expect_whole(&stack, &["during, "]).await?;
    expect_shown(&stack, &response, &frames).await?;
    let (response, frames) = ended(&stack).await?;
    expect_shown(&stack, &response, &frames).await
}

#[tokio::test]
async fn what_only_the_primary_has_is_not_shown() -> anyhow::Result<()> {
    const RECEIVER: &str = "SELECT pid FROM pg_stat_wal_receiver";
    const WAITING: &str = "
        SELECT pid
        FROM pg_stat_activity
        WHERE application_name = 'talaria' AND wait_event = 'SyncRep' AND query LIKE '%events_append%'";
    let (primary, standby, url) = pair().await?;
    let stack = stack_on(url).await?;
    let mut held = Held::begin(&stack, &["during, "]).await?;
    let session = primary.connect().await?;

    standby.freeze(RECEIVER).await?;
    stack.upstream.open("during");
    until_some(&session, WAITING).await?;
    // What it committed stays on the primary, which others can see from here on.
    let kill = format!("SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting");
    session.query(&kill, &[]).await?;
    held.expect_silence().await?;
    held.expect_silence().await?;
    standby.thaw(RECEIVER).await?;

    held.until("during, ").await?;
    held.expect_whole(&stack, &["during, "]).await
}
