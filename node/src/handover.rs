//! When the leader lets another node lead, and when it does not try. Pure.
//!
//! openraft 0.9 cannot name a successor: the leader gives no sign of itself until the others have elected one of them
//! (`Catalog::step_aside`). If they cannot, the mesh has done without a leader for four seconds. So it is tried only
//! when there is a node that can lead, and after a failure not again for a while.

use pgmesh_raft::AppendTimes;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A disk is slow if appends take at least so long: below that nobody notices a difference.
const SLOW: Duration = Duration::from_millis(50);
/// And so many times as long as a follower's, with the way to it and back.
const SLOWER: u32 = 10;
/// And that for so long.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How long is waited after the first attempt that failed; after each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What the attempts so far have shown. It outlives a short loss of the lead, since an attempt that fails causes one.
#[derive(Debug, Default)]
pub struct Handover {
    /// Nodes that did not take the lead when they could have.
    unable: BTreeSet<u64>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Handover {
    /// Whether one of these nodes may be let to lead now.
    pub fn may_try(&self, successors: &BTreeSet<u64>, now: Instant) -> bool {
        let is_over = self.not_before.is_none_or(|not_before| now >= not_before);
        !successors.is_empty() && (is_over || !successors.is_subset(&self.unable))
    }

    /// None of these nodes has taken the lead.
    pub fn failed(&mut self, successors: BTreeSet<u64>, now: Instant) {
        self.unable.extend(successors);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.not_before = Some(now + self.pause);
    }
}

/// After the lead was handed over because of a slow disk, so long not again for that reason: what makes a disk slow may
/// follow the lead, and would come back with it.
const REST: Duration = Duration::from_secs(600);

/// Since when this leader's disk has been much slower than those of followers.
#[derive(Debug, Default)]
pub struct SlowDisk {
    since: Option<Instant>,
    rests_until: Option<Instant>,
}

impl SlowDisk {
    /// The lead was handed over, or that was tried.
    pub fn handed_over(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
    }

    /// The lead is lost: what was measured counts no more, when it was handed over does.
    pub fn lost_lead(&mut self) {
        self.since = None;
    }

    /// The followers whose disks are so much faster, when there have been some for long enough.
    pub fn observe(&mut self, times: &AppendTimes, now: Instant) -> BTreeSet<u64> {
        let own = times.own.filter(|own| *own >= SLOW);
        let is_faster = |took: &Duration| own.is_some_and(|own| took.saturating_mul(SLOWER) <= own);
        let faster: BTreeSet<u64> = times
            .others
            .iter()
            .filter(|(_, took)| is_faster(took))
            .map(|(node_id, _)| *node_id)
            .collect();
        if faster.is_empty() {
            self.since = None;
            return faster;
        }
        let since = *self.since.get_or_insert(now);
        let rests = self.rests_until.is_some_and(|until| now < until);
        if rests || now.duration_since(since) < SLOW_FOR {
            return BTreeSet::new();
        }
        faster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_leader_that_nobody_replaces_tries_less_and_less_often() {
        let start = Instant::now();
        let mut handover = Handover::default();
        assert!(handover.may_try(&set(&[2]), start));
        let mut attempts = 0;
        let day = 24 * 3600;
        for second in 0..day {
            let now = start + Duration::from_secs(second);
            if handover.may_try(&set(&[2]), now) {
                handover.failed(set(&[2]), now);
                attempts += 1;
            }
        }
        assert!((24..36).contains(&attempts), "{attempts} attempts in a day");
    }

    fn times(own: u64, others: &[(u64, u64)]) -> AppendTimes {
        AppendTimes {
            own: Some(Duration::from_millis(own)),
            others: others
                .iter()
                .map(|(id, took)| (*id, Duration::from_millis(*took)))
                .collect(),
        }
    }

    #[test]
    fn a_disk_is_slow_when_it_was_ten_times_slower_for_ten_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut slow = SlowDisk::default();
        for second in 0..10 {
            assert!(slow.observe(&times(1500, &[(2, 20), (3, 900)]), at(second)).is_empty());
        }
        assert_eq!(slow.observe(&times(1500, &[(2, 20), (3, 900)]), at(10)), set(&[2]));
        // One good second, and it begins anew.
        assert!(slow.observe(&times(30, &[(2, 20), (3, 20)]), at(11)).is_empty());
        assert!(slow.observe(&times(1500, &[(2, 20), (3, 20)]), at(12)).is_empty());
        assert_eq!(slow.observe(&times(1500, &[(2, 20), (3, 20)]), at(22)), set(&[2, 3]));
        // Slower by far, and still fast; nothing written; all are slow.
        for times in [times(40, &[(2, 1)]), AppendTimes::default(), times(1500, &[(2, 400)])] {
            assert!(slow.observe(&times, at(30)).is_empty());
            assert!(slow.observe(&times, at(50)).is_empty());
        }
    }

    #[test]
    fn a_slow_disk_that_gets_the_lead_back_keeps_it_for_a_while() {
        let start = Instant::now();
        let mut slow = SlowDisk::default();
        let mut attempts = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            if !slow.observe(&times(1500, &[(2, 20)]), now).is_empty() {
                attempts += 1;
                slow.handed_over(now);
                slow.lost_lead();
            }
        }
        assert_eq!(attempts, 6, "one in ten minutes");
    }

    #[test]
    fn without_a_successor_nothing_is_tried_and_with_another_one_at_once() {
        let now = Instant::now();
        let mut handover = Handover::default();
        assert!(!handover.may_try(&set(&[]), now));
        handover.failed(set(&[2]), now);
        assert!(!handover.may_try(&set(&[2]), now));
        assert!(handover.may_try(&set(&[2, 3]), now));
        handover.failed(set(&[2, 3]), now);
        // Both have been tried: one that comes and goes is no other.
        for successors in [&[2][..], &[3], &[2, 3]] {
            assert!(!handover.may_try(&set(successors), now), "{successors:?}");
        }
        assert!(handover.may_try(&set(&[3]), now + FIRST_PAUSE * 2));
    }
}
