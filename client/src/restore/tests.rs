//! Whole restores, out of repositories on disk and with no node: `run` as a program calls it.

mod archive;
mod hostile;
mod told;

use super::*;
use crate::caller::Nobody;
use pgmesh_postgres::{Lsn, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_protocol::ExitCode;
use pgmesh_storage::{
    ArchiveId, BackupLabel, BackupSizes, Cipher, Codec, DatabaseRecord, DigestSuite, EntryKind, Extent, FileEntry,
    Generation, MANIFEST_FORMAT, ObjectName, PartRef, PartWriter, Passphrase, Payload, PosixStore, Repository,
    RepositoryIdentity, StanzaInfo, TablespaceRecord,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const SUITE: DigestSuite = DigestSuite::Blake3;
const PASSPHRASE: &str = "a passphrase of the tests";
const MIB: usize = 1 << 20;
const TABLESPACE: &str = "pg_tblspc/16385/PG_15_202209061";

/// A repository with one backup of a small cluster, and a place to restore it to.
struct Fixture {
    directory: tempfile::TempDir,
    /// The content of every file of the cluster.
    files: BTreeMap<String, Vec<u8>>,
    repositories: Vec<Repository>,
}

impl Fixture {
    async fn new(repositories: usize) -> Self {
        let fixture = Self::empty(repositories).await;
        fixture.back_up().await;
        fixture
    }

    /// Without the backup.
    async fn empty(repositories: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut opened = Vec::new();
        for number in 1..=repositories {
            let store = PosixStore::create(&directory.path().join(format!("repo{number}"))).unwrap();
            let identity = RepositoryIdentity::generate("mesh".to_owned(), SUITE, Cipher::Aes256Cbc, 0).unwrap();
            let passphrase = Passphrase::new(PASSPHRASE.to_owned()).unwrap();
            opened.push(
                Repository::create(Arc::new(store), identity, Some(passphrase))
                    .await
                    .unwrap()
                    .0,
            );
        }
        Self {
            files: cluster(),
            repositories: opened,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pgdata(&self) -> PathBuf {
        self.path("data")
    }

    async fn put(&self, name: impl Fn(pgmesh_storage::Digest) -> ObjectName, plain: &[u8]) -> pgmesh_storage::Digest {
        let payload = Payload::pack(SUITE, Codec::Zst, None, plain).unwrap();
        for repository in &self.repositories {
            repository
                .put(&name(payload.digest), Generation::FIRST, &payload)
                .await
                .unwrap();
        }
        payload.digest
    }

    /// Large files in chunks of 1 MiB, all tails and small files in one bundle that comes last.
    async fn back_up(&self) {
        let mut bundle = Vec::new();
        let mut tails = Vec::new();
        let mut entries = directories(&self.path("fast"));
        for (path, content) in &self.files {
            let mut extents = Vec::new();
            for piece in content.chunks(MIB) {
                if piece.len() == MIB {
                    let digest = self.put(ObjectName::Chunk, piece).await;
                    extents.push(Extent {
                        digest,
                        offset: 0,
                        length: u32::try_from(MIB).unwrap(),
                    });
                } else {
                    tails.push((entries.len(), extents.len(), bundle.len(), piece.len()));
                    extents.push(Extent {
                        digest: pgmesh_storage::Digest([0; 32]),
                        offset: 0,
                        length: 1,
                    });
                    bundle.extend_from_slice(piece);
                }
            }
            let crc32c = crc32c::crc32c(content);
            let kind = EntryKind::File {
                size: content.len() as u64,
                crc32c,
                extents,
                bad_pages: vec![],
            };
            entries.push(FileEntry {
                mode: 0o640,
                modified: 1_700_000_000,
                ..entry(path, kind)
            });
        }
        let digest = self.put(ObjectName::Chunk, &bundle).await;
        for (file, extent, offset, length) in tails {
            let EntryKind::File { extents, .. } = &mut entries[file].kind else {
                unreachable!()
            };
            let (offset, length) = (u32::try_from(offset).unwrap(), u32::try_from(length).unwrap());
            extents[extent] = Extent { digest, offset, length };
        }
        // As workers finish them: in no order.
        entries.reverse();
        let mut writer = PartWriter::new();
        let mut parts = Vec::new();
        for entry in entries {
            parts.extend(writer.push(entry).unwrap());
        }
        parts.extend(writer.finish());
        let mut refs = Vec::new();
        for part in &parts {
            let digest = self.put(ObjectName::Chunk, part).await;
            refs.push(PartRef {
                digest,
                length: part.len() as u64,
            });
        }
        let root = root(refs, &self.path("fast"));
        let (stanza, label) = (root.stanza.clone(), root.label.clone());
        let name = |digest| ObjectName::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
            digest,
        };
        self.put(name, &root.encode().unwrap()).await;
        self.archive(&root).await;
    }

    async fn archive(&self, root: &ManifestRoot) {
        let (stanza, archive_id) = (root.stanza.clone(), root.archive_id);
        let info = StanzaInfo {
            format: MANIFEST_FORMAT,
            stanza: stanza.clone(),
            archive_id,
            system_id: root.system_id,
            catalog_version: root.catalog_version,
            segment_size: root.segment_size,
            created: 0,
        };
        let name = |digest| ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id,
            digest,
        };
        self.put(name, &info.encode().unwrap()).await;
        for segment in [root.wal_start, root.wal_stop] {
            let file = WalFileName::Segment(segment);
            let name = |digest| ObjectName::Segment {
                stanza: stanza.clone(),
                archive_id,
                file,
                digest,
                portion: pgmesh_storage::Portion::Whole,
            };
            self.put(name, segment.to_string().repeat(1000).as_bytes()).await;
        }
    }

    async fn restore(&self, words: &[&str]) -> Result<RestoreSummary, Failure> {
        let settings = self.settings(words);
        let source = SourceSettings::Direct(self.declared(settings.repo));
        run(&settings, Ok(source), &Nobody).await
    }

    /// All files are there as they were backed up, but for the file that a restore writes itself.
    fn assert_restored(&self) {
        for (path, content) in &self.files {
            let at = self.pgdata().join(path);
            if path != "postgresql.auto.conf" {
                assert!(fs::read(&at).unwrap() == *content, "{path} is what it was");
                let metadata = fs::metadata(&at).unwrap();
                assert_eq!(
                    (metadata.mtime(), metadata.mode() & 0o7777),
                    (1_700_000_000, 0o640),
                    "{path}"
                );
            }
        }
        assert_eq!(fs::metadata(self.pgdata()).unwrap().permissions().mode() & 0o777, 0o750);
        assert!(!self.pgdata().join(data_directory::MARKER).exists());
    }

    /// The repository's object that holds a whole file's only chunk.
    fn object_of(&self, repository: usize, path: &str) -> PathBuf {
        let digest = SUITE.digest(&self.files[path][..MIB]);
        let name = self.repositories[repository - 1].path_of(&ObjectName::Chunk(digest), Generation::FIRST);
        self.path(&format!("repo{repository}")).join(name.to_string())
    }
}

fn cluster() -> BTreeMap<String, Vec<u8>> {
    let noise = |seed: u64, length: usize| {
        let mut state = seed;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect::<Vec<u8>>()
    };
    let mut files = BTreeMap::from([
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("global/pg_control".to_owned(), noise(1, 8192)),
        (
            "postgresql.auto.conf".to_owned(),
            b"work_mem = '8MB'\nrestore_command = 'old'\n".to_vec(),
        ),
        ("pg_xact/empty".to_owned(), Vec::new()),
        ("base/5/large".to_owned(), noise(2, 3 * MIB + 4321)),
        ("base/5/exact".to_owned(), noise(3, 2 * MIB)),
        ("base/16400/PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("base/16400/2619".to_owned(), noise(4, MIB + 8192)),
        (format!("{TABLESPACE}/16400/2620"), noise(5, 16_384)),
    ]);
    files.extend((0..300).map(|number| {
        (
            format!("base/5/{}", 2000 + number),
            noise(number, 37 * usize::try_from(number).unwrap()),
        )
    }));
    files
}

fn entry(path: &str, kind: EntryKind) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        kind,
        modified: 0,
        mode: 0o750,
        user: None,
        group: None,
        fingerprints: None,
    }
}

fn directories(fast: &Path) -> Vec<FileEntry> {
    let tablespace_database = format!("{TABLESPACE}/16400");
    let paths = [
        "base",
        "base/5",
        "base/16400",
        "global",
        "log",
        "pg_tblspc",
        "pg_tblspc/16385",
        TABLESPACE,
        &tablespace_database,
        "pg_wal",
        "pg_wal/archive_status",
        "pg_xact",
    ];
    let mut entries: Vec<FileEntry> = paths.iter().map(|path| entry(path, EntryKind::Directory)).collect();
    let links = [
        ("pg_tblspc/16385", fast.display().to_string()),
        ("log", "../log".to_owned()),
    ];
    entries.extend(links.map(|(path, destination)| entry(path, EntryKind::Link { destination })));
    entries
}

fn root(parts: Vec<PartRef>, fast: &Path) -> ManifestRoot {
    let label: BackupLabel = "20250215-020001F".parse().unwrap();
    let database = |oid, name: &str| DatabaseRecord {
        oid,
        name: name.to_owned(),
    };
    let fast = fast.display().to_string();
    ManifestRoot {
        format: MANIFEST_FORMAT,
        pgmesh_version: "test".to_owned(),
        stanza: "main".parse().unwrap(),
        backup_type: label.backup_type(),
        label,
        archive_id: "15-1".parse::<ArchiveId>().unwrap(),
        system_id: SystemId(7),
        catalog_version: 202_209_061,
        prior: None,
        start_time: 1_739_584_801,
        stop_time: 1_739_584_901,
        start_lsn: Lsn(0x200_0028),
        stop_lsn: Lsn(0x300_0100),
        checkpoint: Lsn(0x200_0060),
        timeline: TimelineId(1),
        instance: None,
        wal_start: "000000010000000000000002".parse().unwrap(),
        wal_stop: "000000010000000000000003".parse().unwrap(),
        segment_size: SegmentSize::default(),
        page_checksums: true,
        errors: vec![],
        tablespaces: vec![TablespaceRecord {
            oid: 16_385,
            name: "fast".to_owned(),
            destination: fast,
        }],
        databases: vec![database(5, "postgres"), database(16_400, "shop")],
        links: vec![],
        annotations: BTreeMap::new(),
        fingerprint_seed: None,
        scanned_at: None,
        data_checksums: None,
        from_standby: false,
        sizes: BackupSizes::default(),
        file_count: 0,
        backup_label: "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n".to_owned(),
        tablespace_map: None,
        parts,
    }
}

#[tokio::test]
async fn a_restored_directory_is_what_was_backed_up() {
    let fixture = Fixture::new(1).await;
    let summary = fixture
        .restore(&[
            "--type=time",
            "--target=2025-02-16 03:00:00+01",
            "--target-action=promote",
            "--write-manifest",
        ])
        .await
        .unwrap();
    fixture.assert_restored();
    let pgdata = fixture.pgdata();
    assert_eq!(summary.files, fixture.files.len() as u64);
    assert_eq!(summary.segments, 2);
    assert_eq!(
        fs::read_link(pgdata.join("pg_tblspc/16385")).unwrap(),
        fixture.path("fast")
    );
    assert!(
        fs::symlink_metadata(pgdata.join("log")).unwrap().is_dir(),
        "a link without --link-all is restored in place"
    );
    assert!(pgdata.join("recovery.signal").exists());
    assert!(
        fs::read_to_string(pgdata.join("backup_label"))
            .unwrap()
            .starts_with("START WAL LOCATION")
    );
    let settings = fs::read_to_string(pgdata.join("postgresql.auto.conf")).unwrap();
    for line in [
        "work_mem = '8MB'",
        "recovery_target_time = '2025-02-16 03:00:00+01:00'",
        "recovery_target_action = 'promote'",
    ] {
        assert!(settings.contains(line), "{line} in {settings}");
    }
    assert!(settings.contains("archive-get") && !settings.contains("'old'"));
    assert!(pgdata.join("pg_wal/000000010000000000000003").exists());
    assert!(
        pgdata
            .join("pg_wal/archive_status/000000010000000000000003.done")
            .exists()
    );
    postgresql_accepts(&pgdata);
}

/// pg_verifybackup, without a look at the WAL, which is none here.
fn postgresql_accepts(pgdata: &Path) {
    let program = Path::new("/usr/lib/postgresql/15/bin/pg_verifybackup");
    if !program.exists() {
        return;
    }
    let output = std::process::Command::new(program)
        .arg("--no-parse-wal")
        .arg(pgdata)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(pgdata.join("base/5/2100"), "x").unwrap();
    let output = std::process::Command::new(program)
        .arg("--no-parse-wal")
        .arg(pgdata)
        .output()
        .unwrap();
    assert!(!output.status.success(), "pg_verifybackup looks");
}

#[tokio::test]
async fn what_is_restored_by_half_does_not_start_and_is_taken_up_again() {
    let fixture = Fixture::new(1).await;
    let object = fixture.object_of(1, "base/5/exact");
    let kept = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    let failure = fixture.restore(&[]).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::RepoInvalid, "{failure}");
    assert!(failure.remedy.unwrap().contains("--delta"));
    assert!(!fixture.pgdata().join("global/pg_control").exists());
    assert!(fixture.pgdata().join(data_directory::MARKER).exists());

    fs::write(&object, &kept).unwrap();
    assert_eq!(fixture.restore(&[]).await.unwrap_err().code, ExitCode::PathNotEmpty);
    let summary = fixture.restore(&["--delta"]).await.unwrap();
    assert!(summary.kept > 0 || summary.fetched > 0);
    fixture.assert_restored();
    fixture.restore(&["--force"]).await.unwrap();
    fixture.assert_restored();
}

