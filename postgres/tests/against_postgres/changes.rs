//! Maps of changed blocks: they lack no changed block, and name the same blocks as pg_waldump.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use pgmesh_postgres::page::{self, PAGE_SIZE};
use pgmesh_postgres::wal::{BlockReference, Candidates, ChangeMap, Joiner, SegmentMap, SegmentMapper, SegmentReader};
use pgmesh_postgres::{ControlFile, EntryKind, Lsn, RelationFile, SegmentName, WalkOptions, walk};

use crate::cluster::Cluster;
use crate::majors::majors;
use crate::waldump::Dump;
use crate::workload;

#[test]
fn maps_miss_no_changed_block_and_agree_with_pg_waldump() {
    // The versions do not depend on each other: two at once keep two cores busy.
    for pair in majors().chunks(2) {
        thread::scope(|scope| {
            for major in pair {
                scope.spawn(|| changes_of(*major));
            }
        });
    }
}

fn changes_of(major: u32) {
    let mut cluster = Cluster::of_major(major, &["--data-checksums", "--wal-segsize=1"]);
    cluster.start(workload::SETTINGS);
    cluster.sql(&[
        "CREATE TABLE untouched AS SELECT i FROM generate_series(1, 10000) i",
        "VACUUM untouched",
        // A map names all changes of a segment, also those before the range: so the range begins in a new segment.
        "SELECT pg_switch_wal()",
    ]);
    let untouched = cluster
        .sql(&["SELECT pg_relation_filepath('untouched')"])
        .trim()
        .to_owned();
    cluster.stop();
    let before = copy_of(&cluster);
    let from = ControlFile::read(&before).unwrap().redo;

    cluster.start(workload::SETTINGS);
    workload::run(&mut cluster, major);
    cluster.stop();
    let control = ControlFile::read(&cluster.pgdata()).unwrap();
    let wal = Wal {
        folder: cluster.pgdata().join("pg_wal"),
        control,
    };

    let joined = wal.joined(from);
    assert_eq!(joined.candidates(&untouched), Candidates::Blocks(<_>::default()));
    missing_blocks(&cluster, &before, &joined);
    agrees_with_pg_waldump(&cluster, &wal, from, &joined);
}

/// A copy of the data directory as it is.
fn copy_of(cluster: &Cluster) -> PathBuf {
    let copy = cluster.beside("before");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(cluster.pgdata())
        .arg(&copy)
        .status();
    assert!(status.unwrap().success());
    copy
}

/// The WAL of a cluster that was stopped.
struct Wal {
    folder: PathBuf,
    control: ControlFile,
}

impl Wal {
    fn segment(&self, name: SegmentName) -> Vec<u8> {
        fs::read(self.folder.join(name.to_string())).unwrap()
    }

    /// The complete segments from the position `from` on.
    fn complete(&self, from: Lsn) -> Vec<SegmentName> {
        let (timeline, size) = (self.control.checkpoint_timeline, self.control.segment_size);
        let last = SegmentName::containing(timeline, self.control.checkpoint, size);
        let first = SegmentName::containing(timeline, from, size);
        std::iter::successors(Some(first), |name| Some(name.next(size)))
            .take_while(|name| *name < last)
            .collect()
    }

    /// The map of the WAL from `from` up to the checkpoint of the shutdown.
    fn joined(&self, from: Lsn) -> ChangeMap {
        let (size, version, to) = (self.control.segment_size, self.control.version, self.control.checkpoint);
        let mut joiner = Joiner::new(self.control.checkpoint_timeline, size, version, from, to);
        let mut lengths = Vec::new();
        for name in self.complete(from) {
            let stored = SegmentMap::of(name, size, version, &self.segment(name)).encode();
            lengths.push(stored.len());
            let map = SegmentMap::decode(&stored).unwrap();
            joiner
                .add(&map)
                .unwrap_or_else(|error| panic!("PostgreSQL {version}: {error}"));
        }
        // The last segment was not archived: it is read up to the end of the range.
        if let Some(last) = joiner.wanted() {
            let mut mapper = SegmentMapper::new(last, size, version).up_to(to);
            mapper.feed(&self.segment(last));
            joiner.add(&mapper.finish()).unwrap();
        }
        let (total, most) = (lengths.iter().sum::<usize>(), lengths.iter().max().unwrap());
        println!(
            "PostgreSQL {version}: {} segments, {total} bytes of maps, at most {most}",
            lengths.len()
        );
        joiner.finish().unwrap()
    }
}

