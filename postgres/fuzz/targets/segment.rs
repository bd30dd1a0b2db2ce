//! Any bytes as a segment of WAL: no panic, a map that is stored and read again, and the same however the segment is
//! cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgmesh_postgres::Lsn;
use pgmesh_postgres::wal::{SegmentMap, SegmentMapper};
use pgmesh_postgres_fuzz::{name, segment, size, version};

fuzz_target!(|input: &[u8]| {
    let Some(([chosen, cut], rest)) = input.split_first_chunk() else {
        return;
    };
    let (version, magic) = version(*chosen);
    // Half of the input as it is, half made to look like WAL.
    let bytes = if chosen & 0x80 == 0 {
        segment(name(), magic, rest)
    } else {
        rest.to_vec()
    };
    // A part of a segment suffices, since `up_to` ends the reading before the missing bytes.
    let mapper =
        || SegmentMapper::new(name(), size(), version).up_to(Lsn(name().start(size()).0 + bytes.len() as u64 / 2));
    let mut whole = mapper();
    whole.feed(&bytes);
    let whole = whole.finish();
    let mut parts = mapper();
    bytes
        .chunks(usize::from(*cut) * 7 + 1)
        .for_each(|part| parts.feed(part));
    assert_eq!(parts.finish(), whole);
    let stored = whole.encode();
    assert_eq!(SegmentMap::decode(&stored).as_ref(), Ok(&whole));
    let whole = SegmentMap::of(name(), size(), version, &bytes);
    assert_eq!(SegmentMap::decode(&whole.encode()), Ok(whole));
});
