//! Maps of any bytes, joined: no panic. The input is cut into stored maps, each with two bytes of length before it;
//! their beginning, which says of which segment they are, is made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgmesh_postgres::PgVersion;
use pgmesh_postgres::wal::{Joiner, SegmentMap};
use pgmesh_postgres_fuzz::{name, size};

fuzz_target!(|input: &[u8]| {
    let start = name().start(size());
    let mut joiner = Joiner::new(name().timeline, size(), PgVersion::V15, start, start + (8 << 20));
    let (mut rest, mut segment) = (input, name());
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (part, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        rest = after;
        let mut stored = vec![
            1,
            15,
            20,
            3,
            0,
            u8::try_from(segment.segment).unwrap_or_default() & 0x7F,
        ];
        stored.extend(part);
        let Ok(map) = SegmentMap::decode(&stored) else { return };
        if joiner.add(&map).is_err() {
            return;
        }
        segment = segment.next(size());
    }
    let _ = joiner.finish();
});
