//! Migrations: embedded, forward only, one process at a time.

use refinery::Target;
use tokio_postgres::NoTls;

use crate::database::{Error, host_that_answers};

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

async fn migrate_up_to(url: &str, target: Target) -> Result<usize, Error> {
    let config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
    let config = host_that_answers(&config).await?;
    let (mut client, connection) = config.connect(NoTls).await?;
    let work = async move {
        client
            .batch_execute("SELECT pg_advisory_lock(hashtext('talaria migrations'))")
            .await?;
        let report = embedded::migrations::runner()
            .set_target(target)
            .run_async(&mut client)
            .await?;
        // Dropping the client closes the session, and with it the lock.
        Ok(report.applied_migrations().len())
    };
    let (applied, _closed) = tokio::join!(work, connection);
    applied
}
