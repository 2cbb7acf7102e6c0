//! How late the load generator is itself: what it measures contains that.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

const EVERY: Duration = Duration::from_millis(5);

/// Asks for a wake-up again and again, and notes how late each comes.
pub async fn lateness(until: Instant) -> Vec<Duration> {
    let mut late = Vec::new();
    while Instant::now() < until {
        let due = Instant::now() + EVERY;
        sleep_until(due).await;
        late.push(due.elapsed());
    }
    late
}
