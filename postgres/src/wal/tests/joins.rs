//! Segments, joined.

use proptest::prelude::*;

use super::super::writer::{Block, Writer, record};
use super::super::{ChangeMap, Joiner, NoMap, SegmentMap, SegmentMapper};
use super::workload::{any_steps, any_version, transaction};
use super::{fork, joined, map_of};
use crate::{Lsn, PgVersion, TimelineId};

const VERSION: PgVersion = PgVersion::V15;

fn block(relation: u32, block: u32) -> Block {
    Block {
        fork: fork(relation),
        block,
        same: false,
        image: None,
        data: vec![1; 20],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_joined_map_is_what_was_written(steps in any_steps(), version in any_version()) {
        let mut writer = Writer::new(version);
        let mut expected = ChangeMap::default();
        for step in &steps {
            step.write(&mut writer, version, &mut expected);
        }
        prop_assert_eq!(map_of(writer, version), Ok(expected));
    }

    #[test]
    fn parts_of_any_size_make_the_same_map(steps in any_steps(), sizes in prop::collection::vec(1..30_000usize, 1..5)) {
        let mut writer = Writer::new(VERSION);
        steps.iter().for_each(|step| step.write(&mut writer, VERSION, &mut ChangeMap::default()));
        let segments = writer.segments();
        let (name, bytes) = &segments[0];
        let mut mapper = SegmentMapper::new(*name, Writer::size(), VERSION);
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (part, after) = rest.split_at((*size).min(rest.len()));
            mapper.feed(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(mapper.finish(), SegmentMap::of(*name, Writer::size(), VERSION, bytes));
    }

    #[test]
    fn any_range_has_at_least_what_was_written_in_it(steps in any_steps(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let mut writer = Writer::new(VERSION);
        let places: Vec<Lsn> = steps.iter().map(|step| {
            let place = writer.position();
            step.write(&mut writer, VERSION, &mut ChangeMap::default());
            place
        }).collect();
        let (from, to) = (from.index(steps.len()), to.index(steps.len()));
        let (from, to) = (from.min(to), from.max(to));
        let mut expected = ChangeMap::default();
        for step in &steps[from..to] {
            step.write(&mut Writer::new(VERSION), VERSION, &mut expected);
        }
        let map = joined(&writer.segments(), VERSION, places[from], places[to]).unwrap();
        let mut with_all = map.clone();
        with_all.merge(&expected);
        prop_assert_eq!(with_all, map);
    }
}

#[test]
fn a_record_over_four_segments_is_joined() {
    let mut writer = Writer::new(VERSION);
    writer.write(&record(10, 0, &[block(1, 1)], &[]));
    writer.write(&record(10, 0, &[block(2, 2)], &vec![0; 3 << 20]));
    writer.write(&record(10, 0, &[block(3, 3)], &[]));
    let (from, to) = (writer.start(), writer.position());
    let segments = writer.segments();
    assert_eq!(segments.len(), 4);
    let mut expected = ChangeMap::default();
    (1..4).for_each(|number| expected.add_block(fork(number), number));
    assert_eq!(joined(&segments, VERSION, from, to), Ok(expected.clone()));

    // A range from a segment that has only a part of the record, and a range from the segment in which it ends.
    let mut last = ChangeMap::default();
    last.add_block(fork(3), 3);
    for first in [1, 3] {
        let start = segments[first].0.start(Writer::size());
        assert_eq!(joined(&segments, VERSION, start, to), Ok(last.clone()));
    }
    // The record is long, but its map is small.
    for (name, bytes) in &segments {
        let length = SegmentMap::of(*name, Writer::size(), VERSION, bytes).encode().len();
        assert!(length < 70_000, "{length}");
    }
}

#[test]
fn a_record_at_any_place_of_the_border_is_joined() {
    // The border runs through the record's header, its blocks' headers, its data, and before and behind it.
    let tested = record(10, 0, &[block(2, 2), block(3, 3)], &[9; 300]);
    for before in (0..tested.len() + 80).step_by(8) {
        let mut writer = Writer::new(VERSION);
        let end = writer.start() + u64::from(Writer::size().bytes());
        while writer.position() + 40_000 < end {
            writer.write(&record(10, 0, &[], &[0; 8000]));
        }
        while end - writer.position() > before as u64 + 64 {
            writer.write(&record(10, 0, &[], &[0; 1]));
        }
        writer.write(&tested);
        writer.write(&tested);
        let mut expected = ChangeMap::default();
        (2..4).for_each(|number| expected.add_block(fork(number), number));
        assert_eq!(map_of(writer, VERSION), Ok(expected), "{before}");
    }
}

#[test]
fn dropped_relations_of_a_long_transaction_are_joined() {
    let mut writer = Writer::new(VERSION);
    writer.write(&record(10, 0, &[], &vec![0; (1 << 20) - 20_000]));
    let dropped: Vec<_> = (1..4000).map(fork).collect();
    writer.write(&record(1, 0x81, &[], &transaction(50, &dropped, 100_000)));
    let map = map_of(writer, VERSION).unwrap();
    assert_eq!(map.candidates("base/5/3999"), super::super::Candidates::All);

    // The names of so many relations do not fit into the bytes kept at a border: there is no map, and no panic.
    let mut writer = Writer::new(VERSION);
    writer.write(&record(10, 0, &[], &vec![0; (1 << 20) - 20_000]));
    let dropped: Vec<_> = (1..20_000).map(fork).collect();
    writer.write(&record(1, 0x81, &[], &transaction(50, &dropped, 0)));
    assert!(matches!(map_of(writer, VERSION), Err(NoMap::Record(_))));
}

#[test]
fn segments_must_follow_each_other() {
    let mut writer = Writer::new(VERSION);
    for _ in 0..3 {
        writer.write(&record(10, 0, &[block(1, 1)], &vec![0; 900 << 10]));
    }
    let (from, to, timeline) = (writer.start(), writer.position(), writer.timeline());
    let maps: Vec<SegmentMap> = writer
        .segments()
        .iter()
        .map(|(name, bytes)| SegmentMap::of(*name, Writer::size(), VERSION, bytes))
        .collect();
    let joiner = || Joiner::new(timeline, Writer::size(), VERSION, from, to);

    let mut wrong = joiner();
    wrong.add(&maps[0]).unwrap();
    assert!(matches!(wrong.add(&maps[2]), Err(NoMap::Hole { .. })));
    let mut wrong = Joiner::new(TimelineId(2), Writer::size(), VERSION, from, to);
    assert!(matches!(wrong.add(&maps[0]), Err(NoMap::Hole { .. })));
    let mut wrong = Joiner::new(timeline, Writer::size(), PgVersion::V16, from, to);
    assert!(matches!(wrong.add(&maps[0]), Err(NoMap::OtherCluster { .. })));
    let mut short = joiner();
    short.add(&maps[0]).unwrap();
    assert_eq!(short.wanted(), Some(maps[1].name()));
    assert!(matches!(short.finish(), Err(NoMap::Incomplete { .. })));
    let nothing = Joiner::new(timeline, Writer::size(), VERSION, from + 40, from + 40);
    assert_eq!(nothing.wanted(), None);
    assert_eq!(nothing.finish(), Ok(ChangeMap::default()));

    // A record goes on behind the segment's end, but the next segment does not continue it.
    let mut other = Writer::new(VERSION);
    other.write(&record(10, 0, &[], &vec![0; 1000 << 10]));
    other.switch();
    other.write(&record(10, 0, &[], &vec![0; 1000 << 10]));
    let (name, bytes) = &other.segments()[1];
    let mut wrong = joiner();
    wrong.add(&maps[0]).unwrap();
    assert!(matches!(
        wrong.add(&SegmentMap::of(*name, Writer::size(), VERSION, bytes)),
        Err(NoMap::Record(_))
    ));
}

#[test]
fn a_range_within_a_record_wants_the_rest_of_it() {
    let mut writer = Writer::new(VERSION);
    writer.write(&record(10, 0, &[block(1, 1)], &vec![0; 1000 << 10]));
    let begun = writer.position();
    writer.write(&record(10, 0, &[block(2, 2)], &vec![0; 1000 << 10]));
    let (from, timeline) = (writer.start(), writer.timeline());
    let segments = writer.segments();
    let mut joiner = Joiner::new(timeline, Writer::size(), VERSION, from, begun + 8);
    let (name, bytes) = &segments[0];
    joiner
        .add(&SegmentMap::of(*name, Writer::size(), VERSION, bytes))
        .unwrap();
    assert_eq!(joiner.wanted(), Some(segments[1].0));
}

#[test]
fn a_range_that_ends_behind_a_segments_header_does_not_want_it() {
    let mut writer = Writer::new(VERSION);
    writer.write(&record(10, 0, &[block(1, 1)], &[]));
    writer.switch();
    let (from, to, timeline) = (writer.start(), writer.position(), writer.timeline());
    assert_eq!(to.0 % u64::from(Writer::size().bytes()), 40);
    let (name, bytes) = &writer.segments()[0];
    let mut joiner = Joiner::new(timeline, Writer::size(), VERSION, from, to);
    joiner
        .add(&SegmentMap::of(*name, Writer::size(), VERSION, bytes))
        .unwrap();
    assert_eq!(joiner.wanted(), None);
}

#[test]
fn a_segment_that_is_being_written_is_read_up_to_a_record() {
    let mut writer = Writer::new(VERSION);
    for number in 0..2000 {
        writer.write(&record(10, 0, &[block(1, number)], &[1; 90]));
    }
    let to = writer.position();
    for number in 0..2000 {
        writer.write(&record(10, 0, &[block(2, number)], &[1; 90]));
    }
    let (name, mut bytes) = writer.segments().remove(0);
    // The bytes behind are those of an older use of the file, and the last page may be incomplete.
    let end = usize::try_from(to - name.start(Writer::size())).unwrap();
    bytes[end..].fill(0xAA);
    let mut expected = ChangeMap::default();
    (0..2000).for_each(|number| expected.add_block(fork(1), number));
    for given in [bytes.len(), end.next_multiple_of(8192)] {
        let mut mapper = SegmentMapper::new(name, Writer::size(), VERSION).up_to(to);
        mapper.feed(&bytes[..given]);
        assert_eq!(mapper.finish().changes(), Ok(&expected));
    }
    // The bytes end before `to`.
    let mut mapper = SegmentMapper::new(name, Writer::size(), VERSION).up_to(to);
    mapper.feed(&bytes[..end - 8192]);
    assert!(mapper.finish().changes().is_err());
}
