//! What a log remembers besides its entries: how far it ever reached, and what other nodes must have.
//!
//! A node that was put back from a copy does not know that it lacks something; the others do. Each node therefore keeps,
//! for every other number of the group, two log positions:
//! - *acknowledged*: the last entry that the node has acknowledged to this one while this one led;
//! - *led*: the last entry in this node's log that the other one wrote as the leader. A leader's append is synced before it
//!   is sent, so the other one had it on disk.
//!
//! Positions are compared as Raft compares logs: the leader's term and number first, then the index. In this order the
//! position that a log has *reached* never falls. A later leader may cut uncommitted entries off the end: their place is
//! taken by entries of a higher term, and [`Ledger::reached`] remembers the old end for the time in between. So a log whose
//! node is whole has always reached everything that anybody knows of it, and one that has reached less has lost its end.

use std::collections::BTreeMap;

use openraft::LogId;
use serde::{Deserialize, Serialize};

/// For so many numbers, the newest ones, positions are kept. A number is given out once; old ones are gone for good.
const NUMBERS_KEPT: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    reached: Option<LogId<u64>>,
    /// The index of the log's last entry, or of the last one that was purged when it has none. It lies in another column
    /// family than the entries do: if one of them loses its end, they contradict each other.
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

    /// The highest position that another node is known to have had.
    pub(crate) fn known_of(&self, node_id: u64) -> Option<LogId<u64>> {
        let led = self.led.get(&node_id).copied();
        led.max(self.acknowledged.get(&node_id).copied())
    }

    /// Takes over from `written` what belongs to the log itself: this ledger may know newer acknowledgements.
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
    while map.len() > NUMBERS_KEPT {
        map.pop_first();
    }
    true
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
    fn only_the_newest_numbers_are_kept() {
        let mut ledger = Ledger::default();
        for node_id in 0..200 {
            ledger.acknowledge(node_id, id(1, 1, 1));
        }
        assert_eq!(ledger.known_of(100), None);
        assert_eq!(ledger.known_of(199), Some(id(1, 1, 1)));
    }
}
