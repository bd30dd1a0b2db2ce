//! When a request is repeated, where, and after what pause. The rules are the same for every request: each may be
//! repeated, at the same node and at others, and has one effect.

use pgmesh_protocol::{ExitCode, Failure};
use std::time::Duration;
use tokio::time::Instant;

/// The pause after the second failure in a row; the first is followed by a try elsewhere at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// An election is over within a second or two: a longer pause between two tries would add to it.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The first pause before a node that is busy is asked again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// A wait whose reason is told to the user.
const LONG: Duration = Duration::from_secs(5);

/// A request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// At another node, if there is one; this one is put last for a while.
    pub elsewhere: bool,
    /// After this long.
    pub pause: Duration,
}

/// One request's failures in a row.
#[derive(Debug)]
pub struct Retry {
    limit: Duration,
    failing_since: Option<Instant>,
    failures: u32,
    /// Answers of nodes that serve others first.
    busy: u32,
}

impl Retry {
    /// For a request that may keep failing for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            failing_since: None,
            failures: 0,
            busy: 0,
        }
    }

    /// How to repeat the request after a failure at `now`; `None`: the failure is final.
    pub fn after(&mut self, failure: &Failure, now: Instant) -> Option<Repeat> {
        let elsewhere = is_the_nodes(failure)?;
        let since = *self.failing_since.get_or_insert(now);
        let pause = pause(self.failures, elsewhere);
        self.failures = self.failures.saturating_add(1);
        let over = now.saturating_duration_since(since) + pause >= self.limit;
        (!over).then_some(Repeat { elsewhere, pause })
    }

    /// How to repeat the request after a node has said that it serves others first. That is no failure that lasts: the
    /// same node is asked again after a second, later ones after up to eight, and every fourth time another node is.
    pub fn after_busy(&mut self) -> Repeat {
        self.progress();
        self.busy = self.busy.saturating_add(1);
        Repeat {
            elsewhere: self.busy.is_multiple_of(4),
            pause: BUSY_PAUSE * (1 << (self.busy - 1).min(3)),
        }
    }

    /// Whether a wait begins that is long enough to be told of.
    pub fn begins_a_long_wait(&self) -> bool {
        self.failures == 1 && self.limit >= LONG
    }

    /// The request has come on since it failed: the next failure is the first one again.
    pub fn progress(&mut self) {
        (self.failing_since, self.failures) = (None, 0);
    }
}

/// Whether another node may know better; `None` where trying again is no use, or not wanted.
fn is_the_nodes(failure: &Failure) -> Option<bool> {
    match failure.code {
        _ if !failure.again => None,
        // The repositories' own refusal: PostgreSQL, or the user of a backup, decides when to try again.
        ExitCode::ArchiveTimeout => None,
        // Gone, going, without a majority; or its catalog fails.
        ExitCode::HostConnect | ExitCode::Runtime => Some(true),
        _ => Some(false),
    }
}

fn pause(failures_before: u32, elsewhere: bool) -> Duration {
    match failures_before {
        0 if elsewhere => Duration::ZERO,
        0 => FIRST_PAUSE,
        n => FIRST_PAUSE.saturating_mul(1 << (n - 1).min(8)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn failure(code: ExitCode) -> Failure {
        Failure::new(code, "it failed").again()
    }

    #[test]
    fn a_lost_node_is_left_at_once_and_others_are_asked_ever_more_slowly() {
        let (mut retry, now) = (Retry::new(LIMIT), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let repeat = retry.after(&failure(ExitCode::HostConnect), now).unwrap();
            assert!(repeat.elsewhere);
            pauses.push(repeat.pause.as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn what_is_no_nodes_fault_is_told_or_asked_again_there() {
        let (mut retry, now) = (Retry::new(LIMIT), Instant::now());
        assert_eq!(retry.after(&failure(ExitCode::ArchiveTimeout), now), None);
        assert_eq!(retry.after(&Failure::new(ExitCode::HostConnect, "refused"), now), None);
        let repeat = retry.after(&failure(ExitCode::Checksum), now).unwrap();
        assert!(!repeat.elsewhere && repeat.pause == FIRST_PAUSE);
    }

    #[test]
    fn a_busy_node_is_asked_again_and_another_one_now_and_then() {
        let mut retry = Retry::new(LIMIT);
        let repeats: Vec<(bool, u64)> = (0..5)
            .map(|_| retry.after_busy())
            .map(|repeat| (repeat.elsewhere, repeat.pause.as_secs()))
            .collect();
        assert_eq!(repeats, [(false, 1), (false, 2), (false, 4), (true, 8), (false, 8)]);
    }

    #[test]
    fn the_limit_counts_from_the_first_failure_in_a_row() {
        let (mut retry, start) = (Retry::new(LIMIT), Instant::now());
        let lost = failure(ExitCode::HostConnect);
        assert!(retry.after(&lost, start + LIMIT).is_some(), "it had not failed before");
        assert!(retry.after(&lost, start + LIMIT + Duration::from_secs(9)).is_some());
        assert!(retry.after(&lost, start + LIMIT + LIMIT).is_none());
        retry.progress();
        assert!(retry.after(&lost, start + LIMIT + LIMIT).is_some());
        assert!(retry.begins_a_long_wait());
        assert!(Retry::new(Duration::ZERO).after(&lost, start).is_none());
    }
}
