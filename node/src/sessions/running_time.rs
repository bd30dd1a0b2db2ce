//! How long this process has been running: the time in which it could have heard from clients and nodes.
//!
//! A process that is stopped, or whose machine stalls, hears from no client or node meanwhile. Were its own pause
//! counted, it would end all their sessions the moment that it goes on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// More than this between two ticks was a pause of this process, and counts as this much.
const LONGEST_STEP: Duration = Duration::from_secs(3);

/// A clock that stands still while the process does. It must be ticked, by a call of `now`, more often than
/// [`LONGEST_STEP`].
pub(crate) struct RunningTime(Mutex<(Instant, Duration)>);

impl RunningTime {
    pub(crate) fn start() -> Self {
        Self(Mutex::new((Instant::now(), Duration::ZERO)))
    }

    /// How long the process has been running since the start of the clock.
    pub(crate) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Duration {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, total) = *clock;
        let total = total + now.saturating_duration_since(last).min(LONGEST_STEP);
        *clock = (now.max(last), total);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_process_hardly_counts() {
        let clock = RunningTime::start();
        let start = clock.0.lock().unwrap().0;
        assert_eq!(clock.at(start + Duration::from_secs(1)), Duration::from_secs(1));
        // Stopped for an hour.
        let later = start + Duration::from_secs(3601);
        assert_eq!(clock.at(later), Duration::from_secs(1) + LONGEST_STEP);
        assert_eq!(
            clock.at(start),
            Duration::from_secs(1) + LONGEST_STEP,
            "never backwards"
        );
        assert_eq!(
            clock.at(later + Duration::from_secs(1)),
            Duration::from_secs(2) + LONGEST_STEP
        );
    }
}
