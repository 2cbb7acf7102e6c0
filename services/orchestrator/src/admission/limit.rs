//! How long an admission may take, whatever it waits for.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::{PATIENCE, is_unknown, store_status};
use crate::journal::within;

/// How long one call to the store may take.
pub const CALL: Duration = Duration::from_secs(5);
/// How long all of it may take: less than a façade waits for it, so that what became of it is told.
const LONGEST: Duration = Duration::from_secs(15);

/// By when an admission is decided.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    until: Instant,
}

impl Limit {
    /// For an admission that begins now.
    pub fn begin() -> Self {
        Self {
            until: Instant::now() + LONGEST,
        }
    }

    /// What is left of it; zero when it is over.
    pub fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Bounds one call to the store.
    pub fn call<T>(
        self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> impl Future<Output = Result<T, Status>> {
        // Boxed, because it is large and every admission makes several.
        within(CALL.min(self.left()), Box::pin(call))
    }

    /// Makes a call that only reads; again for some seconds while the store cannot answer it.
    pub async fn read<T, F>(self, call: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.call(call()).await {
                Err(status)
                    if is_unknown(&status)
                        && started.elapsed() < PATIENCE
                        && !self.left().is_zero() =>
                {
                    tokio::time::sleep(pause.min(self.left())).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                answer => return answer.map_err(store_status),
            }
        }
    }
}
