//! A model of files and chunks, driven through random histories of changes, backups, expiries and restores.

use super::delta::pages::{PAGE, page_count};
use super::job::{Known, Past, Ready, ReadyJob};
use super::plan::{Jobs, size};
use super::prior::gather;
use super::queue::JobQueue;
use super::reader::{Reader, Reading};
use super::tally::Tally;
use crate::progress::{NoBar, Progress};
use futures::FutureExt;
use pgmesh_postgres::{Entry, EntryKind as WalkedKind};
use pgmesh_storage::{
    Digest, DigestSuite, EntryKind, Extent, FINGERPRINT_PAGE, FileEntry, FingerprintSeed, FingerprintTable,
};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::mpsc;

const SUITE: DigestSuite = DigestSuite::Blake3;

/// A change of the files, a backup, or an expiry.
#[derive(Debug, Clone)]
enum Step {
    /// Some bytes of a file become others.
    Write {
        file: usize,
        at: u32,
        length: u32,
        salt: u8,
    },
    /// A file gets another length; its new end is zero, or other bytes.
    Resize { file: usize, length: u32, salt: u8 },
    /// A file goes, or comes again with other content.
    Remove { file: usize },
    /// Two files change places, as when a relation is rewritten.
    Swap { one: usize, other: usize },
    /// A backup: full, or compared with an earlier backup; it reads all pages, or only the pages that a map names.
    Backup {
        full: bool,
        since: usize,
        by_map: bool,
        readers: usize,
    },
    /// A backup goes, with the chunks that only it named.
    Expire { which: usize },
}

/// One backup of the model.
struct Made {
    entries: BTreeMap<String, FileEntry>,
    content: BTreeMap<String, Vec<u8>>,
    /// The pages of each file that changed since this backup, as a change map has them: with more pages than needed now
    /// and then.
    changed: HashMap<String, RoaringBitmap>,
}

