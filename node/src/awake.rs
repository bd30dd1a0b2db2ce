//! Time as the machine has it, asleep or not.
//!
//! A machine that is suspended, and then goes on, must not believe that no time has passed: its lease (`fence-timeout`)
//! may be over. `Instant` stands still meanwhile.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A moment of the clock that runs while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Awake(Duration);

impl Awake {
    /// Now.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Self(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default()))
    }

    /// So long ago.
    #[cfg(test)]
    pub(crate) fn before(span: Duration) -> Self {
        Self(Self::now().0.saturating_sub(span))
    }

    /// How long ago that was.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
