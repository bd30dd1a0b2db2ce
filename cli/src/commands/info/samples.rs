//! A mesh for the tests: two repositories, the second down and in debt; one stanza with a backup in both and another
//! in the first only.

use pgmesh_postgres::{Lsn, SegmentSize, SystemId, TimelineId, WalHole};
use pgmesh_protocol::{
    ArchiveInfo, BackupInfo, DatabaseInfo, DebtInfo, HealthInfo, HoleInfo, MeshInfo, RepositoryInfo, StanzaHoles,
    StanzaInfo,
};
use pgmesh_storage::{
    BackupLabel, BackupSizes, BackupType, BlockRange, DatabaseRecord, FileErrors, LinkRecord, MANIFEST_FORMAT,
    ManifestRoot, RepoKey, TablespaceRecord,
};
use std::collections::BTreeMap;

pub const SYSTEM_ID: u64 = 7_234_567_890_123_456_789;

pub fn key(number: u16) -> RepoKey {
    RepoKey::new(number).unwrap()
}

pub fn mesh() -> MeshInfo {
    let down = HealthInfo::Down {
        since: 1_795_400_000,
        why: "no such directory".into(),
    };
    let debt = DebtInfo {
        objects: 12,
        bytes: 25_270_682,
        since: Some(1_795_400_001),
    };
    MeshInfo {
        mesh_id: "m".into(),
        node: "alpha".into(),
        repositories: vec![
            repository(1, HealthInfo::Up, DebtInfo::default()),
            repository(2, down, debt),
        ],
        stanzas: vec![stanza()],
        more: None,
        clock: 1_795_408_197,
        stale: None,
        lost: pgmesh_protocol::LostReport::default(),
        stuck: vec![],
        workers: vec![],
        holes: pgmesh_protocol::HolesReport::default(),
    }
}

/// The same mesh, whose stanza lacks WAL on the way to timeline 2.
pub fn with_hole() -> MeshInfo {
    let mut mesh = mesh();
    mesh.holes.stanzas = vec![holes()];
    mesh
}

/// Three missing segments, without which no recovery gets to timeline 2.
pub fn holes() -> StanzaHoles {
    StanzaHoles {
        stanza: "main".into(),
        holes: vec![HoleInfo {
            archive: "15-2".into(),
            first: "000000010000000000000005".into(),
            last: "000000010000000000000007".into(),
            count: 3,
            proof: WalHole::LeftLater {
                timeline: TimelineId(2),
                switch: Lsn(0x800_0100),
            },
            beyond: Lsn(0x500_0000),
            until: Some(1_795_408_000),
            timelines: vec![2],
            backups: vec!["20260102-000000F".parse().unwrap()],
            backups_more: 0,
            broken: vec![],
            broken_more: 0,
        }],
        more: 0,
        unreached: vec![2],
    }
}

fn repository(number: u16, health: HealthInfo, debt: DebtInfo) -> RepositoryInfo {
    RepositoryInfo {
        key: key(number),
        kind: "posix".into(),
        cipher: "aes-256-cbc".into(),
        host: Some("alpha".into()),
        health,
        debt,
        kept: pgmesh_protocol::KeptInfo::default(),
    }
}

fn stanza() -> StanzaInfo {
    let archive = |database, id: &str, min: u32, max: u32| ArchiveInfo {
        database,
        id: id.into(),
        min: format!("{min:024X}"),
        max: format!("{max:024X}"),
    };
    let mut second = backup("20260102-000000F_20260103-000000D");
    second.prior = Some("20260102-000000F".parse().unwrap());
    (second.repositories, second.owed) = (vec![key(1)], vec![key(2)]);
    second.error = true;
    second.annotations = BTreeMap::from([("why".into(), "before the upgrade".into())]);
    StanzaInfo {
        name: "main".into(),
        stopped: None,
        backup_held_by: None,
        databases: vec![
            DatabaseInfo {
                id: 1,
                system_id: SystemId(17),
                version: "14".into(),
            },
            DatabaseInfo {
                id: 2,
                system_id: SystemId(SYSTEM_ID),
                version: "15".into(),
            },
        ],
        archives: vec![archive(1, "14-1", 1, 9), archive(2, "15-2", 0x10, 0x1F)],
        backups: vec![backup("20260102-000000F"), second],
    }
}

fn backup(label: &str) -> BackupInfo {
    let label: BackupLabel = label.parse().unwrap();
    BackupInfo {
        kind: label.backup_type().to_string(),
        label,
        prior: None,
        error: false,
        database: 2,
        wal_start: format!("{:024X}", 0x10),
        wal_stop: format!("{:024X}", 0x11),
        lsn_start: Lsn(0x1000_0028),
        lsn_stop: Lsn(0x1100_0100),
        timeline: 1,
        time_start: 1_795_404_000,
        time_stop: 1_795_404_060,
        size: 152_830_000_000,
        delta: 8192,
        stored_size: 44_917_000_000,
        stored_delta: 4096,
        repositories: vec![key(1), key(2)],
        owed: vec![],
        annotations: BTreeMap::new(),
        program: "0.1.0".into(),
        hold: None,
    }
}

/// A manifest with a database, a tablespace, a link and damaged pages.
pub fn root() -> ManifestRoot {
    ManifestRoot {
        format: MANIFEST_FORMAT,
        pgmesh_version: "0.1.0".into(),
        stanza: "main".parse().unwrap(),
        label: "20260102-000000F".parse().unwrap(),
        backup_type: BackupType::Full,
        archive_id: "15-2".parse().unwrap(),
        system_id: SystemId(SYSTEM_ID),
        catalog_version: 202_209_061,
        prior: None,
        start_time: 1,
        stop_time: 2,
        start_lsn: Lsn(1),
        stop_lsn: Lsn(2),
        checkpoint: Lsn(1),
        timeline: TimelineId(1),
        instance: None,
        wal_start: "000000010000000000000001".parse().unwrap(),
        wal_stop: "000000010000000000000002".parse().unwrap(),
        segment_size: SegmentSize::default(),
        page_checksums: true,
        errors: vec![FileErrors {
            path: "base/1/2".into(),
            blocks: vec![BlockRange { first: 3, count: 1 }, BlockRange { first: 8, count: 2 }],
        }],
        tablespaces: vec![TablespaceRecord {
            oid: 16384,
            name: "fast".into(),
            destination: "/mnt/fast".into(),
        }],
        databases: vec![DatabaseRecord {
            oid: 5,
            name: "postgres".into(),
        }],
        links: vec![LinkRecord {
            path: "pg_wal".into(),
            destination: "/wal".into(),
        }],
        annotations: BTreeMap::new(),
        fingerprint_seed: None,
        scanned_at: None,
        data_checksums: None,
        from_standby: false,
        sizes: BackupSizes::default(),
        file_count: 0,
        backup_label: String::new(),
        tablespace_map: None,
        parts: vec![],
    }
}
