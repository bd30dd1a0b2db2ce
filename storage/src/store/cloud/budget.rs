//! Limits how often failed requests of one repository are repeated. A budget keeps many clients from loading a server
//! in trouble even more. The pause grows and is drawn at random, so that they do not come back all at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Tries of one request, the first included.
pub const TRIES: u32 = 4;
/// The greatest pause before the second try; it doubles with each try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The greatest pause of all, and the longest `Retry-After` that is followed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The budget: its maximum, the cost of a retry, and the gain from a success.
const MOST: u32 = 100;
const COST: u32 = 5;
const EARNED: u32 = 1;

/// The retries that a repository has left.
#[derive(Debug)]
pub struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(MOST))
    }
}

impl Budget {
    /// A request has succeeded.
    pub fn earn(&self) {
        let earned = |saved: u32| (saved < MOST).then(|| (saved + EARNED).min(MOST));
        // A full budget stays full.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Whether a request may be tried again; if so, the retry is paid for.
    pub fn spend(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST))
            .is_ok()
    }
}

/// The pause before try number `next` (2 is the first retry). `chance` is drawn evenly from the whole range of its
/// type.
pub fn pause(next: u32, asked: Option<Duration>, chance: u32) -> Duration {
    let greatest = FIRST_PAUSE
        .saturating_mul(1 << next.saturating_sub(2).min(16))
        .min(LONGEST_PAUSE);
    let drawn = greatest.mul_f64(f64::from(chance) / f64::from(u32::MAX));
    drawn.max(asked.unwrap_or_default().min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_rationed_by_successes() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 20);
        for _ in 0..COST {
            assert!(!budget.spend());
            budget.earn();
        }
        assert!(budget.spend());
    }

    #[test]
    fn pauses_grow_are_drawn_and_follow_the_server_within_limits() {
        assert_eq!(pause(2, None, 0), Duration::ZERO);
        assert_eq!(pause(2, None, u32::MAX), FIRST_PAUSE);
        assert_eq!(pause(4, None, u32::MAX), FIRST_PAUSE * 4);
        assert_eq!(pause(60, None, u32::MAX), LONGEST_PAUSE);
        assert_eq!(pause(2, Some(Duration::from_secs(2)), 0), Duration::from_secs(2));
        assert_eq!(pause(2, Some(Duration::from_secs(600)), 0), LONGEST_PAUSE);
    }
}