#[tokio::test]
async fn delta_keeps_what_is_right_and_removes_what_does_not_belong() {
    let fixture = Fixture::new(1).await;
    fixture.restore(&[]).await.unwrap();
    let pgdata = fixture.pgdata();
    let mut changed = fixture.files["base/5/large"].clone();
    changed[MIB + 5] ^= 1;
    changed.extend_from_slice(b"longer");
    fs::write(pgdata.join("base/5/large"), changed).unwrap();
    fs::write(pgdata.join("base/5/stranger"), "x").unwrap();
    fs::create_dir_all(pgdata.join("strange/directory")).unwrap();
    fs::remove_file(pgdata.join("base/5/2001")).unwrap();
    fs::create_dir(pgdata.join("base/5/2001")).unwrap();
    fs::hard_link(pgdata.join("base/5/exact"), fixture.path("another")).unwrap();
    let version_of_others = fixture.path("fast/PG_14_202107181");
    fs::create_dir(&version_of_others).unwrap();
    let summary = fixture.restore(&["--delta"]).await.unwrap();
    fixture.assert_restored();
    assert!(!pgdata.join("base/5/stranger").exists() && !pgdata.join("strange").exists());
    assert!(version_of_others.exists());
    // Two of the three chunks of `large`, and the only chunk of 16400/2619.
    assert_eq!(summary.kept, 3 * MIB as u64);
    assert_eq!(fs::metadata(pgdata.join("base/5/exact")).unwrap().nlink(), 1);
}

