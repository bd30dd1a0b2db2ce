//! When the leader lets another node lead, and when it does not try. Pure.
//!
//! openraft 0.9 cannot name a successor: the leader keeps silent until the others have elected a new leader
//! (`Catalog::step_aside`). If they cannot, the mesh has had no leader for four seconds. So a handover is tried only
//! when there is a node that can lead, and after a failure not again for a while.

use pgmesh_raft::AppendTimes;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// A disk is slow if appends take at least so long: below that, no client notices a difference.
const SLOW: Duration = Duration::from_millis(50);
/// And if they take so many times as long as on a follower's disk, network round trip included.
const SLOWER: u32 = 10;
/// And if both have been so for this time.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// The pause after the first failed attempt; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Whether another node shall lead: what the leader remembers of its attempts to hand over.
#[derive(Default)]
pub(crate) struct Lead {
    pub(crate) handover: Handover,
    pub(crate) slow: SlowDisk,
}

/// The outcomes of past attempts. They are kept over a short loss of the lead, since a failed attempt causes such a
/// loss.
#[derive(Debug, Default)]
pub struct Handover {
    /// Nodes that did not take the lead when they could have.
    unable: BTreeSet<u64>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Handover {
    /// Whether a handover to these nodes may be tried now.
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

/// After the lead was handed over because of a slow disk, so long not again for that reason: the leader's own load may
/// slow a disk down, and the lead would come straight back.
const REST: Duration = Duration::from_secs(600);

/// Since when this leader's disk has been much slower than the followers' disks.
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

    /// The lead is lost: the measurements are forgotten, the time of the last handover is not.
    pub fn lost_lead(&mut self) {
        self.since = None;
    }

    /// The followers whose disks are so much faster, once there have been such followers for `SLOW_FOR`.
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
        // After one good second, the count of slow seconds begins anew.
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
        // Nodes 2 and 3 have been tried: if node 3 goes and comes back, it is no new candidate.
        for successors in [&[2][..], &[3], &[2, 3]] {
            assert!(!handover.may_try(&set(successors), now), "{successors:?}");
        }
        assert!(handover.may_try(&set(&[3]), now + FIRST_PAUSE * 2));
    }
}
