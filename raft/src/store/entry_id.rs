//! Names of log entries.

use std::fmt;
use std::str::FromStr;

use openraft::LogId;
use serde::{Deserialize, Serialize};

/// An entry of the log: the term in which it was written, and its place. Written `TERM.INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The term.
    pub term: u64,
    /// The place.
    pub index: u64,
}

/// A text that names no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no entry of the log: use TERM.INDEX, as the node's message does")]
pub struct EntryIdError(pub String);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('.').and_then(|(term, index)| {
            let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let (term, index) = (is_number(term) && is_number(index)).then_some((term, index))?;
            Some(Self {
                term: term.parse().ok()?,
                index: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| EntryIdError(text.to_owned()))
    }
}

impl From<LogId<u64>> for EntryId {
    fn from(id: LogId<u64>) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

/// How far a node's state goes, and what of the log it has left out. Two nodes that have come past an entry which only one
/// of them has left out have different states: they must not work together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The index of the last entry that was applied or left out.
    pub applied: u64,
    /// The entries that were left out.
    pub skipped: Vec<EntryId>,
}

impl Mark {
    /// An entry that one has left out and the other has applied.
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
    fn entries_have_names() {
        let entry = EntryId { term: 3, index: 17 };
        assert_eq!(entry.to_string(), "3.17");
        assert_eq!("3.17".parse(), Ok(entry));
        for bad in [
            "",
            "3",
            "3.",
            ".",
            "+3.17",
            "3.17.1",
            "3,17",
            "99999999999999999999.1",
            "a.b",
        ] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_difference_is_found_from_either_side_and_only_behind_the_entry() {
        let entry = EntryId { term: 1, index: 5 };
        let mark = |applied, skips: bool| Mark {
            applied,
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
}
