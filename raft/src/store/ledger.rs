//! The memory of a log besides its entries: how far it ever reached, and which entries other nodes must have.
//!
//! A node that was put back from a copy does not know that it lacks entries; the others do. Each node therefore keeps,
//! for every other number of the group, two log positions:
//! - *acknowledged*: the last entry that the node has acknowledged to this one while this one led;
//! - *led*: the last entry in this node's log that the other one wrote as the leader. A leader's append is synced
//!   before it is sent, so the other one had it on disk.
//!
//! Positions are compared as Raft compares logs: the leader's term and number first, then the index. In this order the
//! position that a log has *reached* never falls. A later leader may cut uncommitted entries off the end: their place
//! is taken by entries of a higher term, and [`Ledger::reached`] remembers the old end for the time in between. So if a
//! node is whole, its log has reached every position that another node knows of it; if it has reached less, it has lost
//! its end.

use std::collections::{BTreeMap, BTreeSet};

use openraft::LogId;
use serde::{Deserialize, Serialize};

/// For so many numbers positions are kept, and for all members. A number is given out once; old ones are gone for good.
const NUMBERS_KEPT: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    reached: Option<LogId<u64>>,
    /// The index of the log's last entry, or of the last purged entry when the log has none. It lies in another column
    /// family than the entries do: if one of the two families loses its end, they contradict each other.
    end: Option<u64>,
    led: BTreeMap<u64, LogId<u64>>,
    acknowledged: BTreeMap<u64, LogId<u64>>,
}

impl Ledger {
    /// The highest position that this log has ever had.
    pub(crate) fn reached(&self) -> Option<LogId<u64>> {
        self.reached
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> Option<u64> {
        self.end
    }

    /// An entry was appended.
    pub(crate) fn append(&mut self, entry: LogId<u64>) {
        self.hold(entry);
        self.end = Some(entry.index);
    }

    /// Entries from this index on were cut off.
    pub(crate) fn truncate(&mut self, from: u64) {
        self.end = self.end.min(from.checked_sub(1));
    }

    /// Entries up to this one are in the state: the log may have had them, or they came as a snapshot.
    pub(crate) fn purge(&mut self, upto: LogId<u64>) {
        self.hold(upto);
        self.end = self.end.max(Some(upto.index));
    }

    /// The node has this entry, in its log or its state.
    pub(crate) fn hold(&mut self, entry: LogId<u64>) {
        self.reached = self.reached.max(Some(entry));
        raise(&mut self.led, entry.leader_id.node_id, entry);
    }

    /// A follower has acknowledged its log up to this entry. Whether that is news.
    pub(crate) fn acknowledge(&mut self, node_id: u64, upto: LogId<u64>) -> bool {
        raise(&mut self.acknowledged, node_id, upto)
    }

    /// Whether there are so many numbers that numbers of nodes that have left the group may be dropped.
    pub(crate) fn is_long(&self) -> bool {
        self.led.len().max(self.acknowledged.len()) > NUMBERS_KEPT
    }

    /// Drops numbers that are not in the group any more, the lowest first. Whether there were any.
    pub(crate) fn forget_others(&mut self, members: &BTreeSet<u64>) -> bool {
        let led = prune(&mut self.led, members);
        prune(&mut self.acknowledged, members) || led
    }

    /// The highest position that another node is known to have had.
    pub(crate) fn known_of(&self, node_id: u64) -> Option<LogId<u64>> {
        let led = self.led.get(&node_id).copied();
        led.max(self.acknowledged.get(&node_id).copied())
    }

    /// Takes over from `written` the fields of the log itself: this ledger may know newer acknowledgements.
    pub(crate) fn follow(&mut self, written: &Self) {
        self.reached = self.reached.max(written.reached);
        self.end = written.end;
        self.led.clone_from(&written.led);
    }

    /// Whether both hold the same acknowledgements.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.acknowledged == other.acknowledged
    }
}

fn raise(map: &mut BTreeMap<u64, LogId<u64>>, node_id: u64, upto: LogId<u64>) -> bool {
    if map.get(&node_id).is_some_and(|known| *known >= upto) {
        return false;
    }
    map.insert(node_id, upto);
    true
}

/// Drops the lowest numbers that are no members.
fn prune(map: &mut BTreeMap<u64, LogId<u64>>, members: &BTreeSet<u64>) -> bool {
    let others: Vec<u64> = map.keys().copied().filter(|id| !members.contains(id)).collect();
    let excess = map.len().saturating_sub(NUMBERS_KEPT);
    for node_id in others.iter().take(excess) {
        map.remove(node_id);
    }
    excess > 0 && !others.is_empty()
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn id(term: u64, leader: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, leader), index)
    }

    #[test]
    fn a_log_that_a_later_leader_has_cut_has_not_lost_its_end() {
        let mut log = Ledger::default();
        let mut leader = Ledger::default();
        for index in 0..=10 {
            log.append(id(1, 1, index));
        }
        leader.acknowledge(2, id(1, 1, 10));
        // The leader of term 2 never had entries 9 and 10; the process ends before its own entry arrives.
        log.truncate(9);
        assert_eq!(log.end(), Some(8));
        assert!(log.reached() >= leader.known_of(2));
        log.append(id(2, 3, 9));
        assert_eq!(log.reached(), Some(id(2, 3, 9)));
        assert!(log.reached() >= leader.known_of(2));
    }

    #[test]
    fn what_a_node_led_or_acknowledged_is_known_whichever_is_later() {
        let mut ledger = Ledger::default();
        ledger.append(id(3, 2, 7));
        assert_eq!(ledger.known_of(2), Some(id(3, 2, 7)));
        assert!(ledger.acknowledge(2, id(4, 1, 8)));
        assert!(!ledger.acknowledge(2, id(4, 1, 8)));
        assert!(!ledger.acknowledge(2, id(3, 2, 9)), "an earlier leader's is lower");
        assert_eq!(ledger.known_of(2), Some(id(4, 1, 8)));
        assert_eq!(ledger.known_of(3), None);
    }

    #[test]
    fn of_old_numbers_only_those_that_are_no_members_are_dropped() {
        let mut ledger = Ledger::default();
        for node_id in 0..200 {
            assert!(ledger.acknowledge(node_id, id(1, 1, 1)));
        }
        assert!(ledger.is_long());
        let members = BTreeSet::from([0, 1, 150]);
        assert!(ledger.forget_others(&members));
        for kept in [0, 1, 150, 199] {
            assert_eq!(ledger.known_of(kept), Some(id(1, 1, 1)));
        }
        assert_eq!(ledger.known_of(2), None);
        assert!(!ledger.is_long());
        assert!(!ledger.forget_others(&members), "nothing is left to drop");
        // A group of more members than are kept otherwise.
        let mut ledger = Ledger::default();
        for node_id in 0..200 {
            ledger.append(id(1, node_id, 1));
        }
        assert!(!ledger.forget_others(&(0..200).collect()));
        assert_eq!(ledger.known_of(0), Some(id(1, 0, 1)));
    }
}
