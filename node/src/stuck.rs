//! Hosts whose WAL is refused. PostgreSQL's archiver offers the lowest file first and again: while that is refused,
//! nothing newer leaves the host, and pg_wal fills. So each node remembers what it has refused, until the host's next
//! push succeeds.

use crate::protocol::StuckArchiver;
use crate::{Failure, Node, now_unix};
use pgmesh_raft::Server;
use pgmesh_raft::limits::{self, shortened};
use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many data directories are remembered.
const ARCHIVERS: usize = 256;
/// Of one host so many: a host cannot push the others out.
const OF_ONE_HOST: usize = 4;
/// A host that has not tried again for so many seconds archives no more, or by way of another node.
const FORGOTTEN_AFTER: i64 = 600;
/// What may be tried again is an alarm when one file has failed for so many seconds.
const AGAIN: i64 = 60;
/// A standby waits for its primary to archive, and for its next restartpoint when it follows another one.
const STANDBY: i64 = 600;

/// What this node has refused, by stanza, host and data directory.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<BTreeMap<(StanzaName, String, String), Entry>>);

#[derive(Debug)]
struct Entry {
    stuck: StuckArchiver,
    /// For so many seconds it may go on before it is an alarm.
    patience: i64,
}

impl Refused {
    /// A push by `host` has ended.
    pub(crate) fn note(
        &self,
        stanza: &StanzaName,
        host: &str,
        server: &Server,
        file: &str,
        outcome: Result<(), &Failure>,
    ) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let host = shortened(host.to_owned(), limits::HOLDER);
        let key = (stanza.clone(), host, server.instance.clone());
        let now = now_unix();
        let failure = match outcome {
            // A history may be brought for the sake of a file that is refused.
            Ok(()) if file.ends_with(".history") => return,
            Ok(()) => {
                refused.remove(&key);
                return;
            }
            Err(failure) => failure,
        };
        refused.retain(|_, entry| now.saturating_sub(entry.stuck.last) < FORGOTTEN_AFTER);
        let of_host = refused.keys().filter(|known| (&known.0, &known.1) == (&key.0, &key.1));
        let is_full = refused.len() >= ARCHIVERS || of_host.count() >= OF_ONE_HOST;
        if is_full && !refused.contains_key(&key) {
            return;
        }
        let since = refused
            .get(&key)
            .filter(|entry| entry.stuck.file == file)
            .map_or(now, |entry| entry.stuck.since);
        let stuck = StuckArchiver {
            stanza: key.0.to_string(),
            host: key.1.clone(),
            address: server.address.clone(),
            instance: key.2.clone(),
            file: shortened(file.to_owned(), limits::NAME),
            since,
            last: now,
            code: failure.code,
            why: shortened(failure.to_string(), limits::REASON),
            remedy: failure.remedy.clone().map(|remedy| shortened(remedy, limits::REASON)),
        };
        let patience = match (server.in_recovery, failure.again) {
            (true, _) => STANDBY,
            (false, true) => AGAIN,
            (false, false) => 0,
        };
        refused.insert(key, Entry { stuck, patience });
    }

    fn list(&self) -> Vec<StuckArchiver> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_unix();
        let is_alarm = |entry: &&Entry| {
            let Entry { stuck, patience } = entry;
            now.saturating_sub(stuck.last) < FORGOTTEN_AFTER && stuck.last.saturating_sub(stuck.since) >= *patience
        };
        refused
            .values()
            .filter(is_alarm)
            .map(|entry| entry.stuck.clone())
            .collect()
    }
}

impl Node {
    /// The hosts whose WAL this node refuses now. Not those that have pushed to another node since.
    pub(crate) fn stuck_archivers(&self) -> Vec<StuckArchiver> {
        let view = self.catalog.view();
        let goes_on = |stuck: &StuckArchiver| {
            let stanza: StanzaName = stuck.stanza.parse().ok()?;
            let record = view.stanza(&stanza).ok()??;
            let mut pushes = view.last_pushes(&stanza, record.current()?.id);
            pushes
                .any(|push| push.is_ok_and(|push| push.instance == stuck.instance && push.at > stuck.last))
                .then_some(())
        };
        let mut stuck = self.refused.list();
        stuck.retain(|stuck| goes_on(stuck).is_none());
        stuck
    }
}

