//! The one place that reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, for what clients are shown. Leases use the database's clock instead.
pub fn unix_seconds() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "this is the edge")]
    let now = SystemTime::now();
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
