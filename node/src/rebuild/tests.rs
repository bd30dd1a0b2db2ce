//! Repositories made by hand, rebuilt, and looked at in the catalog. The tests with a cluster are in
//! `tests/tests/rebuild.rs`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use pgmesh_postgres::{Lsn, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_raft::{CatalogOptions, View};
use pgmesh_storage::{
    ArchiveId, BackupSizes, BackupType, Cipher, Codec, DbId, Digest, DigestSuite, EntryKind, Extent, FileEntry,
    FilePart, Generation, MANIFEST_FORMAT, ManifestRoot, ObjectName, PartRef, PartWriter, Payload, Portion,
    RepositoryIdentity, StanzaInfo, StanzaName, StoreSettings,
};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

const SUITE: DigestSuite = DigestSuite::Blake3;
const SEGMENT: u32 = 1 << 20;

/// A repository on a disk, and the place of a node.
struct Site {
    folder: tempfile::TempDir,
    repository: Repository,
    mesh: String,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mesh = MeshId::random().unwrap().to_string();
        let identity = RepositoryIdentity::generate(mesh.clone(), SUITE, Cipher::None, 1).unwrap();
        let store = Store::create(&store_settings(&folder.path().join("repo"))).unwrap();
        let repository = Repository::create(store.objects(), identity, None).await.unwrap().0;
        Self {
            folder,
            repository,
            mesh,
        }
    }

    async fn put(&self, name: impl FnOnce(Digest) -> ObjectName, generation: u32, content: &[u8]) -> Digest {
        let payload = Payload::pack(SUITE, Codec::None, None, content).unwrap();
        let name = name(payload.digest);
        self.repository
            .put(&name, Generation(generation), &payload)
            .await
            .unwrap();
        payload.digest
    }

    async fn describe(&self, db: u32, system_id: u64) {
        let info = StanzaInfo {
            format: MANIFEST_FORMAT,
            stanza: stanza(),
            archive_id: archive(db),
            system_id: SystemId(system_id),
            catalog_version: 202_209_061,
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
            created: i64::from(db),
        };
        let name = |digest| ObjectName::StanzaInfo {
            stanza: stanza(),
            archive_id: archive(db),
            digest,
        };
        self.put(name, 0, &info.encode().unwrap()).await;
    }

    async fn archive(&self, db: u32, file: &str, generation: u32, content: &[u8]) {
        let name = |digest| ObjectName::Segment {
            stanza: stanza(),
            archive_id: archive(db),
            file: file.parse().unwrap(),
            digest,
            portion: Portion::Whole,
        };
        self.put(name, generation, content).await;
    }

    /// A segment of 32 MiB in its parts, of which these are left.
    async fn long_segment(&self, number: u32, left: &[u16]) -> Digest {
        let content = long_segment(number);
        let digest = SUITE.digest(&content);
        let length = content.len() as u64;
        let name = ObjectName::Segment {
            stanza: stanza(),
            archive_id: archive(1),
            file: segment_name(1, number).parse().unwrap(),
            digest,
            portion: Portion::of_length(length),
        };
        for (part, piece) in FilePart::all(4).zip(content.chunks(8 << 20)) {
            if left.contains(&part.number()) {
                let payload = Payload::pack(SUITE, Codec::Zst, None, piece).unwrap();
                let put = self.repository.put(&name.of_part(part), Generation(3), &payload).await;
                put.unwrap();
            }
        }
        digest
    }

    async fn segment(&self, db: u32, system_id: u64, timeline: u32, number: u32) {
        let file = segment_name(timeline, number);
        self.archive(db, &file, 0, &segment(system_id, timeline, number)).await;
    }

    /// A backup whose only file lies in one chunk of this content.
    async fn back_up(&self, label: &str, instance: Option<&str>, content: &[u8]) {
        let digest = self.put(ObjectName::Chunk, 2, content).await;
        let length = u32::try_from(content.len()).unwrap();
        let entry = |path: &str, offset, length| FileEntry {
            path: path.to_owned(),
            kind: EntryKind::File {
                size: u64::from(length),
                crc32c: 0,
                extents: vec![Extent { digest, offset, length }],
                bad_pages: Vec::new(),
            },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
            fingerprints: None,
        };
        let mut writer = PartWriter::new();
        writer.push(entry("a", 0, 10)).unwrap();
        writer.push(entry("b", 10, length - 10)).unwrap();
        let part = writer.finish().unwrap();
        let part_digest = self.put(ObjectName::Chunk, 0, &part).await;
        let part = PartRef {
            digest: part_digest,
            length: part.len() as u64,
        };
        let root = root(label, instance, part).encode().unwrap();
        let name = |digest| ObjectName::Manifest {
            stanza: stanza(),
            label: label.parse().unwrap(),
            digest,
        };
        self.put(name, 0, &root).await;
    }

    fn node_path(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    async fn rebuild(&self) -> Result<Rebuilt, Failure> {
        let repo = RepoKey::new(1).unwrap();
        let StoreSettings {
            definition,
            local,
            secrets,
        } = store_settings(&self.folder.path().join("repo"));
        let declared = RepositorySettings {
            definition,
            local,
            secrets,
            passphrase: None,
        };
        let settings = NodeSettings {
            name: "n1".to_owned(),
            path: self.node_path(),
            listen: "127.0.0.1:1".parse().unwrap(),
            advertise: "127.0.0.1:1".to_owned(),
            region: None,
            repositories: BTreeMap::from([(repo, declared)]),
            archive_ack: None,
            backup_ack: None,
            fence_timeout: Duration::from_secs(3),
            orphan_scan_interval: Duration::from_secs(24 * 3600),
            io_timeout: Duration::from_secs(1),
            seeds: Vec::new(),
            routes: BTreeMap::new(),
            voters: 5,
            repair_rate: None,
            snapshot_entries: None,
            skip_entries: Vec::new(),
            buffer: 1 << 20,
            sessions: crate::SessionTimes::default(),
        };
        rebuild(&settings, repo, 4, true, std::sync::Arc::new(|_| {})).await
    }

    async fn catalog(&self) -> Catalog {
        let layout = Layout::new(self.node_path());
        Catalog::open(&layout.catalog(), CatalogOptions::default())
            .await
            .unwrap()
    }
}

