//! How a repository does: a small state machine fed with the beginning and the outcome of each request.
//!
//! Pure: the time is an argument. A repository is put aside after a few failures in a row, or as soon as it has been
//! silent for much longer than its usual latency (at least 1.5 seconds). It is tried again after a pause that grows,
//! and taken back at the first success. Which repository a read goes to is decided by its measured latency times the
//! requests that wait there already, so that several good repositories share a load that none could carry alone.

use pgmesh_protocol::HealthInfo;
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which a repository is put aside.
const FAILURES_TO_OPEN: u32 = 2;
/// The first pause before a probe; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so many requests in a row that other repositories overtook, it is put aside as if it had failed.
const OVERTAKEN_TO_OPEN: u32 = 4;
/// Weight of the newest latency in the running mean.
const LATENCY_WEIGHT: f64 = 0.2;
/// If requests are under way and none has ended for so many times the usual latency, the repository is silent.
const SILENT_LATENCIES: u32 = 8;
/// Within these bounds.
const SILENT_AT_LEAST: Duration = Duration::from_millis(1500);
const SILENT_AT_MOST: Duration = Duration::from_secs(15);
/// A latency that was measured so long ago counts half: a repository that was slow once is tried again.
const LATENCY_HALF_LIFE: f64 = 10.0;

/// The kind of a request: reads and writes have a latency each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reads an object.
    Read,
    /// Writes or deletes an object.
    Write,
}

/// The state of one repository.
#[derive(Debug, Clone, Default)]
pub struct Health {
    failures: u32,
    down_since: Option<i64>,
    why: Option<String>,
    retry_at: Option<Instant>,
    reads: Latency,
    writes: Latency,
    pending: u32,
    /// Requests in a row that were given up because another repository was faster.
    overtaken: u32,
    /// When the last failure came to light.
    failed_at: Option<Instant>,
    /// When a request last came to an end, or the first of those under way began.
    progress: Option<Instant>,
}

/// A running mean of latencies that fades with time.
#[derive(Debug, Clone, Copy, Default)]
struct Latency {
    mean: Option<(Duration, Instant)>,
}

impl Latency {
    fn add(&mut self, took: Duration, now: Instant) {
        let mean = match self.mean {
            None => took,
            Some((mean, _)) => mean.mul_f64(1.0 - LATENCY_WEIGHT) + took.mul_f64(LATENCY_WEIGHT),
        };
        self.mean = Some((mean, now));
    }

    fn at(&self, now: Instant) -> Duration {
        self.mean.map_or(Duration::ZERO, |(mean, at)| {
            let age = now.saturating_duration_since(at).as_secs_f64();
            mean.mul_f64(0.5_f64.powf(age / LATENCY_HALF_LIFE))
        })
    }
}

impl Health {
    /// A request was sent.
    pub fn began(&mut self, now: Instant) {
        if self.pending == 0 {
            self.progress = Some(now);
        }
        self.pending += 1;
    }

    /// A request succeeded in this time.
    pub fn succeeded(&mut self, work: Work, took: Duration, now: Instant) {
        self.ended(now);
        match work {
            Work::Read => self.reads.add(took, now),
            Work::Write => self.writes.add(took, now),
        }
        self.recover();
    }

    /// A request was answered in a way that speaks against the object, not against the repository.
    pub fn answered(&mut self, now: Instant) {
        self.ended(now);
        self.recover();
    }

    /// A request failed in a way that speaks against the repository, not against one object.
    pub fn failed(&mut self, why: String, began: Instant, now: Instant, unix_now: i64) {
        self.ended(now);
        self.put_down(why, began, now, unix_now);
    }

    /// The caller gave a request up after this time, since another repository was faster.
    pub fn given_up(&mut self, took: Duration, now: Instant, unix_now: i64) {
        self.pending = self.pending.saturating_sub(1);
        let began = now.checked_sub(took).unwrap_or(now);
        self.overtaken = self.overtaken.saturating_add(1);
        if took >= self.silence_limit(now) {
            self.put_down(
                format!("no answer within {} ms", took.as_millis()),
                began,
                now,
                unix_now,
            );
            self.failures = self.failures.max(FAILURES_TO_OPEN);
        } else if self.overtaken >= OVERTAKEN_TO_OPEN {
            let why = format!("others answered sooner {} times in a row", self.overtaken);
            self.put_down(why, began, now, unix_now);
            self.failures = self.failures.max(FAILURES_TO_OPEN);
        } else if took > self.reads.at(now) {
            self.reads.add(took, now);
        }
    }

