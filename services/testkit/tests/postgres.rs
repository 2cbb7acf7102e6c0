//! Postgres for tests, tested on a real one.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use talaria_testkit::postgres::{PrivatePostgres, Session, TestDatabase};

async fn migrate(url: &str) -> anyhow::Result<()> {
    let session = Session::open(url).await?;
    session
        .batch_execute(
            "CREATE TABLE fruit (name text PRIMARY KEY); INSERT INTO fruit VALUES ('plum')",
        )
        .await?;
    Ok(())
}

async fn fruits(session: &Session) -> anyhow::Result<Vec<String>> {
    let rows = session
        .query("SELECT name FROM fruit ORDER BY name", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn databases_of_one_template_do_not_see_each_other() -> anyhow::Result<()> {
    let one = TestDatabase::from_template("testkit fruit 1", migrate).await?;
    let other = TestDatabase::from_template("testkit fruit 1", migrate).await?;
    let one = one.connect().await?;
    let other_session = other.connect().await?;

    one.batch_execute("INSERT INTO fruit VALUES ('pear')")
        .await?;

    assert_eq!(fruits(&one).await?, ["pear", "plum"]);
    assert_eq!(fruits(&other_session).await?, ["plum"]);
    Ok(())
}

#[tokio::test]
async fn a_template_is_made_once_however_many_ask_for_it_at_once() -> anyhow::Result<()> {
    let migrations = AtomicUsize::new(0);
    let key = format!("testkit race {}", std::process::id());
    let ask = || {
        TestDatabase::from_template(&key, async |url: &str| {
            migrations.fetch_add(1, Ordering::SeqCst);
            migrate(url).await
        })
    };

    let databases = futures::future::try_join_all((0..5).map(|_| ask())).await?;

    assert_eq!(migrations.into_inner(), 1);
    for database in databases {
        assert_eq!(fruits(&database.connect().await?).await?, ["plum"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_template_that_could_not_be_made_is_made_by_the_next_who_asks() -> anyhow::Result<()> {
    let key = format!("testkit failure {}", std::process::id());
    let failed = TestDatabase::from_template(&key, async |_: &str| anyhow::bail!("no")).await;
    ensure!(failed.is_err());

    let database = TestDatabase::from_template(&key, migrate).await?;

    assert_eq!(fruits(&database.connect().await?).await?, ["plum"]);
    Ok(())
}

#[tokio::test]
async fn a_dropped_database_is_gone_even_while_someone_is_connected() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let url = database.url.clone();
    let connected = database.connect().await?;

    drop(database);

    assert!(connected.batch_execute("SELECT 1").await.is_err());
    assert!(Session::open(&url).await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_was_committed_is_there_after_kill_9_and_a_restart() -> anyhow::Result<()> {
    let mut postgres = PrivatePostgres::start().await?;
    migrate(&postgres.url()).await?;
    let connected = postgres.connect().await?;

    postgres.kill9().await?;
    assert!(connected.batch_execute("SELECT 1").await.is_err());
    assert!(postgres.connect().await.is_err());
    postgres.restart().await?;

    let session = postgres.connect().await?;
    assert_eq!(fruits(&session).await?, ["plum"]);
    let fsync: String = session.query_one("SHOW fsync", &[]).await?.get(0);
    assert_eq!(fsync, "on");
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_refuses_connections_until_it_is_restarted() -> anyhow::Result<()> {
    let mut postgres = PrivatePostgres::start().await?;

    postgres.stop().await?;
    assert!(postgres.connect().await.is_err());
    postgres.restart().await?;

    postgres.connect().await?;
    Ok(())
}
