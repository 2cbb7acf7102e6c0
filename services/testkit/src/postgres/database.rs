//! A database per test.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::Context;
use uuid::Uuid;

use super::Session;
use super::cluster::Cluster;
use super::shared::{administer, shared_cluster};
use crate::deadline::{DEADLINE, within};

/// A database of the shared server that this test has to itself. Dropped, also under open connections, with it.
#[derive(Debug)]
pub struct TestDatabase {
    /// Where to connect: `postgres://postgres@%2Ftmp%2F…/test_…`.
    pub url: String,
    name: String,
    cluster: Cluster,
}

impl TestDatabase {
    /// Makes a database with nothing in it.
    pub async fn empty() -> anyhow::Result<Self> {
        Self::cloned(shared_cluster().await?, "template0").await
    }

    /// Makes a database that looks as `migrate` leaves an empty one.
    ///
    /// `migrate` runs once per `name_and_version` for as long as the shared server lives, whichever test process
    /// comes first; all others get a copy of what it made. So the name must change whenever its outcome does:
    /// put a checksum of the migrations into it. It must close its connections when it is done.
    pub async fn from_template(
        name_and_version: &str,
        migrate: impl AsyncFnOnce(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let cluster = shared_cluster().await?;
        let template = template_name(name_and_version);
        let session = Session::open(&cluster.url("postgres")).await?;
        if !database_exists(&session, &template).await? {
            make_template(&cluster, &session, &template, migrate)
                .await
                .with_context(|| format!("making the template {name_and_version}"))?;
        }
        drop(session);
        Self::cloned(cluster, &template).await
    }

    /// Connects to the database.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Session::open(&self.url).await
    }

    async fn cloned(cluster: Cluster, template: &str) -> anyhow::Result<Self> {
        let name = format!("test_{}", Uuid::now_v7().simple());
        administer(
            &cluster,
            &format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )
        .await?;
        Ok(Self {
            url: cluster.url(&name),
            name,
            cluster,
        })
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let cluster = self.cluster.clone();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread, because the test's own runtime cannot be waited for from inside itself.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| runtime.block_on(administer(&cluster, &sql)))
        });
        // What is left behind goes with the server.
        let _ = dropping.join();
    }
}

fn template_name(name_and_version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name_and_version.hash(&mut hasher);
    format!("template_{:016x}", hasher.finish())
}

async fn database_exists(session: &Session, name: &str) -> anyhow::Result<bool> {
    let found = within(
        "pg_database",
        session.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]),
    )
    .await?
    .context("looking for a template")?;
    Ok(found.is_some())
}

/// Makes `template` unless another process did so meanwhile.
///
/// It gets its name only when it is finished, so that a process that dies here leaves no half of one.
async fn make_template(
    cluster: &Cluster,
    session: &Session,
    template: &str,
    migrate: impl AsyncFnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let seconds = DEADLINE.as_secs();
    session
        .batch_execute(&format!(
            "SET lock_timeout = '{seconds}s'; SELECT pg_advisory_lock(hashtextextended('{template}', 0))"
        ))
        .await
        .context("waiting for another test to make it")?;
    if database_exists(session, template).await? {
        return Ok(());
    }
    let unfinished = format!("unfinished_{template}");
    administer(
        cluster,
        &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)"),
    )
    .await?;
    administer(
        cluster,
        &format!("CREATE DATABASE {unfinished} TEMPLATE template0"),
    )
    .await?;
    migrate(&cluster.url(&unfinished)).await?;
    // Connections that the migration left to be closed in the background would be in the way of renaming.
    session
        .execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1",
            &[&unfinished],
        )
        .await
        .context("closing what the migration left open")?;
    administer(
        cluster,
        &format!("ALTER DATABASE {unfinished} RENAME TO {template}"),
    )
    .await
}