    /// Whether a request should be sent there now: always while it is well, and once a pause is over when it is not.
    pub fn admits(&self, now: Instant) -> bool {
        let rested = self.failures < FAILURES_TO_OPEN || self.retry_at.is_none_or(|at| now >= at);
        rested && !self.is_silent(now)
    }

    /// Whether the repository needs a probe: it is down, its pause is over, and no request is under way that would show
    /// its state.
    pub fn waits_for_a_probe(&self, now: Instant) -> bool {
        self.down_since.is_some() && self.pending == 0 && self.admits(now)
    }

    /// Where it stands among replicas; lower is better: repositories that are put aside come last; then failures count,
    /// then the time that another request would take. A repository without a measured latency is worth a try.
    pub fn rank(&self, now: Instant) -> (bool, u32, Duration) {
        let expected = self.reads.at(now).saturating_mul(self.pending.saturating_add(1));
        (!self.admits(now), self.failures, expected)
    }

    /// After this time without an answer a read is also asked of another repository.
    pub fn hedge_after(&self, now: Instant) -> Duration {
        let usual = self.reads.at(now);
        if usual.is_zero() {
            Duration::from_millis(250)
        } else {
            (usual * 3).clamp(Duration::from_millis(30), SILENT_AT_LEAST)
        }
    }

