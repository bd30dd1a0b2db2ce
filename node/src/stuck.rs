//! Hosts whose WAL is refused. PostgreSQL's archiver offers the lowest file first and again: while that is refused, no
//! newer file leaves the host, and pg_wal fills. So each node remembers its refusals, until the host's next
//! push succeeds.

use pgmesh_protocol::{ExitCode, Failure, StuckArchiver, now_unix};
use pgmesh_raft::limits::{self, shortened};
use pgmesh_raft::{LogIndex, Server};
use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many data directories are remembered.
const ARCHIVERS: usize = 256;
/// So many data directories are remembered of one host, so that it cannot push other hosts out.
const OF_ONE_HOST: usize = 8;
/// A host that has not tried again for so many seconds archives no more, or by way of another node.
const FORGOTTEN_AFTER: i64 = 600;
/// A refusal after which the host may try again is an alarm when a file has failed for so many seconds.
const AGAIN: i64 = 60;
/// A server whose volume was moved goes on by itself.
const MOVED: i64 = 180;
/// A standby waits for its primary to archive, and for its next restartpoint when it follows another primary.
const STANDBY: i64 = 600;

/// Stanza, host, data directory and machine.
type Key = (StanzaName, String, String, String);

/// The refusals of this node.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<BTreeMap<Key, Entry>>);

#[derive(Debug)]
struct Entry {
    stuck: StuckArchiver,
    /// For so many seconds it may go on before it is an alarm.
    patience: i64,
    /// The catalog's position when it was refused last.
    position: u64,
}

impl Refused {
    /// A push by `host` has ended; it was refused where the catalog had come to that position.
    pub(crate) fn note(
        &self,
        stanza: &StanzaName,
        host: &str,
        server: &Server,
        file: &str,
        refusal: Option<(&Failure, LogIndex)>,
    ) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let host = shortened(host.to_owned(), limits::HOLDER);
        let key = (stanza.clone(), host, server.instance.clone(), server.machine.clone());
        let now = now_unix();
        let Some((failure, position)) = refusal else {
            // A history may be brought for the sake of a file that is refused.
            let is_aside = |entry: &Entry| file.ends_with(".history") && entry.stuck.file != file;
            if !refused.get(&key).is_some_and(is_aside) {
                refused.remove(&key);
            }
            return;
        };
        refused.retain(|_, entry| now.saturating_sub(entry.stuck.last) < FORGOTTEN_AFTER);
        let of_host = refused.keys().filter(|known| known.1 == key.1);
        let is_full = refused.len() >= ARCHIVERS || of_host.count() >= OF_ONE_HOST;
        if is_full && !refused.contains_key(&key) {
            return;
        }
        let before = refused.get(&key).filter(|entry| entry.stuck.file == file);
        let (since, first) = before.map_or((now, position.0), |entry| (entry.stuck.since, entry.stuck.position));
        let stuck = StuckArchiver {
            stanza: key.0.to_string(),
            host: key.1.clone(),
            address: server.address.clone(),
            instance: key.2.clone(),
            machine: key.3.clone(),
            position: first,
            file: shortened(file.to_owned(), limits::NAME),
            since,
            last: now,
            code: failure.code,
            why: shortened(failure.to_string(), limits::REASON),
            remedy: failure.remedy.clone().map(|remedy| shortened(remedy, limits::REASON)),
        };
        let patience = match () {
            () if server.in_recovery => STANDBY,
            () if failure.code == ExitCode::LockAcquire => MOVED,
            () if failure.again => AGAIN,
            () => 0,
        };
        let entry = Entry {
            stuck,
            patience,
            position: position.0,
        };
        refused.insert(key, entry);
    }

    pub(crate) fn list(&self) -> Vec<(StuckArchiver, u64)> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_unix();
        let is_alarm = |entry: &&Entry| {
            let Entry { stuck, patience, .. } = entry;
            now.saturating_sub(stuck.last) < FORGOTTEN_AFTER && stuck.last.saturating_sub(stuck.since) >= *patience
        };
        let alarms = refused.values().filter(is_alarm);
        alarms.map(|entry| (entry.stuck.clone(), entry.position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(instance: &str) -> Server {
        Server {
            instance: instance.to_owned(),
            address: "10.0.0.1".to_owned(),
            ..crate::testing::server()
        }
    }

    #[test]
    fn a_host_is_stuck_until_a_push_of_it_succeeds() {
        let refused = Refused::default();
        let stanza: StanzaName = "main".parse().unwrap();
        let failure = Failure::new(ExitCode::ArchiveMismatch, "no").remedy("do it");
        let here = server("a");
        refused.note(&stanza, "client pg1", &here, "00000001", Some((&failure, LogIndex(1))));
        refused.note(
            &stanza,
            "client pg2",
            &here,
            "00000001",
            Some((&failure.clone().again(), LogIndex(1))),
        );
        let standby = Server {
            in_recovery: true,
            ..server("s")
        };
        refused.note(
            &stanza,
            "client pg1",
            &standby,
            "00000001",
            Some((&failure, LogIndex(1))),
        );
        let list = refused.list();
        assert_eq!(list.len(), 1, "what may be tried again is not stuck at once: {list:?}");
        assert_eq!(
            (list[0].0.host.as_str(), list[0].0.code),
            ("client pg1", ExitCode::ArchiveMismatch)
        );
        refused.note(&stanza, "client pg1", &here, "00000002.history", None);
        refused.note(&stanza, "client pg1", &server("b"), "00000002", None);
        assert_eq!(refused.list().len(), 1, "another cluster of that host is another one");
        refused.note(&stanza, "client pg1", &here, "00000001", None);
        assert!(refused.list().is_empty());
        for number in 0..2 * ARCHIVERS {
            refused.note(
                &stanza,
                "client pg1",
                &server(&format!("{number}")),
                "x",
                Some((&failure, LogIndex(1))),
            );
        }
        assert_eq!(refused.list().len(), OF_ONE_HOST - 1, "beside the standby");
        for number in 0..2 * ARCHIVERS {
            refused.note(
                &stanza,
                &format!("client {number}"),
                &here,
                "x",
                Some((&failure, LogIndex(1))),
            );
        }
        assert_eq!(refused.0.lock().unwrap().len(), ARCHIVERS);
    }

    #[test]
    fn what_fails_again_and_again_is_an_alarm() {
        let refused = Refused::default();
        let stanza: StanzaName = "main".parse().unwrap();
        let failure = Failure::new(ExitCode::Checksum, "cannot be compared").again();
        let note = |file: &str| refused.note(&stanza, "client pg1", &server("a"), file, Some((&failure, LogIndex(1))));
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
}
