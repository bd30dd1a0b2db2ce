//! Damaged WAL and damaged maps.

use proptest::prelude::*;

use super::super::writer::{Writer, record};
use super::super::{ChangeMap, Joiner, NoMap, SegmentMap, SwitchSearch};
use super::workload::{Step, any_steps, any_version};
use crate::{PgVersion, SegmentName, SegmentSize};

fn written(steps: &[Step], version: PgVersion) -> (SegmentName, Vec<u8>) {
    let mut writer = Writer::new(version);
    steps
        .iter()
        .for_each(|step| step.write(&mut writer, version, &mut ChangeMap::default()));
    writer.segments().remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_cut_segment_has_no_map(steps in any_steps(), cut in any::<prop::sample::Index>()) {
        let (name, bytes) = written(&steps, PgVersion::V15);
        let map = SegmentMap::of(name, Writer::size(), PgVersion::V15, &bytes[..cut.index(bytes.len())]);
        prop_assert!(map.changes().is_err());
        prop_assert_eq!(SegmentMap::decode(&map.encode()), Ok(map));
    }

    #[test]
    fn a_changed_byte_makes_no_other_map(steps in any_steps(), version in any_version(), at in any::<prop::sample::Index>(), bits in 1u8..) {
        let (name, mut bytes) = written(&steps, version);
        let good = SegmentMap::of(name, Writer::size(), version, &bytes);
        prop_assert!(good.changes().is_ok());
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        let map = SegmentMap::of(name, Writer::size(), version, &bytes);
        // A flipped bit in an unused byte is not seen, and a part of a record is checked only where the parts are
        // joined.
        prop_assert!(map.changes().is_err() || map.changes() == good.changes());
        prop_assert_eq!(SegmentMap::decode(&map.encode()), Ok(map));
    }

    #[test]
    fn no_bytes_make_it_panic(steps in any_steps(), version in any_version(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40)) {
        let (name, mut bytes) = written(&steps, version);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let map = SegmentMap::of(name, Writer::size(), version, &bytes);
        let mut stored = map.encode();
        prop_assert_eq!(&SegmentMap::decode(&stored), &Ok(map));
        stored.truncate(bytes.len() % (stored.len() + 1));
        let _ = SegmentMap::decode(&stored);
    }

    #[test]
    fn a_changed_map_is_refused_or_another(steps in any_steps(), at in any::<prop::sample::Index>(), bits in 1u8..) {
        let (name, bytes) = written(&steps, PgVersion::V18);
        let map = SegmentMap::of(name, Writer::size(), PgVersion::V18, &bytes);
        let mut stored = map.encode();
        let at = at.index(stored.len());
        stored[at] ^= bits;
        if let Ok(other) = SegmentMap::decode(&stored) {
            prop_assert_ne!(&other, &map);
            let mut joiner = Joiner::new(other.timeline(), other.segment_size(), other.version(), other.start(), other.start() + 8);
            let _ = joiner.add(&other);
        }
    }
}

#[test]
fn segments_of_others_have_no_map() {
    let (name, bytes) = written(&[], PgVersion::V15);
    let reason = |name: SegmentName, size, version| {
        let map = SegmentMap::of(name, size, version, &bytes);
        map.changes().unwrap_err().to_owned()
    };
    let size = Writer::size();
    assert!(reason(name.next(size), size, PgVersion::V15).contains("must begin at"));
    assert!(reason(name, size, PgVersion::V16).contains("another cluster"));
    assert!(reason(name, SegmentSize::DEFAULT, PgVersion::V15).contains("another cluster"));
    let earlier = SegmentName {
        timeline: crate::TimelineId(2),
        ..name
    };
    assert!(reason(earlier, size, PgVersion::V15).contains("timeline"));
}

#[test]
fn a_segment_that_ends_in_zeros_has_no_map() {
    let mut writer = Writer::new(PgVersion::V15);
    writer.write(&record(10, 0, &[], &[1; 100]));
    writer.switch();
    let (name, mut bytes) = writer.segments().remove(0);
    // Without the switch record, the zeros are where more was to come.
    let switch = 40 + 128;
    let behind = name.start(Writer::size()) + (switch + 24) as u64;
    let switched_at = |bytes: &[u8]| {
        let mut search = SwitchSearch::new(name);
        bytes.chunks(5000).for_each(|piece| search.feed(piece));
        search.found()
    };
    assert_eq!(switched_at(&bytes), Some(behind));
    bytes[switch + 24..switch + 100].fill(7);
    assert_eq!(switched_at(&bytes), Some(behind), "whatever lies behind it");
    bytes[switch + 24..switch + 100].fill(0);
    bytes[switch..switch + 24].fill(0);
    assert_eq!(switched_at(&bytes), None);
    let map = SegmentMap::of(name, Writer::size(), PgVersion::V15, &bytes);
    assert!(map.changes().unwrap_err().contains("no record has 0 bytes"));
}

#[test]
fn reasons_are_told_by_the_joiner() {
    let (name, bytes) = written(&[], PgVersion::V15);
    let map = SegmentMap::of(name, Writer::size(), PgVersion::V15, &bytes[1..]);
    let mut joiner = Joiner::new(
        name.timeline,
        Writer::size(),
        PgVersion::V15,
        map.start() + 40,
        map.start() + 400,
    );
    let refused = joiner.add(&map).unwrap_err();
    assert!(matches!(&refused, NoMap::Unusable { segment, .. } if *segment == name));
    assert!(
        refused
            .to_string()
            .starts_with("segment 000000030000000200000FFE: WAL at 2/FFE00000:"),
        "{refused}"
    );
}
