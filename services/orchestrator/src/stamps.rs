//! When events were made, as their readers are told.

use talaria_proto::v1::Event;

/// Stamps the events of one attempt of a run.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// Unix milliseconds of the beginning of the second in which the response was created.
    beginning_ms: i64,
    latest: u64,
}

impl Stamps {
    /// For a response that was created at `created_at` (Unix seconds), and whose latest event so far has the stamp
    /// `latest`.
    pub fn new(created_at: i64, latest: u64) -> Self {
        Self {
            beginning_ms: created_at.saturating_mul(1000),
            latest,
        }
    }

    /// Stamps events that were made at `now_ms` (Unix milliseconds). Stamps never go back, whatever the clock does.
    pub fn put(&mut self, events: &mut [Event], now_ms: i64) {
        let since = u64::try_from(now_ms.saturating_sub(self.beginning_ms)).unwrap_or(0);
        self.latest = self.latest.max(since);
        for event in events {
            event.at_ms = self.latest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_count_from_the_second_of_creation_and_never_go_back() {
        let mut stamps = Stamps::new(1_700_000_000, 0);
        let mut stamped = |now_ms| {
            let mut events = [Event::default()];
            stamps.put(&mut events, now_ms);
            events[0].at_ms
        };

        assert_eq!(stamped(1_700_000_000_250), 250);
        assert_eq!(stamped(1_700_000_002_000), 2000);
        assert_eq!(stamped(1_699_999_999_000), 2000);
        assert_eq!(stamped(1_700_000_002_001), 2001);
    }
}
