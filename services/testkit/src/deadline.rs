//! Waiting with a deadline, so that a test that would hang says what it was waiting for.

use std::time::Duration;

use anyhow::anyhow;

/// How long anything in a test is waited for. Far longer than it takes on a busy machine, far shorter than a
/// test runner's patience.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future` up to [`DEADLINE`]; the error names `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    within_duration(what, DEADLINE, future).await
}

/// Waits for `future` up to `deadline`; the error names `what`.
pub async fn within_duration<T>(
    what: &str,
    deadline: Duration,
    future: impl Future<Output = T>,
) -> anyhow::Result<T> {
    tokio::time::timeout(deadline, future)
        .await
        .map_err(|_| anyhow!("waited {deadline:?} in vain for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_in_vain_says_what_it_was_for() {
        let waited =
            within_duration("the moon", Duration::ZERO, std::future::pending::<()>()).await;

        let message = waited.map_err(|error| error.to_string());
        assert_eq!(message, Err("waited 0ns in vain for the moon".into()));
    }
}
