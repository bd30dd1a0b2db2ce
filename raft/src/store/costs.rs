//! A measurement: the costs of reads and of a snapshot in a catalog of a million WAL files and ten thousand backups.
//! Run it with `cargo nextest run --release -E 'test(costs_of_a_large_catalog)' --run-ignored=only --no-capture`.

use std::fs;
use std::time::Duration;
use tokio::time::Instant;

use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftSnapshotBuilder};
use pgmesh_storage::{DbId, Digest, DigestSuite};

use super::{Folder, StateStore};
use crate::apply::scenario::{
    begin, commit, create_stanza, found, label, push_segment, register, register_node, replica, segment_name, stanza,
};
use crate::apply::{Base, Txn, Writes, apply, next_index};
use crate::command::{Command, Proposal};
use crate::consensus::{Batch, TypeConfig};
use crate::model::{LogIndex, RequestId, SegmentRecord, SessionId, SessionKind};
use crate::table::Table;
use crate::{CatalogOptions, View, key, value};

const FILES: u32 = 1_000_000;
const BACKUPS: u32 = 10_000;
/// Entries between two snapshots, as by default.
const ENTRIES: u64 = 20_000;

fn proposal(number: u64, command: Command) -> Proposal {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Proposal {
        id: RequestId(id),
        at: 1,
        actor: "test".to_owned(),
        command,
    }
}

fn entry(index: u64, command: Command) -> Entry<TypeConfig> {
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
        payload: EntryPayload::Normal(Batch(vec![proposal(index, command)])),
    }
}

/// Bytes that this process has written to disks.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find(|line| line.starts_with("write_bytes")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn digest(number: u64) -> Digest {
    DigestSuite::Blake3.digest(&number.to_le_bytes())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(what: &str, mut work: impl FnMut()) {
    work();
    let times = (0..21).map(|_| {
        let began = Instant::now();
        work();
        began.elapsed()
    });
    println!("{what}: {:?}", median(times.collect()));
}

/// The rows, as `apply` writes them.
fn fill(state: &StateStore) {
    let (db, mut writes) = (state.current(), Writes::new());
    let raft = db.raft_state().unwrap();
    let mut segment = SegmentRecord {
        object: push_segment(1, 1, 1).object.stored(vec![replica(1, 0), replica(2, 0)]),
        pushed_at: 1,
        pushed: LogIndex(1),
        expired: crate::ExpiredIn::new(),
    };
    for number in 0..FILES {
        segment.object.digest = digest(number.into());
        let name = format!("{:08X}{:08X}{:08X}", 1, number / 256, number % 256);
        let row = key::segment(&stanza(), DbId(1), &name);
        writes.insert((Table::Segments, row), Some(value::encode(&segment)));
        if writes.len() >= 10_000 {
            db.write(&std::mem::take(&mut writes), &raft).unwrap();
        }
    }
    let record = commit(SessionId(LogIndex(1)), "20250215-000000F", LogIndex(1)).record;
    for number in 0..BACKUPS {
        let label = match number % 10 {
            0 => label(&format!("20250215-{number:06}F")),
            _ => label(&format!("20250215-{:06}F_20250216-{number:06}I", number - number % 10)),
        };
        writes.insert(
            (Table::Backups, key::backup(&stanza(), &label)),
            Some(value::encode(&record)),
        );
        let row = key::timeline_backup(&stanza(), record.db, record.timeline, &label);
        writes.insert((Table::TimelineBackups, row), Some(value::encode(&())));
    }
    db.write(&writes, &raft).unwrap();
}

