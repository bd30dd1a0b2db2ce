//! A digest chain over the writes of a node's state: all writes of its entries, one after the other.
//!
//! `apply` is a function (invariant 10), so two nodes that have applied the same entries have the same digest. A
//! program that applies an entry otherwise, or a disk that has changed a row which a later entry was decided by, shows
//! at the next message between the two, and they work together no more.

use openraft::LogId;
use pgmesh_storage::DigestSuite;
use serde::{Deserialize, Serialize};

use super::mark::entry_id;
use crate::apply::Writes;
use crate::table::Table;
use pgmesh_protocol::EntryId;

/// Beside the newest links, the links of entries whose index is a multiple of this are kept: two nodes that are not
/// equally far compare the links that both have.
const STEP: u64 = 64;
/// How many links of such entries are kept.
const KEPT: usize = 4;
/// The newest ones are kept, too: between two nodes that work, one is an entry or two ahead.
const RECENT: usize = 4;

/// The digest after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The entry. If the terms of two nodes' entries differ, they have two histories, which is not for the chain to
    /// judge.
    pub entry: EntryId,
    /// Over the link before it, the index, and the writes of the entry.
    pub digest: [u8; 32],
}

/// The newest links, and some before them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// Empty before the first entry: a node that has just joined has nothing to compare.
    recent: Vec<Link>,
    kept: Vec<Link>,
}

impl Chain {
    /// An entry was applied, and has written this.
    pub(crate) fn add(&mut self, entry: LogId<u64>, writes: &Writes) {
        let mut hasher = DigestSuite::Blake3.hasher();
        hasher.update(&self.recent.last().map(|link| link.digest).unwrap_or_default());
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
            entry: entry_id(entry),
            digest: *hasher.finalize().as_bytes(),
        };
        push(&mut self.recent, newest, RECENT);
        if entry.index.is_multiple_of(STEP) {
            push(&mut self.kept, newest, KEPT);
        }
    }

    /// The links that another node compares with its own.
    pub(crate) fn links(&self) -> Vec<Link> {
        self.kept.iter().chain(&self.recent).copied().collect()
    }
}

/// Keeps the last so many.
fn push(links: &mut Vec<Link>, link: Link, most: usize) {
    if links.len() == most {
        links.remove(0);
    }
    links.push(link);
}

/// The result of comparing the links of two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The states are not the same after this entry, the first that both have kept and whose links differ.
    Parted(u64),
    /// They are the same after this entry, the last that both have kept.
    Same(u64),
    /// There is no entry that both have kept.
    Unknown,
}

pub(crate) fn compare(own: &[Link], theirs: &[Link]) -> Compared {
    let both = own.iter().filter_map(|link| {
        let other = theirs.iter().find(|other| other.entry == link.entry)?;
        Some((link.entry.index, other.digest == link.digest))
    });
    let (same, parted): (Vec<_>, Vec<_>) = both.partition(|(_, is_same)| *is_same);
    match (parted.iter().min(), same.iter().max()) {
        (Some((index, _)), _) => Compared::Parted(*index),
        (None, Some((index, _))) => Compared::Same(*index),
        (None, None) => Compared::Unknown,
    }
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
        let of = |one: &Chain, other: &Chain| compare(&one.links(), &other.links());
        let whole = chain(200, None);
        assert_eq!(of(&whole, &chain(200, None)), Compared::Same(200));
        assert_eq!(of(&whole, &chain(130, None)), Compared::Same(128), "it lags behind");
        assert_eq!(of(&chain(2000, None), &whole), Compared::Unknown, "too far behind");
        for value in [None, Some(&b"other"[..]), Some(&b""[..])] {
            let other = chain(200, Some((100, value)));
            assert_eq!(of(&whole, &other), Compared::Parted(128), "{value:?}");
            let behind = chain(130, Some((100, value)));
            assert_eq!(of(&behind, &whole), Compared::Parted(128), "{value:?}");
            // At once where both are equally far.
            let other = chain(200, Some((200, value)));
            assert_eq!(of(&whole, &other), Compared::Parted(200), "{value:?}");
        }
        assert_eq!(chain(2000, None).links().len(), KEPT + RECENT);
        assert_eq!(of(&Chain::default(), &whole), Compared::Unknown);
    }
}