fn store_settings(path: &std::path::Path) -> StoreSettings {
    StoreSettings {
        definition: BTreeMap::from([("path".to_owned(), path.display().to_string())]),
        ..StoreSettings::default()
    }
}

fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

fn archive(db: u32) -> ArchiveId {
    format!("15-{db}").parse().unwrap()
}

fn segment_name(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

/// A segment of PostgreSQL 15 with nothing but its header.
fn segment(system_id: u64, timeline: u32, number: u32) -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT as usize];
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&timeline.to_le_bytes());
    bytes[8..16].copy_from_slice(&(u64::from(number) * u64::from(SEGMENT)).to_le_bytes());
    bytes[24..32].copy_from_slice(&system_id.to_le_bytes());
    bytes[32..36].copy_from_slice(&SEGMENT.to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}

/// The same with 32 MiB.
fn long_segment(number: u32) -> Vec<u8> {
    let mut bytes = segment(6, 1, number);
    let size: u32 = 32 << 20;
    bytes.resize(size as usize, 0);
    bytes[8..16].copy_from_slice(&(u64::from(number) * u64::from(size)).to_le_bytes());
    bytes[32..36].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn root(label: &str, instance: Option<&str>, part: PartRef) -> ManifestRoot {
    ManifestRoot {
        format: MANIFEST_FORMAT,
        pgmesh_version: "0.1.0".into(),
        stanza: stanza(),
        label: label.parse().unwrap(),
        backup_type: BackupType::Full,
        archive_id: archive(2),
        system_id: SystemId(7),
        catalog_version: 202_209_061,
        prior: None,
        start_time: 1,
        stop_time: 2,
        start_lsn: Lsn(u64::from(SEGMENT) + 40),
        stop_lsn: Lsn(u64::from(SEGMENT) + 80),
        checkpoint: Lsn(u64::from(SEGMENT) + 40),
        timeline: TimelineId(1),
        instance: instance.map(str::to_owned),
        wal_start: segment_name(1, 1).parse().unwrap(),
        wal_stop: segment_name(1, 1).parse().unwrap(),
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
        page_checksums: true,
        errors: Vec::new(),
        tablespaces: Vec::new(),
        databases: Vec::new(),
        links: Vec::new(),
        annotations: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
        fingerprint_seed: None,
        scanned_at: None,
        data_checksums: None,
        from_standby: false,
        sizes: BackupSizes {
            size: 100,
            delta: 100,
            repository: 50,
            repository_delta: 50,
        },
        file_count: 2,
        backup_label: String::new(),
        tablespace_map: None,
        parts: vec![part],
    }
}

fn kinds(rebuilt: &Rebuilt) -> Vec<ProblemKind> {
    let mut kinds: Vec<_> = rebuilt.problems.iter().map(|problem| problem.kind).collect();
    kinds.sort();
    kinds
}

fn wal(view: &View, db: u32, file: &str) -> Option<pgmesh_raft::SegmentRecord> {
    let file: WalFileName = file.parse().unwrap();
    view.segment(&stanza(), DbId(db), &file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_repository_says_is_in_the_catalog() {
    let site = Site::new().await;
    // Before pg_upgrade, and after it with a second timeline.
    site.describe(1, 6).await;
    site.segment(1, 6, 1, 9).await;
    site.describe(2, 7).await;
    for number in [1, 2] {
        site.segment(2, 7, 1, number).await;
    }
    site.segment(2, 7, 2, 2).await;
    site.archive(2, "00000002.history", 3, b"1\t0/200000\tno recovery target\n")
        .await;
    site.archive(2, "000000010000000000000001.00000028.backup", 0, b"START")
        .await;
    site.back_up("20250215-020001F", Some("the original"), &[1; 1000]).await;
    site.put(ObjectName::Chunk, 0, b"left by an upload").await;

    let rebuilt = site.rebuild().await.unwrap();
    assert_eq!(rebuilt.mesh_id, site.mesh);
    assert_eq!(
        kinds(&rebuilt),
        [ProblemKind::Writer],
        "nobody was seen to write timeline 2"
    );
    assert_eq!(
        rebuilt.stanzas,
        [RebuiltStanza {
            name: "main".into(),
            databases: vec!["15-1".into(), "15-2".into()],
            backups: 1,
            wal_files: 6,
        }]
    );
    assert_eq!((rebuilt.chunks, rebuilt.unnamed), (2, 1));
    assert_eq!(site.rebuild().await.unwrap_err().code, ExitCode::Config);

    let catalog = site.catalog().await;
    let view = catalog.view();
    assert_eq!(view.mesh().unwrap().unwrap().mesh_id, site.mesh);
    let record = view.stanza(&stanza()).unwrap().unwrap();
    let writer = |timeline| record.writers[&TimelineId(timeline)].instance.as_str();
    assert_eq!(writer(1), "the original");
    assert!(writer(2).starts_with("unknown"));
    assert_eq!(record.histories[&TimelineId(2)].branches[0].switch, Lsn(0x20_0000));
    let history = wal(&view, 2, "00000002.history").unwrap();
    assert_eq!(history.object.replicas[0].generation, Generation(3));
    assert!(wal(&view, 1, &segment_name(1, 9)).is_some());
    // The highest generation of the repository is 3. New objects lie above all generations that the lost catalog may
    // have used.
    let new = pgmesh_raft::ObjectRef::Chunk(SUITE.digest(b"new"));
    // No generation that the lost catalog may have assigned.
    assert!(view.generation_for(&new, &[]).unwrap() > Generation(1 << 24));
    let chunk = SUITE.digest(&[1; 1000]);
    let chunk = view.chunks(&[chunk]).unwrap().remove(0).unwrap();
    assert_eq!((chunk.length, chunk.stored_length), (1000, 1000));
    assert_eq!(
        chunk.replicas[0].generation,
        Generation(2),
        "the next writing has a name of its own"
    );
    let label = "20250215-020001F".parse().unwrap();
    let backup = view.backup(&stanza(), &label).unwrap().unwrap();
    assert_eq!(backup.annotations["why"], "test");
    let stored: u64 = view
        .all_chunks(None)
        .map(|row| u64::from(row.unwrap().1.stored_length))
        .sum();
    assert_eq!(backup.stored[&RepoKey::new(1).unwrap()], stored);
    assert!(view.sessions().unwrap().is_empty());
    drop(view);
    catalog.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_told_and_kept() {
    let site = Site::new().await;
    // No description at all: the WAL says which cluster it is.
    for number in [1, 2, 5, 6] {
        site.segment(2, 7, 1, number).await;
    }
    // Two contents, a damaged file, another cluster's, and a history that contradicts an older history.
    let mut other = segment(7, 1, 2);
    other[5000] = 1;
    site.archive(2, &segment_name(1, 2), 0, &other).await;
    let broken = site
        .folder
        .path()
        .join("repo/stanza/main/archive/15-2/0000000100000000");
    let broken = std::fs::read_dir(broken).unwrap().flatten().map(|entry| entry.path());
    let broken = broken
        .into_iter()
        .find(|path| path.to_string_lossy().contains(&segment_name(1, 6)));
    let broken = broken.unwrap();
    let mut bytes = std::fs::read(&broken).unwrap();
    bytes[3000] ^= 1;
    std::fs::remove_file(&broken).unwrap();
    std::fs::write(&broken, bytes).unwrap();
    site.segment(2, 8, 1, 7).await;
    site.archive(2, "00000002.history", 0, b"1\t0/200000\tx\n").await;
    site.archive(2, "00000003.history", 0, b"1\t0/300000\tx\n2\t0/400000\tx\n")
        .await;
    // A backup without its chunk: another backup has the chunk that both name.
    site.back_up("20250215-020001F", None, &[1; 1000]).await;
    let lost = SUITE.digest(&[1; 1000]);
    let lost = site
        .repository
        .path_of(&ObjectName::Chunk(lost), Generation(2))
        .to_string();
    site.repository.delete_path(&lost).await.unwrap();

    let rebuilt = site.rebuild().await.unwrap();
    use ProblemKind::{BackupIncomplete, Description, WalDamaged, WalDuplicate, WalForeign, WalGap, Writer};
    assert_eq!(
        kinds(&rebuilt),
        [
            Description,
            BackupIncomplete,
            WalDamaged,
            WalDuplicate,
            WalForeign,
            WalForeign,
            WalGap,
            Writer
        ],
        "{:#?}",
        rebuilt.problems
    );
    assert_eq!((rebuilt.stanzas[0].wal_files, rebuilt.stanzas[0].backups), (3, 0));
    assert_eq!(rebuilt.chunks, 0);
    let catalog = site.catalog().await;
    let view = catalog.view();
    let record = view.stanza(&stanza()).unwrap().unwrap();
    assert_eq!(record.current().unwrap().system_id, SystemId(7));
    for (number, unknown) in [(1, false), (2, true), (3, true), (5, false), (6, true)] {
        let known = wal(&view, 2, &segment_name(1, number)).unwrap();
        assert_eq!(known.object.is_unknown(), unknown, "{number}");
    }
    assert!(
        wal(&view, 2, &segment_name(1, 7)).is_none(),
        "it is no WAL of this cluster"
    );
    assert_eq!(view.debts(RepoKey::new(1).unwrap(), None).count(), 0);
    drop(view);
    catalog.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_parts_is_taken_up_when_all_of_them_are_there() {
    let site = Site::new().await;
    site.describe(1, 6).await;
    let digest = site.long_segment(1, &[1, 2, 3, 4]).await;
    // It has lost a part.
    site.long_segment(2, &[1, 3, 4]).await;
    // Its upload was cut: it was never acknowledged, and a recovery may end before it.
    site.long_segment(3, &[1, 2]).await;
    let rebuilt = site.rebuild().await.unwrap();
    use ProblemKind::{WalCut, WalDamaged, Writer};
    let mut expected = [WalCut, WalDamaged, Writer];
    expected.sort();
    assert_eq!(kinds(&rebuilt), expected, "{:#?}", rebuilt.problems);
    assert_eq!(rebuilt.stanzas[0].wal_files, 1);
    let catalog = site.catalog().await;
    let view = catalog.view();
    let known = |number| wal(&view, 1, &segment_name(1, number));
    let first = known(1).unwrap().object;
    assert_eq!((first.digest, first.plain_length), (digest, 32 << 20));
    assert_eq!(first.replicas[0].generation, Generation(3));
    assert!(known(2).unwrap().object.is_unknown());
    assert!(known(3).is_none());
    drop(view);
    catalog.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_stanzas_is_an_empty_mesh() {
    let site = Site::new().await;
    let rebuilt = site.rebuild().await.unwrap();
    assert_eq!((rebuilt.stanzas.len(), rebuilt.unnamed), (0, 0));
    assert_eq!(kinds(&rebuilt), []);
}

/// `PGMESH_REBUILD_FILES=100000` shows how long that many take; on a disk in memory, or the making of them takes
/// longer.
#[tokio::test(flavor = "multi_thread")]
async fn archives_of_many_files() {
    let files: u32 = std::env::var("PGMESH_REBUILD_FILES").map_or(1_100, |files| files.parse().unwrap());
    let site = Site::new().await;
    site.describe(1, 6).await;
    for number in 0..files {
        let (log, segment) = (number / 4096, number % 4096);
        let file = format!("00000001{log:08X}{segment:08X}.00000028.backup");
        site.archive(1, &file, 0, file.as_bytes()).await;
    }
    let began = Instant::now();
    let rebuilt = site.rebuild().await.unwrap();
    println!("{files} files in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(rebuilt.stanzas[0].wal_files, u64::from(files));
    assert_eq!(kinds(&rebuilt), []);
}