#[tokio::test]
async fn invariant_6_a_damaged_chunk_is_read_from_the_next_repository() {
    let fixture = Fixture::new(2).await;
    for (at, path) in ["base/5/large", "base/5/exact"].into_iter().enumerate() {
        let object = fixture.object_of(1 + at, path);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&object, bytes).unwrap();
    }
    fixture.restore(&[]).await.unwrap();
    fixture.assert_restored();
    fs::remove_dir_all(fixture.pgdata()).unwrap();
    fs::remove_dir_all(fixture.path("fast")).unwrap();
    let failure = fixture.restore(&["--repo=1"]).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::RepoInvalid, "{failure}");
    assert!(!fixture.pgdata().join("global/pg_control").exists());
}

#[tokio::test]
async fn databases_left_out_come_back_as_files_without_content() {
    let fixture = Fixture::new(1).await;
    let summary = fixture.restore(&["--db-exclude=shop"]).await.unwrap();
    let pgdata = fixture.pgdata();
    for path in ["base/16400/2619".to_owned(), format!("{TABLESPACE}/16400/2620")] {
        let metadata = fs::metadata(pgdata.join(&path)).unwrap();
        assert_eq!(
            (metadata.len(), metadata.blocks()),
            (fixture.files[&path].len() as u64, 0),
            "{path}"
        );
    }
    assert_eq!(fs::read(pgdata.join("base/16400/PG_VERSION")).unwrap(), b"15\n");
    assert_eq!(summary.left_out, (MIB + 8192 + 16_384) as u64);
}

