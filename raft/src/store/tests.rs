//! openraft's own conformance suite on both stores.

use std::collections::BTreeSet;
use std::fs;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftSnapshotBuilder, SnapshotMeta, StorageError};
use tempfile::TempDir;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Folder, LogStore, StateStore};
use crate::consensus::TypeConfig;
use crate::options::CatalogOptions;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore), StorageError<u64>> {
        let guard = tempfile::tempdir().unwrap();
        let folder = Folder::create(&guard.path().join("catalog")).await.unwrap();
        folder.complete().unwrap();
        let options = CatalogOptions::default();
        let log = LogStore::open(&folder, &options).unwrap();
        let state = StateStore::open(&folder, &options).unwrap();
        Ok((guard, log, state))
    }
}

#[test]
fn openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}

fn id(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

async fn stores() -> (TempDir, LogStore, StateStore) {
    let (guard, log, state) = Builder.build().await.unwrap();
    log.belongs_to(state.clone());
    (guard, log, state)
}

/// Between two of openraft's requests, the process may be killed.
#[tokio::test]
async fn the_log_drops_nothing_before_the_state_holds_it() {
    let (_guard, mut log, mut state) = stores().await;
    let mut purge = Box::pin(async {
        log.clone().purge(id(3)).await.unwrap();
    });
    let early = timeout(Duration::from_millis(100), &mut purge).await;
    assert!(early.is_err(), "the snapshot is not in place");
    assert_eq!(log.purged().unwrap(), None);
    // The snapshot of another node, which has applied three entries.
    let (_other, _, mut there) = stores().await;
    let entries = (1..=3).map(|index| Entry {
        log_id: id(index),
        payload: EntryPayload::Blank,
    });
    there.apply(entries).await.unwrap();
    let snapshot = there.get_snapshot_builder().await.build_snapshot().await.unwrap();
    state.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    purge.await;
    assert_eq!(log.purged().unwrap(), Some(id(3)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(3)));
}

#[tokio::test]
async fn a_log_does_not_wait_for_a_snapshot_that_cannot_be_put_in_place() {
    let (_guard, mut log, mut state) = stores().await;
    let mut received = state.begin_receiving_snapshot().await.unwrap();
    received.write_all(b"no snapshot").await.unwrap();
    received.flush().await.unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(id(3)),
        ..SnapshotMeta::default()
    };
    let (purged, installed) = tokio::join!(log.purge(id(3)), state.install_snapshot(&meta, received));
    installed.unwrap_err();
    purged.unwrap_err();
}

/// The names in the state's folder, without the files of the databases.
fn names(state: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(state).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn blanks(indexes: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Entry<TypeConfig>> {
    indexes.map(|index| Entry {
        log_id: id(index),
        payload: EntryPayload::Blank,
    })
}

fn applied(state: &StateStore) -> Option<u64> {
    state.current().raft_state().unwrap().last_applied.map(|id| id.index)
}

#[tokio::test]
async fn a_snapshot_shares_its_tables_and_is_packed_for_whoever_reads_it() {
    let (guard, _, mut state) = stores().await;
    let folder = guard.path().join("catalog/state");
    state.apply(blanks(1..=3)).await.unwrap();
    let first = state.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let tables = |database: &str| -> BTreeSet<u64> {
        let files = fs::read_dir(folder.join(database)).unwrap().map(|entry| entry.unwrap());
        let tables = files.filter(|file| file.path().extension().is_some_and(|end| end == "sst"));
        tables.map(|table| table.metadata().unwrap().ino()).collect()
    };
    assert!(!tables("snapshot-1").is_empty());
    assert!(tables("snapshot-1").is_subset(&tables("db-1")), "hard links");
    // Another takes its place while it is being read.
    let mut sent = first.snapshot;
    let length = sent.seek(SeekFrom::End(0)).await.unwrap();
    assert!(length > 0);
    // And another, which might take its name, and is packed, too.
    for index in 4..=5 {
        state.apply(blanks(index..=index)).await.unwrap();
        let mut other = state
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await
            .unwrap()
            .snapshot;
        assert!(other.seek(SeekFrom::End(0)).await.unwrap() > 0);
    }
    sent.seek(SeekFrom::Start(0)).await.unwrap();
    let (_other, _, mut there) = stores().await;
    let mut received = there.begin_receiving_snapshot().await.unwrap();
    assert_eq!(tokio::io::copy(&mut sent, &mut received).await.unwrap(), length);
    received.flush().await.unwrap();
    drop(sent);
    let left = names(&folder);
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.iter().any(|name| name.starts_with("snapshot-")), "{left:?}");
    there.install_snapshot(&first.meta, received).await.unwrap();
    assert_eq!(applied(&there), Some(3));
    let current = there.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, first.meta);
}

/// A process is killed between any two steps of making a snapshot, or of putting one in place: the next process opens
/// the folder as it was then.
#[tokio::test]
async fn a_crash_leaves_the_snapshot_before_or_the_new_one() {
    let (guard, _, mut state) = stores().await;
    let folder = guard.path().join("catalog/state");
    state.apply(blanks(1..=3)).await.unwrap();
    drop(state.get_snapshot_builder().await.build_snapshot().await.unwrap());
    drop(state);
    let reopened = || async {
        let catalog = reopen(guard.path()).await;
        StateStore::open(&catalog, &CatalogOptions::default()).unwrap()
    };
    let kept = async |state: &mut StateStore| {
        let snapshot = state.get_current_snapshot().await.unwrap();
        snapshot
            .and_then(|snapshot| snapshot.meta.last_log_id)
            .map(|id| id.index)
    };
    // The folder was made, and not named yet, as was the folder of a received snapshot.
    for left in ["checkpoint.tmp", "snapshot-7", "received.tmp", "db-9"] {
        copy(&folder.join("snapshot-1"), &folder.join(left));
    }
    fs::write(folder.join("SNAPSHOT.tmp"), "{").unwrap();
    fs::write(folder.join("snapshot-1.packed"), "half").unwrap();
    let mut state = reopened().await;
    assert_eq!(kept(&mut state).await, Some(3));
    let expected = ["CURRENT", "SNAPSHOT", "db-1", "snapshot-1"].map(str::to_owned);
    assert_eq!(names(&folder), BTreeSet::from(expected));
    // The new one is named, and the one before was not removed.
    copy(&folder.join("snapshot-1"), &folder.join("before"));
    state.apply(blanks(4..=5)).await.unwrap();
    drop(state.get_snapshot_builder().await.build_snapshot().await.unwrap());
    drop(state);
    fs::rename(folder.join("before"), folder.join("snapshot-1")).unwrap();
    let mut state = reopened().await;
    assert_eq!(kept(&mut state).await, Some(5));
    let expected = ["CURRENT", "SNAPSHOT", "db-1", "snapshot-2"].map(str::to_owned);
    assert_eq!(names(&folder), BTreeSet::from(expected));
    // The tables are lost: they are made anew from it.
    drop(state);
    fs::write(folder.join("db-1/CURRENT"), "MANIFEST-999999\n").unwrap();
    let catalog = reopen(guard.path()).await;
    let mut state = StateStore::open_after(&catalog, &CatalogOptions::default(), Some(id(5))).unwrap();
    assert_eq!((applied(&state), kept(&mut state).await), (Some(5), Some(5)));
}

async fn reopen(guard: &Path) -> Folder {
    Folder::open(&guard.join("catalog")).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    super::kept::link_database(from, to).unwrap();
}
