//! Records with changes beside their blocks, and records that cannot be understood.

use super::super::writer::{Writer, record_of};
use super::super::{Candidates, ChangeMap, NoMap};
use super::workload::numbers;
use super::{fork, map_of};
use crate::PgVersion;

fn one(version: PgVersion, manager: u8, info: u8, data: &[u8]) -> Result<ChangeMap, NoMap> {
    let mut writer = Writer::new(version);
    writer.write(&record_of(version, manager, info, &[], data));
    map_of(writer, version)
}

fn refused(version: PgVersion, manager: u8, info: u8, data: &[u8]) -> String {
    match one(version, manager, info, data) {
        Err(NoMap::Unusable { reason, .. }) => reason,
        other => panic!("{version}, {manager}, {info:#x}: {other:?}"),
    }
}

#[test]
fn unknown_ways_to_change_files_leave_no_map() {
    for version in PgVersion::ALL {
        for manager in [0, 3, 5, 10, 128, 255] {
            assert!(refused(version, manager, 0x21, &[0; 40]).contains("unknown way"));
            // Without the flag, the blocks are all changes.
            assert_eq!(one(version, manager, 0x20, &[0; 40]), Ok(ChangeMap::default()));
        }
        // An end of a transaction without relations has no reason for the flag, and a prepared one neither.
        assert!(refused(version, 1, 0x01, &[0; 8]).contains("unknown way"));
        assert!(refused(version, 1, 0x11, &[0; 80]).contains("unknown way"));
        assert_eq!(one(version, 1, 0x10, &[0; 80]), Ok(ChangeMap::default()));
        // Kinds of records that no version knows, with the flag and without.
        assert!(refused(version, 2, 0x30, &[0; 20]).contains("unknown way"));
        assert!(refused(version, 4, 0x30, &[0; 20]).contains("unknown way"));
    }
    assert!(refused(PgVersion::V14, 4, 0x21, &[0; 20]).contains("unknown way"));
}

#[test]
fn records_that_end_too_early_leave_no_map() {
    for version in PgVersion::ALL {
        for (manager, info, length) in [(1, 0x81, 11), (2, 0x11, 15), (2, 0x21, 19), (4, 0x01, 7), (0, 0x60, 23)] {
            assert!(refused(version, manager, info, &vec![1; length]).contains("cannot be so"));
        }
        // More relations, or tablespaces, than there is room for.
        let relations = [numbers(&[0, 0, 4, 1000]), vec![0; 12]].concat();
        assert!(refused(version, 1, 0x81, &relations).contains("cannot be so"));
    }
}

#[test]
fn minimal_level_leaves_no_map() {
    let parameters = |level| numbers(&[100, 8, 10, 0, 64, level, 0]);
    let checkpoint = |level| [vec![1; 20], numbers(&[level]), vec![1; 64]].concat();
    let recovery = |level| [vec![1; 16], numbers(&[level])].concat();
    for version in PgVersion::ALL {
        assert!(refused(version, 0, 0x60, &parameters(0)).contains("minimal"));
        assert!(one(version, 0, 0x60, &parameters(1)).is_ok());
        assert!(one(version, 0, 0x00, &checkpoint(2)).is_ok());
        if version >= PgVersion::V17 {
            assert!(refused(version, 0, 0x00, &checkpoint(0)).contains("minimal"));
            assert!(refused(version, 0, 0x90, &recovery(0)).contains("minimal"));
            assert!(refused(version, 0, 0xE0, &numbers(&[0])).contains("minimal"));
        } else {
            // These do not tell the level: where it is told later, zeros mean nothing.
            assert!(one(version, 0, 0x00, &checkpoint(0)).is_ok());
            assert!(one(version, 0, 0x90, &recovery(0)).is_ok());
        }
    }
}

#[test]
fn what_a_database_record_says_depends_on_the_version() {
    for version in PgVersion::ALL {
        // File copy.
        let map = one(version, 4, 0x01, &numbers(&[16400, 1663, 1, 1663])).unwrap();
        assert_eq!(map.candidates("base/16400/1259"), Candidates::All);
        assert_eq!(map.candidates("base/1/1259"), Candidates::Blocks(<_>::default()));
        // Logged, or a drop in three tablespaces.
        let data = numbers(&[16400, 3, 1663, 16500, 16501]);
        let map = one(version, 4, 0x11, &data).unwrap();
        let dropped = if version == PgVersion::V14 {
            map
        } else {
            assert_eq!(map.candidates("pg_tblspc/3/PG_15_1/16400/1259"), Candidates::All);
            one(version, 4, 0x21, &data).unwrap()
        };
        for folder in ["base", "pg_tblspc/16500/PG_15_1", "pg_tblspc/16501/PG_15_1"] {
            assert_eq!(dropped.candidates(&format!("{folder}/16400/1259")), Candidates::All);
        }
    }
}

#[test]
fn a_truncated_relation_is_read_from_there_on() {
    let relation = fork(16384);
    let data = |flags| numbers(&[70, relation.tablespace, relation.database, relation.relation, flags]);
    let map = one(PgVersion::V16, 2, 0x21, &data(7)).unwrap();
    assert_eq!(
        map.candidates("base/5/16384"),
        Candidates::Blocks((70..131_072).collect())
    );
    assert_eq!(map.candidates("base/5/16384.1"), Candidates::All);
    // A truncation of the other forks alone.
    assert_eq!(one(PgVersion::V16, 2, 0x21, &data(6)), Ok(ChangeMap::default()));
}
