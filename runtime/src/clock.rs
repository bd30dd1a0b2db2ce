//! The wall clock: for times that people read, for certificates and for tokens. No span of time is measured by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of day.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Time since the Unix epoch; zero where the clock is before it.
#[must_use]
pub fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in Unix seconds.
#[must_use]
pub fn now_unix() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}