struct World {
    directory: TempDir,
    seed: FingerprintSeed,
    files: BTreeMap<String, Vec<u8>>,
    chunks: HashMap<Digest, Vec<u8>>,
    backups: Vec<Made>,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            seed: FingerprintSeed::draw().unwrap(),
            files: BTreeMap::new(),
            chunks: HashMap::new(),
            backups: Vec::new(),
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write { file, at, length, salt } => self.write(&name(file), at as usize, length as usize, salt),
            Step::Resize { file, length, salt } => self.resize(&name(file), length as usize, salt),
            Step::Remove { file } => {
                self.files.remove(&name(file));
                self.touch(&name(file), 0, usize::MAX);
            }
            Step::Swap { one, other } => {
                let (one, other) = (name(one), name(other));
                let (first, second) = (self.files.remove(&one), self.files.remove(&other));
                self.files.extend(first.map(|content| (other.clone(), content)));
                if one != other {
                    self.files.extend(second.map(|content| (one.clone(), content)));
                }
                self.touch(&one, 0, usize::MAX);
                self.touch(&other, 0, usize::MAX);
            }
            Step::Backup {
                full,
                since,
                by_map,
                readers,
            } => self.backup(full, since, by_map, readers),
            Step::Expire { which } => self.expire(which),
        }
    }

    /// The map of every backup hears of a change.
    fn touch(&mut self, file: &str, from: usize, to: usize) {
        let page = |byte: usize| u32::try_from(byte / FINGERPRINT_PAGE).unwrap_or(u32::MAX);
        for backup in &mut self.backups {
            let changed = backup.changed.entry(file.to_owned()).or_default();
            changed.insert_range(page(from)..=page(to).min(100_000));
        }
    }

    fn write(&mut self, file: &str, at: usize, length: usize, salt: u8) {
        let content = self.files.entry(file.to_owned()).or_default();
        let at = at.min(content.len());
        let end = (at + length).min(content.len());
        content[at..end]
            .iter_mut()
            .for_each(|byte| *byte = byte.wrapping_add(salt));
        self.touch(file, at, end);
    }

    fn resize(&mut self, file: &str, length: usize, salt: u8) {
        let content = self.files.entry(file.to_owned()).or_default();
        let before = content.len();
        content.resize(length, 0);
        for (at, byte) in content.iter_mut().enumerate().skip(before) {
            *byte = (at / 512).to_le_bytes()[0].wrapping_mul(salt);
        }
        self.touch(file, before.min(length), usize::MAX);
    }

    fn walk(&self) -> Vec<Entry> {
        let entry = |(path, content): (&String, &Vec<u8>)| {
            let disk_path = self.directory.path().join(path);
            std::fs::create_dir_all(disk_path.parent().unwrap()).unwrap();
            std::fs::write(&disk_path, content).unwrap();
            Entry {
                path: path.clone(),
                root: self.directory.path().into(),
                kind: WalkedKind::File {
                    size: content.len() as u64,
                },
                modified: 0,
                mode: 0o600,
                user: None,
                group: None,
            }
        };
        self.files.iter().map(entry).collect()
    }

    fn read(&self, extents: &[Extent]) -> Vec<u8> {
        let piece = |extent: &Extent| {
            let chunk = &self.chunks[&extent.digest];
            chunk[extent.offset as usize..][..extent.length as usize].to_vec()
        };
        extents.iter().flat_map(piece).collect()
    }

    fn table(&self, entry: &FileEntry) -> FingerprintTable {
        let fingerprints = entry.fingerprints.clone().unwrap_or_default();
        let (base, patch) = (self.read(&fingerprints.base), self.read(&fingerprints.patch));
        FingerprintTable::decode(&base, &patch, page_count(entry.size()) as usize).unwrap()
    }

    fn what(&self, entry: &Entry, prior: Option<&Made>, by_map: bool) -> Past {
        let Some((prior, before)) = prior.and_then(|prior| Some((prior, prior.entries.get(&entry.path)?))) else {
            return Past::New;
        };
        let look = by_map.then(|| prior.changed.get(&entry.path).cloned().unwrap_or_default());
        if look.as_ref().is_some_and(RoaringBitmap::is_empty) && size(entry) == before.size() {
            return Past::Same(Box::new(before.clone()));
        }
        Past::Known(Box::new(Known {
            before: before.clone(),
            look,
            table: self.table(before),
            named: None,
        }))
    }

    fn backup(&mut self, full: bool, since: usize, by_map: bool, readers: usize) {
        let entries = self.walk();
        let prior = self.backups.len().checked_sub(1 + since % self.backups.len().max(1));
        let prior = prior.filter(|_| !full).map(|at| &self.backups[at]);
        let queue = JobQueue::with(1000, 1_000_000);
        let total: u64 = entries.iter().map(size).sum();
        for job in Jobs::of(entries.into_iter().collect()) {
            let ready = job.entries.into_iter().map(|entry| Ready {
                past: self.what(&entry, prior, by_map),
                entry,
            });
            let mut entries: Vec<Ready> = ready.collect();
            gather(&mut entries);
            let job = ReadyJob {
                number: job.number,
                entries,
            };
            queue.put(job).now_or_never().unwrap();
        }
        drop(queue.closing());
        let reading = Arc::new(Reading {
            queue,
            suite: SUITE,
            seed: self.seed,
            checks_pages: false,
            progress: Progress::start("test", total, Box::new(NoBar)),
            tally: Tally::new(None, Arc::default()),
        });
        let (pieces, mut all_pieces) = mpsc::channel(10_000);
        let (taken, mut all_taken) = mpsc::channel(10_000);
        // In turn: which of several readers takes a job is chance, and makes no difference.
        for _ in 0..readers {
            Reader::new(reading.clone(), pieces.clone(), taken.clone()).run();
        }
        drop((pieces, taken));
        while let Some(piece) = all_pieces.blocking_recv() {
            assert_eq!(SUITE.digest(&piece.bytes), piece.digest);
            self.chunks.insert(piece.digest, piece.bytes);
        }
        let mut made = BTreeMap::new();
        while let Some(taken) = all_taken.blocking_recv() {
            let entry = taken.unwrap().entry.unwrap();
            entry.check().unwrap();
            made.insert(entry.path.clone(), entry);
        }
        assert_eq!(reading.progress.state(), (total, total));
        self.backups.push(Made {
            entries: made,
            content: self.files.clone(),
            changed: HashMap::new(),
        });
    }

    fn expire(&mut self, which: usize) {
        if self.backups.is_empty() {
            return;
        }
        self.backups.remove(which % self.backups.len());
        let mut named = HashSet::new();
        for entry in self.backups.iter().flat_map(|backup| backup.entries.values()) {
            named.extend(chunks(entry));
        }
        self.chunks.retain(|digest, _| named.contains(digest));
    }

    /// Each backup restores by itself to the files of its time.
    fn check(&self) {
        for backup in &self.backups {
            let paths: Vec<&String> = backup.entries.keys().collect();
            assert_eq!(paths, backup.content.keys().collect::<Vec<_>>());
            for (path, entry) in &backup.entries {
                let content = &backup.content[path];
                let EntryKind::File {
                    size, crc32c, extents, ..
                } = &entry.kind
                else {
                    panic!("{path} is no file")
                };
                assert_eq!(*size, content.len() as u64);
                assert!(self.read(extents) == *content, "{path} restores to other content");
                assert_eq!(*crc32c, crc32c::crc32c(content), "{path}");
                let pages = content.chunks(FINGERPRINT_PAGE).map(|page| self.seed.page(page));
                assert_eq!(self.table(entry).pages, pages.collect::<Vec<_>>(), "{path}");
                assert_bound(path, *size, extents);
            }
        }
    }
}

