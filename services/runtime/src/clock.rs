//! The one place that reads the wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, for what clients are shown. Leases use the database's clock instead.
pub fn unix_seconds() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970, for the same.
pub fn unix_millis() -> i64 {
    i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX)
}

/// Since the machine was started, for as long as it is to count while the machine is suspended: `Instant` stands still
/// then.
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    // Elsewhere this one goes on by itself.
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(clock)
        .try_into()
        .unwrap_or_default()
}

fn since_1970() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "this is the edge")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}