#[tokio::test]
async fn nothing_is_touched_that_was_not_given() {
    let fixture = Fixture::new(1).await;
    let foreign = fixture.path("fast").join("PG_15_202209061");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("precious"), "x").unwrap();
    for arguments in [&[][..], &["--force"], &["--delta"]] {
        let failure = fixture.restore(arguments).await.unwrap_err();
        assert_eq!(failure.code, ExitCode::PathNotEmpty, "{failure}");
        assert!(!fixture.pgdata().exists() && foreign.join("precious").exists());
    }
    let elsewhere = format!("--tablespace-map=fast={}", fixture.path("elsewhere").display());
    fixture.restore(&[&elsewhere, "--link-all"]).await.unwrap();
    fixture.assert_restored();
    assert_eq!(
        fs::read_link(fixture.pgdata().join("log")).unwrap(),
        fixture.path("log")
    );
    assert!(foreign.join("precious").exists());
}

#[tokio::test]
async fn a_backup_that_does_not_fit_is_not_restored() {
    let fixture = Fixture::new(1).await;
    for arguments in [
        &["--type=time", "--target=2025-02-15 02:00:00+00"][..],
        &["--type=lsn", "--target=0/2000028"],
        &["--set=20240101-000000F"],
    ] {
        let failure = fixture.restore(arguments).await.unwrap_err();
        assert_eq!(failure.code, ExitCode::BackupSetInvalid, "{failure}");
    }
    assert!(!fixture.pgdata().exists());
    let failure = fixture
        .restore(&["--set=20250215-020001F", "--tablespace-map=slow=/x"])
        .await
        .unwrap_err();
    assert_eq!(failure.code, ExitCode::TablespaceMap);
}

#[tokio::test]
async fn without_recovery_the_backup_brings_its_own_wal() {
    let fixture = Fixture::new(1).await;
    let summary = fixture.restore(&["--type=none"]).await.unwrap();
    assert_eq!(summary.segments, 2);
    assert!(!fixture.pgdata().join("recovery.signal").exists());
    let settings = fixture.pgdata().join("postgresql.auto.conf");
    fs::write(&settings, "mine = 1\n").unwrap();
    fs::write(fixture.pgdata().join("standby.signal"), "").unwrap();
    let summary = fixture.restore(&["--type=preserve", "--force"]).await.unwrap();
    assert_eq!(fs::read_to_string(&settings).unwrap(), "mine = 1\n");
    assert!(fixture.pgdata().join("standby.signal").exists());
    assert_eq!(summary.segments, 0);
}
