//! How far a state goes, and which history it has.

use super::chain::{self, Compared, Link};
use openraft::LogId;
use pgmesh_protocol::EntryId;
use serde::{Deserialize, Serialize};

/// The name of an entry.
pub(crate) fn entry_id(id: LogId<u64>) -> EntryId {
    EntryId {
        term: id.leader_id.term,
        index: id.index,
    }
}

/// How far a node's state goes, and which entries of the log it has left out. If two nodes have come past an entry that
/// only one of them has left out, their states differ: they must not work together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The index of the last entry that was applied or left out; 0 for none.
    pub applied: u64,
    /// The first entry that was applied of each of the last terms, the oldest first: they tell two histories apart.
    pub terms: Vec<EntryId>,
    /// The entries that were left out.
    pub skipped: Vec<EntryId>,
    /// The links of the state's digest chain after some of the last entries.
    pub links: Vec<Link>,
}

impl Mark {
    /// The term of an applied entry, if it is one of the last terms.
    fn term_at(&self, index: u64) -> Option<u64> {
        let first = self.terms.iter().rev().find(|first| first.index <= index);
        first.filter(|_| index <= self.applied).map(|first| first.term)
    }

    /// An entry that this node has applied, and in whose place the other node has applied another entry, as far as the
    /// last terms tell.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> Option<EntryId> {
        let index = self.applied.min(other.applied);
        let (own, theirs) = (self.term_at(index)?, other.term_at(index)?);
        (own != theirs).then_some(EntryId { term: own, index })
    }

    /// Whether the two states are the same, as far as both have kept the links of their chains.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Compared {
        chain::compare(&self.links, &other.links)
    }

    /// An entry that one node has left out and the other has applied.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<EntryId> {
        let applied_by = |one: &Self, entry: &EntryId| entry.index <= one.applied && !one.skipped.contains(entry);
        let mine = self.skipped.iter().find(|entry| applied_by(other, entry));
        mine.or_else(|| other.skipped.iter().find(|entry| applied_by(self, entry)))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_from_either_side_and_only_behind_the_entry() {
        let entry = EntryId { term: 1, index: 5 };
        let mark = |applied, skips: bool| Mark {
            links: vec![],
            applied,
            terms: vec![],
            skipped: if skips { vec![entry] } else { vec![] },
        };
        assert_eq!(mark(9, true).difference(&mark(9, false)), Some(entry));
        assert_eq!(mark(9, false).difference(&mark(9, true)), Some(entry));
        assert_eq!(
            mark(9, true).difference(&mark(4, false)),
            None,
            "it has not come there yet"
        );
        assert_eq!(mark(4, false).difference(&mark(9, true)), None);
        assert_eq!(mark(9, true).difference(&mark(6, true)), None);
    }

    #[test]
    fn two_histories_are_told_apart_by_where_their_terms_begin() {
        let mark = |applied, terms: &[(u64, u64)]| Mark {
            links: vec![],
            applied,
            terms: terms
                .iter()
                .map(|(term, index)| EntryId {
                    term: *term,
                    index: *index,
                })
                .collect(),
            skipped: vec![],
        };
        let whole = mark(15, &[(1, 1), (2, 8)]);
        assert_eq!(whole.contradicts(&whole), None);
        assert_eq!(whole.contradicts(&mark(12, &[(1, 1), (2, 8)])), None, "it lags behind");
        assert_eq!(
            whole.contradicts(&mark(40, &[(1, 1), (2, 8), (3, 16)])),
            None,
            "it has gone on"
        );
        let fork = EntryId { term: 2, index: 15 };
        assert_eq!(
            whole.contradicts(&mark(40, &[(1, 1), (3, 12)])),
            Some(fork),
            "it has lost the end"
        );
        assert_eq!(
            whole.contradicts(&mark(40, &[(3, 12), (4, 30)])),
            Some(fork),
            "and was elected again"
        );
        let shorter = EntryId { term: 2, index: 13 };
        assert_eq!(whole.contradicts(&mark(13, &[(1, 1), (3, 12)])), Some(shorter));
        assert_eq!(whole.contradicts(&mark(40, &[(4, 30)])), None, "too long ago");
        assert_eq!(whole.contradicts(&Mark::default()), None);
    }
}
