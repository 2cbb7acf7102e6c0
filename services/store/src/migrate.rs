//! Migrations: embedded, forward only, one process at a time.

use tokio_postgres::NoTls;

use crate::database::Error;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Brings the database at `url` to this version's schema, and returns how many migrations it took.
///
/// Any number of processes may do this at once: an advisory lock puts them in line.
pub async fn migrate(url: &str) -> Result<usize, Error> {
    let config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
    let (mut client, connection) = config.connect(NoTls).await?;
    let work = async move {
        client
            .batch_execute("SELECT pg_advisory_lock(hashtext('talaria migrations'))")
            .await?;
        let report = embedded::migrations::runner()
            .run_async(&mut client)
            .await?;
        // Dropping the client closes the session, and with it the lock.
        Ok(report.applied_migrations().len())
    };
    let (applied, _closed) = tokio::join!(work, connection);
    applied
}
