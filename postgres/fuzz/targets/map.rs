//! Any bytes as a stored map: no panic, and an accepted map is the same after it was stored and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgmesh_postgres::wal::{Joiner, SegmentMap};

fuzz_target!(|input: &[u8]| {
    if let Ok(map) = SegmentMap::decode(input) {
        assert_eq!(SegmentMap::decode(&map.encode()).as_ref(), Ok(&map));
        if let Ok(changes) = map.changes() {
            for path in [
                "base/1/1",
                "base/5/16384.1",
                "global/1260",
                "pg_tblspc/1/PG_15_1/1/1_init",
            ] {
                let _ = changes.candidates(path);
            }
        }
        let mut joiner = Joiner::new(
            map.timeline(),
            map.segment_size(),
            map.version(),
            map.start(),
            map.start() + 99,
        );
        let _ = joiner.add(&map);
        let _ = joiner.finish();
    }
});
