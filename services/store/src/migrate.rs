//! Migrations: embedded, forward only, one process at a time.

use std::time::Duration;

use refinery::Target;
use tokio_postgres::{Client, NoTls};

use crate::database::{Error, host_that_answers};

/// How often a migration is tried that has to wait for others, and how long these have between two tries.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(2);

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Brings the database at `url` to this version's schema, and returns how many migrations it took.
///
/// Any number of processes may do this at once: an advisory lock puts them in line.
pub async fn migrate(url: &str) -> Result<usize, Error> {
    migrate_up_to(url, Target::Latest).await
}

/// The same up to migration `version`: what an earlier version of Talaria left behind.
pub async fn migrate_to(url: &str, version: i32) -> Result<usize, Error> {
    migrate_up_to(url, Target::Version(version)).await
}

/// Applies what is missing up to `target`; a migration in whose way others are is tried again for some minutes.
async fn apply(client: &mut Client, target: Target) -> Result<usize, Error> {
    let mut applied = 0;
    let mut tries = TRIES;
    loop {
        let runner = embedded::migrations::runner().set_target(target);
        match runner.run_async(client).await {
            Ok(report) => return Ok(applied + report.applied_migrations().len()),
            Err(error) => {
                let before = error
                    .report()
                    .map(|report| report.applied_migrations().len());
                applied += before.unwrap_or_default();
                let error = Error::from(error);
                tries -= 1;
                if tries == 0 || !error.is_contention() {
                    return Err(error);
                }
                tracing::warn!(%error, "a table is in use, the migration is tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn migrate_up_to(url: &str, target: Target) -> Result<usize, Error> {
    let config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
    let config = host_that_answers(&config).await?;
    let (mut client, connection) = config.connect(NoTls).await?;
    let work = async move {
        client
            .batch_execute("SELECT pg_advisory_lock(hashtext('talaria migrations'))")
            .await?;
        // Whoever wants a table stands behind a migration that waits for it.
        client.batch_execute("SET lock_timeout = '2s'").await?;
        // Dropping the client closes the session, and with it the lock.
        apply(&mut client, target).await
    };
    let (applied, _closed) = tokio::join!(work, connection);
    applied
}