/// Compares the cluster with its earlier copy, block by block.
fn missing_blocks(cluster: &Cluster, before: &Path, map: &ChangeMap) {
    let version = ControlFile::read(before).unwrap().version;
    let tree = walk(&cluster.pgdata(), &WalkOptions::new(version)).unwrap();
    let (mut blocks, mut changed, mut named) = (0, 0, 0);
    for entry in &tree.entries {
        let (Some(file), EntryKind::File { .. }) = (RelationFile::parse(&entry.path), &entry.kind) else {
            continue;
        };
        let now = fs::read(entry.disk_path()).unwrap();
        // A new file is read whole in any case, so its blocks do not count here.
        let Ok(then) = fs::read(before.join(&entry.path)) else {
            continue;
        };
        let candidates = map.candidates(&entry.path);
        assert!(
            !file.is_always_read_whole() || candidates == Candidates::All,
            "{}",
            entry.path
        );
        for (number, page) in (0..).zip(page::pages(&now)) {
            let named_here = match &candidates {
                Candidates::All => true,
                Candidates::Blocks(blocks) => blocks.contains(number),
            };
            let start = number as usize * PAGE_SIZE;
            let differs = then.get(start..start + PAGE_SIZE) != Some(&page[..]);
            assert!(
                named_here || !differs,
                "PostgreSQL {version}: {} block {number} has changed",
                entry.path
            );
            (blocks, changed, named) = (blocks + 1, changed + u32::from(differs), named + u32::from(named_here));
        }
    }
    println!("PostgreSQL {version}: of {blocks} old blocks {changed} have changed, {named} are named");
    assert!(changed > 100, "only {changed} blocks have changed");
}

/// Compares the blocks of all records with pg_waldump's, and the map with pg_waldump's text.
fn agrees_with_pg_waldump(cluster: &Cluster, wal: &Wal, from: Lsn, joined: &ChangeMap) {
    let (size, version) = (wal.control.segment_size, wal.control.version);
    let segments = wal.complete(from);
    let dump = Dump::of(cluster, segments[0].start(size));
    let mut dumped = dump.records.clone();
    for name in &segments {
        let mut read = BTreeMap::new();
        let mut reader = SegmentReader::new(*name, size, version);
        let bytes = wal.segment(*name);
        let fed = reader.feed(&bytes, &mut |record| {
            read.insert(
                record.start,
                record.blocks.iter().copied().collect::<BTreeSet<BlockReference>>(),
            );
            Ok(())
        });
        fed.unwrap();
        for (at, blocks) in &read {
            assert_eq!(
                dumped.remove(at).as_ref(),
                Some(blocks),
                "PostgreSQL {version}, record {at}"
            );
        }
        // pg_waldump has printed one more record: the one that goes on in the next segment.
        let within = dumped.range(name.start(size)..name.end(size));
        let beside: Vec<Lsn> = within.map(|(at, _)| *at).collect();
        let last = read.last_key_value().map_or(name.start(size), |(at, _)| *at);
        assert!(
            beside.len() <= 1 && beside.iter().all(|at| *at > last),
            "PostgreSQL {version}: {beside:?} in {name}"
        );
    }
    assert_eq!(&dump.changes, joined, "PostgreSQL {version}");
    for kind in KINDS {
        assert!(
            dump.kinds.contains(*kind),
            "PostgreSQL {version} wrote no {kind}: {:?}",
            dump.kinds
        );
    }
}

/// The records that the workload must have written, so that the comparison covers them.
const KINDS: &[&str] = &[
    "Storage CREATE",
    "Storage TRUNCATE",
    "Transaction COMMIT",
    "Transaction ABORT",
    "Transaction COMMIT_PREPARED",
    "Transaction ABORT_PREPARED",
    "Database DROP",
    "XLOG OVERWRITE_CONTRECORD",
    "XLOG SWITCH",
    "XLOG FPI_FOR_HINT",
    "Gin INSERT",
    "Gist PAGE_UPDATE",
    "Hash INSERT",
    "SPGist ADD_LEAF",
    "BRIN INSERT",
    "Generic Generic",
    "LogicalMessage MESSAGE",
    "Heap LOCK",
    "Heap2 VISIBLE",
    "RelMap UPDATE",
    "Sequence LOG",
];
