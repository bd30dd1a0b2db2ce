//! How a repository does: a small state machine fed with the outcome of each request.
//!
//! Pure: the time is an argument. A repository that fails is put aside after a few failures in a row, tried again after
//! a pause that grows, and taken back at the first success.

use crate::protocol::HealthInfo;
use std::time::{Duration, Instant};

/// Failures in a row after which a repository is put aside.
const FAILURES_TO_OPEN: u32 = 2;
/// The first pause before a probe; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Weight of the newest latency in the running mean.
const LATENCY_WEIGHT: f64 = 0.2;

/// The state of one repository.
#[derive(Debug, Clone, Default)]
pub struct Health {
    failures: u32,
    down_since: Option<i64>,
    why: Option<String>,
    retry_at: Option<Instant>,
    mean_latency: Option<Duration>,
}

impl Health {
    /// A request succeeded in this time.
    pub fn succeeded(&mut self, took: Duration) {
        self.failures = 0;
        self.down_since = None;
        self.why = None;
        self.retry_at = None;
        self.mean_latency = Some(match self.mean_latency {
            None => took,
            Some(mean) => mean.mul_f64(1.0 - LATENCY_WEIGHT) + took.mul_f64(LATENCY_WEIGHT),
        });
    }

    /// A request failed in a way that speaks against the repository, not against one object.
    pub fn failed(&mut self, why: String, now: Instant, unix_now: i64) {
        self.failures = self.failures.saturating_add(1);
        self.down_since.get_or_insert(unix_now);
        self.why = Some(why);
        let doublings = self.failures.saturating_sub(FAILURES_TO_OPEN).min(10);
        self.retry_at = Some(now + (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE));
    }

    /// Whether a request should be sent there now: always while it is well, and once a pause is over when it is not.
    pub fn admits(&self, now: Instant) -> bool {
        self.failures < FAILURES_TO_OPEN || self.retry_at.is_none_or(|at| now >= at)
    }

    /// Where it stands among replicas: failing ones last, then by latency; an unmeasured one is worth a try.
    pub fn rank(&self, now: Instant) -> (bool, u32, Duration) {
        (!self.admits(now), self.failures, self.mean_latency.unwrap_or_default())
    }

    /// For `info`.
    pub fn info(&self) -> HealthInfo {
        match (self.down_since, &self.why) {
            (Some(since), Some(why)) => HealthInfo::Down {
                since,
                why: why.clone(),
            },
            _ => HealthInfo::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_at_a_success() {
        let mut health = Health::default();
        let start = Instant::now();
        health.failed("refused".to_owned(), start, 100);
        assert!(health.admits(start), "one failure is no verdict");
        health.failed("refused".to_owned(), start, 101);
        assert!(!health.admits(start));
        assert_eq!(
            health.info(),
            HealthInfo::Down {
                since: 100,
                why: "refused".to_owned()
            }
        );
        assert!(health.admits(start + FIRST_PAUSE), "a probe goes through");
        health.succeeded(Duration::from_millis(3));
        assert!(health.admits(start));
        assert_eq!(health.info(), HealthInfo::Up);
    }

    #[test]
    fn the_pause_grows_and_is_bounded() {
        let mut health = Health::default();
        let start = Instant::now();
        for _ in 0..40 {
            health.failed("silent".to_owned(), start, 0);
        }
        assert!(!health.admits(start + LONGEST_PAUSE - Duration::from_millis(1)));
        assert!(health.admits(start + LONGEST_PAUSE));
    }

    #[test]
    fn a_failing_repository_ranks_last_whatever_its_latency() {
        let now = Instant::now();
        let (mut fast, mut slow) = (Health::default(), Health::default());
        fast.succeeded(Duration::from_millis(1));
        slow.succeeded(Duration::from_millis(50));
        assert!(fast.rank(now) < slow.rank(now));
        fast.failed("io".to_owned(), now, 0);
        assert!(slow.rank(now) < fast.rank(now));
    }
}
