//! What is remembered of a server between its connections.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::Tool;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::super::SourceTools;
use super::connection::Connection;

/// A server that died sooner is started again only after a pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct State {
    pub connection: Arc<OnceCell<Arc<Connection>>>,
    /// Starts that failed, and deaths soon after a start, in a row.
    failures: u32,
    pub not_before: Option<Instant>,
    lists_again_at: Option<Instant>,
    /// What the server had when it was last asked, as it came and as it is shown.
    pub known: Option<(Arc<Vec<Tool>>, Arc<SourceTools>)>,
    /// What is shown while nothing is known.
    pub unknown: Arc<SourceTools>,
}

impl State {
    /// Makes room for a new connection if the one that there was is closed.
    pub(super) fn forget_closed(&mut self) {
        let Some(connection) = self
            .connection
            .get()
            .filter(|connection| connection.is_closed())
        else {
            return;
        };
        let lived = connection.started.elapsed();
        self.connection = Arc::default();
        if lived < STABLE_AFTER {
            self.failed(Duration::ZERO);
        } else {
            self.failures = 0;
            self.not_before = None;
        }
    }

    /// Whether the server could not list its tools a moment ago; runs do not wait for it again so soon.
    pub(super) fn lists_badly(&self) -> bool {
        self.lists_again_at.is_some_and(|at| Instant::now() < at)
    }

    pub(super) fn listed_badly(&mut self) {
        self.lists_again_at = Some(Instant::now() + LONGEST_PAUSE);
    }

    /// Counts a failure, after which nothing is started for a while.
    pub(super) fn failed(&mut self, least_pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause_after(self.failures).max(least_pause));
    }
}

/// The pause after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let pauses: Vec<u128> = (1..=8).map(|n| pause_after(n).as_millis()).collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