/// One line for each data directory, where several nodes have refused it.
pub(crate) fn merged<'a>(lists: impl IntoIterator<Item = &'a StuckArchiver>) -> Vec<StuckArchiver> {
    let mut merged: BTreeMap<(&str, &str, &str), StuckArchiver> = BTreeMap::new();
    for stuck in lists {
        let key = (&*stuck.stanza, &*stuck.host, &*stuck.instance);
        match merged.get_mut(&key) {
            Some(known) if known.last >= stuck.last => known.since = known.since.min(stuck.since),
            Some(known) => {
                let since = known.since.min(stuck.since);
                *known = StuckArchiver { since, ..stuck.clone() };
            }
            None => drop(merged.insert(key, stuck.clone())),
        }
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code;
    use pgmesh_postgres::TimelineId;

    fn server(instance: &str) -> Server {
        Server {
            instance: instance.to_owned(),
            machine: String::new(),
            address: "10.0.0.1".to_owned(),
            in_recovery: false,
            timeline: TimelineId(1),
            branches: Vec::new(),
        }
    }

    #[test]
    fn a_host_is_stuck_until_a_push_of_it_succeeds() {
        let refused = Refused::default();
        let stanza: StanzaName = "main".parse().unwrap();
        let failure = Failure::new(code::ARCHIVE_MISMATCH, "no").remedy("do it");
        let here = server("a");
        refused.note(&stanza, "client pg1", &here, "00000001", Err(&failure));
        refused.note(&stanza, "client pg2", &here, "00000001", Err(&failure.clone().again()));
        let standby = Server {
            in_recovery: true,
            ..server("s")
        };
        refused.note(&stanza, "client pg1", &standby, "00000001", Err(&failure));
        let list = refused.list();
        assert_eq!(list.len(), 1, "what may be tried again is not stuck at once: {list:?}");
        assert_eq!((list[0].host.as_str(), list[0].code), ("client pg1", 44));
        refused.note(&stanza, "client pg1", &here, "00000002.history", Ok(()));
        refused.note(&stanza, "client pg1", &server("b"), "00000002", Ok(()));
        assert_eq!(refused.list().len(), 1, "another cluster of that host is another one");
        refused.note(&stanza, "client pg1", &here, "00000001", Ok(()));
        assert!(refused.list().is_empty());
        for number in 0..2 * ARCHIVERS {
            refused.note(&stanza, "client pg1", &server(&format!("{number}")), "x", Err(&failure));
        }
        assert_eq!(refused.list().len(), OF_ONE_HOST - 1, "beside the standby");
        for number in 0..2 * ARCHIVERS {
            refused.note(&stanza, &format!("client {number}"), &here, "x", Err(&failure));
        }
        assert_eq!(refused.0.lock().unwrap().len(), ARCHIVERS);
    }

    #[test]
    fn what_fails_again_and_again_is_an_alarm() {
        let refused = Refused::default();
        let stanza: StanzaName = "main".parse().unwrap();
        let failure = Failure::new(code::CHECKSUM, "cannot be compared").again();
        let note = |file: &str| refused.note(&stanza, "client pg1", &server("a"), file, Err(&failure));
        note("00000001");
        refused
            .0
            .lock()
            .unwrap()
            .values_mut()
            .for_each(|entry| entry.stuck.since -= AGAIN);
        note("00000001");
        assert_eq!(refused.list().len(), 1);
        note("00000002");
        assert!(refused.list().is_empty(), "that one has only begun to fail");
    }

    #[test]
    fn what_several_nodes_say_of_a_host_is_one_line() {
        let stuck = |host: &str, since, last| StuckArchiver {
            stanza: "main".to_owned(),
            host: host.to_owned(),
            address: "10.0.0.1".to_owned(),
            instance: "i".to_owned(),
            file: "x".to_owned(),
            since,
            last,
            code: 44,
            why: format!("at {last}"),
            remedy: None,
        };
        let merged = merged(&[stuck("a", 5, 9), stuck("b", 1, 1), stuck("a", 3, 12)]);
        assert_eq!(merged, [stuck("a", 3, 12), stuck("b", 1, 1)]);
    }
}
