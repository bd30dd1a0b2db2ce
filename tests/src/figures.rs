//! Measured times.

use std::fmt;
use std::time::Duration;

/// Some durations, and their percentiles.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<Duration>);

impl Figures {
    /// Takes durations in any order.
    #[must_use]
    pub fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort();
        Self(durations)
    }

    /// The smallest duration that `percent` of all do not exceed; zero if there are no durations.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.percentile(100)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] = [50, 99, 100].map(|percent| self.percentile(percent).as_secs_f64() * 1000.0);
        write!(
            f,
            "p50 {p50:.0} ms, p99 {p99:.0} ms, longest {longest:.0} ms of {}",
            self.0.len()
        )
    }
}
