//! openraft's own conformance suite on both stores.

use std::io::Write;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftSnapshotBuilder, SnapshotMeta, StorageError};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{Folder, LogStore, StateStore};
use crate::consensus::TypeConfig;
use crate::options::CatalogOptions;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore), StorageError<u64>> {
        let guard = tempfile::tempdir().unwrap();
        let folder = Folder::create(&guard.path().join("catalog")).await.unwrap();
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

/// Between what openraft asks for, the process may be killed.
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
    let mut received = state.begin_receiving_snapshot().await.unwrap().into_std().await;
    received.write_all(b"no snapshot").unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(id(3)),
        ..SnapshotMeta::default()
    };
    let snapshot = Box::new(tokio::fs::File::from_std(received));
    let (purged, installed) = tokio::join!(log.purge(id(3)), state.install_snapshot(&meta, snapshot));
    installed.unwrap_err();
    purged.unwrap_err();
}
