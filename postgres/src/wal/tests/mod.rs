//! Decoding and joining, against WAL that the tests write and know.

mod damage;
mod joins;
mod records;
mod workload;

use super::writer::Writer;
use super::{ChangeMap, Joiner, NoMap, RelationFork, SegmentMap};
use crate::{Fork, Lsn, PgVersion, SegmentName};

fn fork(relation: u32) -> RelationFork {
    RelationFork {
        tablespace: 1663,
        database: 5,
        relation,
        fork: Fork::Main,
    }
}

/// The maps of segments, each stored and read again, and joined for the WAL between two positions.
fn joined(segments: &[(SegmentName, Vec<u8>)], version: PgVersion, from: Lsn, to: Lsn) -> Result<ChangeMap, NoMap> {
    let timeline = segments[0].0.timeline;
    let mut joiner = Joiner::new(timeline, Writer::size(), version, from, to);
    for (name, bytes) in segments {
        if joiner.wanted().is_none() {
            break;
        }
        if joiner.wanted() != Some(*name) {
            continue;
        }
        let stored = SegmentMap::of(*name, Writer::size(), version, bytes).encode();
        let map = SegmentMap::decode(&stored).unwrap();
        assert_eq!(map.encode(), stored);
        joiner.add(&map)?;
    }
    joiner.finish()
}

/// The map of all records of a writer.
fn map_of(writer: Writer, version: PgVersion) -> Result<ChangeMap, NoMap> {
    let (from, to) = (writer.start(), writer.position());
    joined(&writer.segments(), version, from, to)
}
