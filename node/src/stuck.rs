//! Hosts whose WAL is refused. PostgreSQL's archiver offers the lowest file first and again: while that is refused,
//! nothing newer leaves the host, and pg_wal fills. So each node remembers what it has refused, until the host's next
//! push succeeds.

use crate::protocol::StuckArchiver;
use crate::{Failure, Node, now_unix};
use pgmesh_raft::limits::{self, shortened};
use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many hosts are remembered.
const HOSTS: usize = 256;
/// A host that has not tried again for so many seconds archives no more, or by way of another node.
const FORGOTTEN_AFTER: i64 = 600;

/// What this node has refused, by stanza and host.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<BTreeMap<(StanzaName, String), StuckArchiver>>);

impl Refused {
    /// A push by `host` has ended.
    pub(crate) fn note(&self, stanza: &StanzaName, host: &str, file: &str, outcome: Result<(), &Failure>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (stanza.clone(), shortened(host.to_owned(), limits::HOLDER));
        let now = now_unix();
        let failure = match outcome {
            // A history may be brought for the sake of a file that is refused.
            Ok(()) if file.ends_with(".history") => return,
            Ok(()) => {
                refused.remove(&key);
                return;
            }
            // Nothing was decided: it is tried again, here or elsewhere.
            Err(failure) if failure.again => return,
            Err(failure) => failure,
        };
        refused.retain(|_, stuck| now.saturating_sub(stuck.last) < FORGOTTEN_AFTER);
        if refused.len() >= HOSTS && !refused.contains_key(&key) {
            return;
        }
        let since = refused
            .get(&key)
            .filter(|stuck| stuck.file == file)
            .map_or(now, |stuck| stuck.since);
        let stuck = StuckArchiver {
            stanza: key.0.to_string(),
            host: key.1.clone(),
            file: shortened(file.to_owned(), limits::NAME),
            since,
            last: now,
            code: failure.code,
            why: shortened(failure.what.clone(), limits::REASON),
            remedy: failure.remedy.clone().map(|remedy| shortened(remedy, limits::REASON)),
        };
        refused.insert(key, stuck);
    }

    fn list(&self) -> Vec<StuckArchiver> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_unix();
        let is_recent = |stuck: &&StuckArchiver| now.saturating_sub(stuck.last) < FORGOTTEN_AFTER;
        refused.values().filter(is_recent).cloned().collect()
    }
}

impl Node {
    /// The hosts whose WAL this node refuses now.
    pub(crate) fn stuck_archivers(&self) -> Vec<StuckArchiver> {
        self.refused.list()
    }
}

/// One line for each host, where several nodes have refused it.
pub(crate) fn merged(lists: impl IntoIterator<Item = StuckArchiver>) -> Vec<StuckArchiver> {
    let mut merged: BTreeMap<(String, String), StuckArchiver> = BTreeMap::new();
    for stuck in lists {
        let key = (stuck.stanza.clone(), stuck.host.clone());
        match merged.get_mut(&key) {
            Some(known) if known.last >= stuck.last => known.since = known.since.min(stuck.since),
            Some(known) => {
                let since = known.since.min(stuck.since);
                *known = StuckArchiver { since, ..stuck };
            }
            None => drop(merged.insert(key, stuck)),
        }
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code;

    #[test]
    fn a_host_is_stuck_until_a_push_of_it_succeeds() {
        let refused = Refused::default();
        let stanza: StanzaName = "main".parse().unwrap();
        let failure = Failure::new(code::ARCHIVE_MISMATCH, "no").remedy("do it");
        refused.note(&stanza, "client pg1", "00000001", Err(&failure));
        refused.note(&stanza, "client pg2", "00000001", Err(&failure.clone().again()));
        let list = refused.list();
        assert_eq!(list.len(), 1, "what may be tried again is not stuck: {list:?}");
        assert_eq!((list[0].host.as_str(), list[0].code), ("client pg1", 44));
        refused.note(&stanza, "client pg1", "00000002.history", Ok(()));
        assert_eq!(refused.list().len(), 1);
        refused.note(&stanza, "client pg1", "00000001", Ok(()));
        assert!(refused.list().is_empty());
        for number in 0..2 * HOSTS {
            refused.note(&stanza, &format!("client {number}"), "x", Err(&failure));
        }
        assert_eq!(refused.list().len(), HOSTS);
    }

    #[test]
    fn what_several_nodes_say_of_a_host_is_one_line() {
        let stuck = |host: &str, since, last| StuckArchiver {
            stanza: "main".to_owned(),
            host: host.to_owned(),
            file: "x".to_owned(),
            since,
            last,
            code: 44,
            why: format!("at {last}"),
            remedy: None,
        };
        let merged = merged([stuck("a", 5, 9), stuck("b", 1, 1), stuck("a", 3, 12)]);
        assert_eq!(merged, [stuck("a", 3, 12), stuck("b", 1, 1)]);
    }
}
