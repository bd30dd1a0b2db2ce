//! What the state of a node has come of: a digest over all that its entries have written, one after the other.
//!
//! `apply` is a function (invariant 10), so two nodes that have applied the same entries have the same digest. A program
//! that applies an entry otherwise, or a disk that has changed a row which a later entry was decided by, shows at the
//! next message between the two, and they work together no more.

use openraft::LogId;
use pgmesh_storage::DigestSuite;
use serde::{Deserialize, Serialize};

use crate::apply::Writes;
use crate::table::Table;

/// Beside the newest link, those of entries whose index is a multiple of this are kept: two nodes that are not equally
/// far compare what both have.
const STEP: u64 = 64;
/// How many of those.
const KEPT: usize = 4;

/// The digest after an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The index of the entry.
    pub index: u64,
    /// Over the link before it, the index, and what the entry has written.
    pub digest: [u8; 32],
}

/// The newest link, and some before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// None before the first entry: a node that has just joined has nothing to compare.
    newest: Option<Link>,
    kept: Vec<Link>,
}

impl Chain {
    /// An entry was applied, and has written this.
    pub(crate) fn add(&mut self, entry: LogId<u64>, writes: &Writes) {
        let mut hasher = DigestSuite::Blake3.hasher();
        hasher.update(&self.newest.map(|link| link.digest).unwrap_or_default());
        hasher.update(&entry.index.to_be_bytes());
        for ((table, key), value) in writes {
            let number = Table::ALL
                .iter()
                .position(|known| known == table)
                .unwrap_or(Table::ALL.len());
            hasher.update(&(number as u64).to_be_bytes());
            hasher.update(&(key.len() as u64).to_be_bytes());
            hasher.update(key);
            // A deletion is told from any value by a length that none has.
            let length = value.as_ref().map_or(u64::MAX, |value| value.len() as u64);
            hasher.update(&length.to_be_bytes());
            hasher.update(value.as_deref().unwrap_or_default());
        }
        let newest = Link {
            index: entry.index,
            digest: *hasher.finalize().as_bytes(),
        };
        self.newest = Some(newest);
        if entry.index.is_multiple_of(STEP) {
            if self.kept.len() == KEPT {
                self.kept.remove(0);
            }
            self.kept.push(newest);
        }
    }

    /// What others compare with theirs.
    pub(crate) fn links(&self) -> Vec<Link> {
        self.kept.iter().chain(&self.newest).copied().collect()
    }
}

/// The first entry, of those that both have kept, after which two states are not the same.
pub(crate) fn parted(own: &[Link], theirs: &[Link]) -> Option<u64> {
    let differs = |link: &&Link| {
        let mut others = theirs.iter();
        others.any(|other| other.index == link.index && other.digest != link.digest)
    };
    own.iter().filter(differs).map(|link| link.index).min()
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn writes(value: Option<&[u8]>) -> Writes {
        Writes::from([((Table::Mesh, b"key".to_vec()), value.map(<[u8]>::to_vec))])
    }

    fn chain(entries: u64, odd: Option<(u64, Option<&[u8]>)>) -> Chain {
        let mut chain = Chain::default();
        for index in 1..=entries {
            let value = odd
                .filter(|(at, _)| *at == index)
                .map_or(Some(&b"value"[..]), |(_, value)| value);
            chain.add(LogId::new(CommittedLeaderId::new(1, 1), index), &writes(value));
        }
        chain
    }

    #[test]
    fn states_that_part_are_told_apart_from_then_on_however_far_each_is() {
        let whole = chain(200, None);
        assert_eq!(parted(&whole.links(), &chain(200, None).links()), None);
        assert_eq!(
            parted(&whole.links(), &chain(130, None).links()),
            None,
            "it lags behind"
        );
        for value in [None, Some(&b"other"[..]), Some(&b""[..])] {
            let other = chain(200, Some((100, value)));
            assert_eq!(parted(&whole.links(), &other.links()), Some(128), "{value:?}");
            let behind = chain(130, Some((100, value)));
            assert_eq!(parted(&behind.links(), &whole.links()), Some(128), "{value:?}");
            // At once where both are equally far.
            let other = chain(200, Some((200, value)));
            assert_eq!(parted(&whole.links(), &other.links()), Some(200), "{value:?}");
        }
        assert_eq!(chain(2000, None).links().len(), KEPT + 1);
    }
}