/// Checks that the bytes that a restore reads for a large file are bounded.
fn assert_bound(path: &str, size: u64, extents: &[Extent]) {
    let mut spans: BTreeMap<Digest, (u64, u64)> = BTreeMap::new();
    for extent in extents {
        let (from, to) = (u64::from(extent.offset), u64::from(extent.offset + extent.length));
        let span = spans.entry(extent.digest).or_insert((from, to));
        *span = (span.0.min(from), span.1.max(to));
    }
    let read: u64 = spans.values().map(|(from, to)| to - from).sum();
    // Pages of other files may lie between the pages of one file.
    assert!(
        size <= 1 << 20 || read <= size * 8 / 5 + 8 * PAGE,
        "{path}: {read} of {size}"
    );
}

fn chunks(entry: &FileEntry) -> BTreeSet<Digest> {
    let fingerprints = entry.fingerprints.clone().unwrap_or_default();
    let all = entry
        .extents()
        .iter()
        .chain(&fingerprints.base)
        .chain(&fingerprints.patch);
    all.map(|extent| extent.digest).collect()
}

/// A few names, so that histories meet: relations with forks and segments, and other files.
fn name(number: usize) -> String {
    const NAMES: [&str; 7] = [
        "base/5/16384",
        "base/5/16384.1",
        "base/5/16385",
        "base/5/16385_vm",
        "global/1262",
        "pg_xact/0000",
        "postgresql.conf",
    ];
    NAMES[number % NAMES.len()].to_owned()
}

fn any_step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![
        8 => 0u32..60_000,
        4 => (0u32..40).prop_map(|pages| pages * 8192),
        1 => 0u32..3_000_000,
    ];
    let at = prop_oneof![6 => 0u32..300_000, 1 => 0u32..3_000_000];
    prop_oneof![
        5 => (any::<usize>(), at, 1u32..40_000, 1u8..)
            .prop_map(|(file, at, length, salt)| Step::Write { file, at, length, salt }),
        3 => (any::<usize>(), length, 1u8..).prop_map(|(file, length, salt)| Step::Resize { file, length, salt }),
        1 => any::<usize>().prop_map(|file| Step::Remove { file }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Step::Swap { one, other }),
        4 => (prop::bool::weighted(0.15), 0usize..3, any::<bool>(), 1usize..3)
            .prop_map(|(full, since, by_map, readers)| Step::Backup { full, since, by_map, readers }),
        1 => any::<usize>().prop_map(|which| Step::Expire { which }),
    ]
}

/// Histories of a run: hundreds, and `PGMESH_TIMES` times as many where it is set (`make test-all`).
fn cases() -> u32 {
    let times = std::env::var("PGMESH_TIMES").ok().and_then(|times| times.parse().ok());
    300 * times.unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_backup_restores_alone_whatever_has_happened(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.run(Step::Backup { full: false, since: 0, by_map: true, readers: 1 });
        world.check();
    }
}