    /// Forgets past failures: the repository has been opened anew, or its node has started anew.
    pub fn forgive(&mut self) {
        self.recover();
        self.progress = None;
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

    fn ended(&mut self, now: Instant) {
        self.pending = self.pending.saturating_sub(1);
        self.progress = Some(now);
    }

    fn recover(&mut self) {
        self.failures = 0;
        self.overtaken = 0;
        self.failed_at = None;
        self.down_since = None;
        self.why = None;
        self.retry_at = None;
    }

    fn put_down(&mut self, why: String, began: Instant, now: Instant, unix_now: i64) {
        // Requests that were under way together fail together: that is one failure, not many in a row.
        if self.failed_at.is_none_or(|at| began >= at) {
            self.failures = self.failures.saturating_add(1);
        }
        self.failed_at = Some(now);
        self.down_since.get_or_insert(unix_now);
        self.why = Some(why);
        let doublings = self.failures.saturating_sub(FAILURES_TO_OPEN).min(10);
        self.retry_at = Some(now + (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE));
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.pending > 0
            && self
                .progress
                .is_some_and(|at| now.saturating_duration_since(at) > self.silence_limit(now))
    }

    fn silence_limit(&self, now: Instant) -> Duration {
        (self.reads.at(now).max(self.writes.at(now)) * SILENT_LATENCIES).clamp(SILENT_AT_LEAST, SILENT_AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fail(health: &mut Health, why: &str, now: Instant, unix_now: i64) {
        health.began(now);
        health.failed(why.to_owned(), now, now, unix_now);
    }

    fn succeed(health: &mut Health, took: Duration, now: Instant) {
        health.began(now);
        health.succeeded(Work::Read, took, now);
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_at_a_success() {
        let mut health = Health::default();
        let start = Instant::now();
        fail(&mut health, "refused", start, 100);
        assert!(health.admits(start), "one failure is no verdict");
        fail(&mut health, "refused", start, 101);
        assert!(!health.admits(start));
        assert_eq!(
            health.info(),
            HealthInfo::Down {
                since: 100,
                why: "refused".to_owned()
            }
        );
        assert!(health.admits(start + FIRST_PAUSE), "a probe goes through");
        succeed(&mut health, 3 * MS, start);
        assert!(health.admits(start));
        assert_eq!(health.info(), HealthInfo::Up);
    }

    #[test]
    fn what_is_down_and_idle_waits_for_a_probe_once_its_pause_is_over() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert!(!health.waits_for_a_probe(start), "it is well");
        fail(&mut health, "refused", start, 100);
        fail(&mut health, "refused", start, 101);
        assert!(!health.waits_for_a_probe(start), "it rests");
        let rested = start + FIRST_PAUSE;
        assert!(health.waits_for_a_probe(rested));
        health.began(rested);
        assert!(
            !health.waits_for_a_probe(rested),
            "a request is under way that will tell"
        );
        health.succeeded(Work::Read, MS, rested + MS);
        assert!(!health.waits_for_a_probe(rested + MS));
    }

    #[test]
    fn the_pause_grows_and_is_bounded() {
        let mut health = Health::default();
        let start = Instant::now();
        for _ in 0..40 {
            fail(&mut health, "silent", start, 0);
        }
        assert!(!health.admits(start + LONGEST_PAUSE - MS));
        assert!(health.admits(start + LONGEST_PAUSE));
    }

    #[test]
    fn a_failing_repository_ranks_last_whatever_its_latency() {
        let now = Instant::now();
        let (mut fast, mut slow) = (Health::default(), Health::default());
        succeed(&mut fast, MS, now);
        succeed(&mut slow, 50 * MS, now);
        assert!(fast.rank(now) < slow.rank(now));
        fail(&mut fast, "io", now, 0);
        assert!(slow.rank(now) < fast.rank(now));
    }

    #[test]
    fn silence_puts_a_repository_aside_within_two_seconds_and_an_answer_takes_it_back() {
        let (mut health, start) = (Health::default(), Instant::now());
        succeed(&mut health, 5 * MS, start);
        health.began(start);
        assert!(health.admits(start + 1000 * MS));
        assert!(!health.admits(start + 2000 * MS));
        health.succeeded(Work::Write, 2100 * MS, start + 2100 * MS);
        assert!(health.admits(start + 2100 * MS));
    }

    #[test]
    fn a_slow_repository_that_makes_progress_is_not_silent() {
        let (mut health, start) = (Health::default(), Instant::now());
        for second in 0..10 {
            health.began(start + second * 1000 * MS);
            health.began(start + second * 1000 * MS);
            health.succeeded(Work::Write, 1000 * MS, start + (second + 1) * 1000 * MS);
        }
        assert!(health.admits(start + 11_000 * MS));
    }

    #[test]
    fn silence_while_others_answer_is_a_verdict() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.began(start);
        health.given_up(1600 * MS, start + 1600 * MS, 7);
        assert!(!health.admits(start + 1601 * MS));
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let (mut health, start) = (Health::default(), Instant::now());
        for _ in 0..8 {
            health.began(start);
        }
        for _ in 0..8 {
            health.failed("gone".to_owned(), start, start + 5 * MS, 0);
        }
        assert!(health.admits(start + 6 * MS), "one failure is no verdict");
        fail(&mut health, "gone", start + 10 * MS, 0);
        assert!(!health.admits(start + 11 * MS));
        assert!(
            health.admits(start + 10 * MS + FIRST_PAUSE),
            "and the pause has not grown"
        );
    }

    #[test]
    fn what_is_overtaken_again_and_again_is_put_aside_long_before_it_counts_as_silent() {
        let (mut health, start) = (Health::default(), Instant::now());
        succeed(&mut health, 5 * MS, start);
        for _ in 0..OVERTAKEN_TO_OPEN {
            assert!(health.admits(start + 30 * MS));
            health.began(start);
            health.given_up(30 * MS, start + 30 * MS, 0);
        }
        assert!(!health.admits(start + 31 * MS));
        assert!(health.admits(start + 30 * MS + FIRST_PAUSE), "a probe goes through");
        succeed(&mut health, 5 * MS, start + 600 * MS);
        assert_eq!(health.info(), HealthInfo::Up);
    }

    #[test]
    fn a_load_is_shared_in_proportion_to_speed() {
        let now = Instant::now();
        let (mut near, mut far) = (Health::default(), Health::default());
        succeed(&mut near, 10 * MS, now);
        succeed(&mut far, 40 * MS, now);
        let mut counts = (0, 0);
        for _ in 0..25 {
            if near.rank(now) <= far.rank(now) {
                near.began(now);
                counts.0 += 1;
            } else {
                far.began(now);
                counts.1 += 1;
            }
        }
        assert_eq!(counts, (20, 5));
    }

    #[test]
    fn a_bad_time_is_forgotten() {
        let (mut health, start) = (Health::default(), Instant::now());
        succeed(&mut health, 800 * MS, start);
        assert!(health.rank(start + Duration::from_secs(60)).2 < 20 * MS);
    }
}
