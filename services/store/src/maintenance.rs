//! What the store does by itself: partitions ahead of time. Safe to run in every replica.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::database::{Database, Error, error_chain, within_deadline};

const EVERY: Duration = Duration::from_hours(1);
const RETRY: Duration = Duration::from_secs(10);
const DAYS_AHEAD: i32 = 7;

/// Keeps the event log's partitions a week ahead until `stop`.
pub async fn run(database: Database, stop: CancellationToken) {
    loop {
        let pause = match partitions_create(&database).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "could not make partitions ahead"
                );
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn partitions_create(database: &Database) -> Result<(), Error> {
    within_deadline(async {
        let connection = database.connection().await?;
        connection
            .execute("SELECT event_chunk_partitions_create($1)", &[&DAYS_AHEAD])
            .await?;
        Ok(())
    })
    .await
}