/// One more WAL file with every command, the longest of which is the pause.
async fn push(state: &mut StateStore, index: u64) -> Duration {
    let mut push = push_segment(1, 0, 1);
    let number = u64::from(FILES) + index;
    push.file = format!("{:08X}{:08X}{:08X}", 1, number / 256, number % 256)
        .parse()
        .unwrap();
    push.object.digest = digest(number);
    push.checked_at = LogIndex(u64::MAX);
    let view = View::new(state.current());
    for claim in &mut push.object.claims {
        claim.identity = view.repository(claim.replica.repo).unwrap().unwrap().identity();
    }
    let began = Instant::now();
    let entries = [entry(index, Command::PushSegment(Box::new(push)))];
    let outcomes = state.apply(entries).await.unwrap();
    assert!(outcomes[0].0[0].is_ok(), "{outcomes:?}");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes"]
async fn costs_of_a_large_catalog() {
    let guard = tempfile::tempdir().unwrap();
    let folder = Folder::create(&guard.path().join("catalog")).await.unwrap();
    let mut state = StateStore::open(&folder, &CatalogOptions::default()).unwrap();
    let commands = [
        found("m"),
        register_node("n1", 1),
        register(1),
        register(2),
        create_stanza(7),
    ];
    let mut index = 0;
    for command in commands {
        index += 1;
        let outcomes = state.apply([entry(index, command)]).await.unwrap();
        assert!(outcomes[0].0[0].is_ok(), "{outcomes:?}");
    }
    index += 1;
    let open = Command::OpenSession {
        kind: SessionKind::Backup,
        stanza: Some(stanza()),
        holder: "test".to_owned(),
        node: "n1".parse().unwrap(),
        resume_key: None,
    };
    state.apply([entry(index, open)]).await.unwrap();
    let session = SessionId(LogIndex(index));
    let began = Instant::now();
    fill(&state);
    println!("filled in {:?}", began.elapsed());

    let db = state.current();
    let view = View::new(db.clone());
    timed("first and last segment", || {
        let bounds = view.segment_bounds(&stanza(), DbId(1)).unwrap();
        assert_eq!(bounds.unwrap().0, segment_name(1, 0));
    });
    timed("apply of a backup's beginning", || {
        let mut txn = Txn::new(db.as_ref());
        let next = next_index(&txn).unwrap();
        let begin = proposal(1 << 40, begin(session, "20260101-000000F"));
        apply(&mut txn, next, begin).unwrap().unwrap();
    });
    timed("all labels", || {
        let rows = db.scan(
            Table::Backups,
            &key::stanza_prefix(&stanza()),
            &key::stanza_prefix(&stanza()),
        );
        assert!(
            rows.map(|row| key::read_backup(&row.unwrap().0).unwrap().1)
                .max()
                .is_some()
        );
    });
    timed("all backups", || {
        assert_eq!(view.backups(&stanza(), None).count(), 10_000)
    });
    timed("the newest backup", || {
        drop(view.backups_back(&stanza(), None).next().unwrap().unwrap())
    });
    timed("the newest backup of each timeline", || {
        assert_eq!(view.newest_backups(&stanza(), DbId(1)).unwrap().len(), 1);
    });

    drop(state.get_snapshot_builder().await.build_snapshot().await.unwrap());
    for round in 1..=3 {
        let mut quiet = Vec::new();
        for _ in 0..ENTRIES {
            index += 1;
            quiet.push(push(&mut state, index).await);
        }
        let before = written();
        let building = tokio::spawn({
            let mut builder = state.get_snapshot_builder().await;
            async move {
                let began = Instant::now();
                builder.build_snapshot().await.unwrap();
                began.elapsed()
            }
        });
        let mut busy = Vec::new();
        while !building.is_finished() {
            index += 1;
            busy.push(push(&mut state, index).await);
        }
        let took = building.await.unwrap();
        println!(
            "snapshot {round}: {took:?}, {} KiB written; the longest apply meanwhile {:?}, median {:?} ({:?} before)",
            (written() - before) >> 10,
            busy.iter().max().unwrap(),
            median(busy.clone()),
            median(quiet),
        );
        // As every node did for every snapshot.
        let (before, began) = (written(), Instant::now());
        let (packed, file) = state.inner.current_snapshot().unwrap().packed().unwrap();
        file.sync_all().unwrap();
        let bytes = (written() - before) >> 10;
        println!("packed into one file: {:?}, {bytes} KiB written", began.elapsed());
        drop(packed);
    }
}

/// The bytes of all files of a folder, RocksDB's write-ahead log included.
fn bytes_of(folder: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += match metadata.is_dir() {
            true => bytes_of(&entry.path()),
            false => metadata.len(),
        };
    }
    bytes
}

/// A million chunks of one stanza, each born once: what a question for the right costs, and what a chunk takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes"]
async fn costs_of_rights() {
    const CHUNKS: u64 = 1_000_000;
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().join("catalog");
    let folder = Folder::create(&path).await.unwrap();
    let state = StateStore::open(&folder, &CatalogOptions::default()).unwrap();
    let (db, mut writes) = (state.current(), Writes::new());
    let raft = db.raft_state().unwrap();
    let (owner, other, born) = (stanza(), "other".parse().unwrap(), label("20250215-000000F"));
    for table in [Table::Uses, Table::BackupUses] {
        let before = bytes_of(&path);
        for number in 0..CHUNKS {
            let key = match table {
                Table::Uses => key::chunk_use(&digest(number), &owner, &born),
                _ => key::backup_use(&owner, &born, &digest(number)),
            };
            writes.insert((table, key), Some(value::encode(&crate::UseEvent::Born)));
            if writes.len() >= 10_000 {
                db.write(&std::mem::take(&mut writes), &raft).unwrap();
            }
        }
        println!(
            "{table}: {} bytes a chunk on disk, the log included",
            (bytes_of(&path) - before) / CHUNKS
        );
    }
    let view = View::new(db.clone());
    let mut number = 0;
    let mut ask = |what: &str, of: &pgmesh_storage::StanzaName, from: u64, expected: bool| {
        timed(&format!("1000 questions: {what}"), || {
            let rights = view.rights([of]).unwrap();
            for _ in 0..1000 {
                number += 7919;
                assert_eq!(rights.has(&digest(from + number % CHUNKS)).unwrap(), expected);
            }
        });
    };
    ask("a chunk of its own", &owner, 0, true);
    ask("a chunk of another stanza", &other, 0, false);
    ask("a chunk that is not there", &owner, CHUNKS, false);
    timed("1000 chunks looked up in table chunks", || {
        let digests: Vec<_> = (0..1000).map(digest).collect();
        assert_eq!(view.chunks(&digests).unwrap().len(), 1000);
    });
}
