//! Which WAL an archive holds: ranges, gaps and holes on each timeline. Pure.

use pgmesh_postgres::{Lsn, SegmentName, SegmentSize, TimelineId, TimelineTree, WalHole};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A run of segments without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first segment.
    pub first: SegmentName,
    /// The last segment.
    pub last: SegmentName,
    /// How many there are.
    pub count: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "timeline {}: {} to {} ({} segments)",
            self.first.timeline, self.first, self.last, self.count
        )
    }
}

/// WAL that is missing although WAL behind it is, or was, there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The missing segments, all on one timeline.
    pub missing: Range,
    /// The proof that there is WAL behind them.
    pub proof: WalHole,
}

/// Collects segments. Timelines may come in any order; within a timeline, the names must ascend.
#[derive(Debug, Clone)]
pub struct Ranges {
    size: SegmentSize,
    timelines: BTreeMap<TimelineId, Vec<Range>>,
    /// The last segment of a timeline that is archived in part only.
    partial: BTreeMap<TimelineId, SegmentName>,
}

impl Ranges {
    /// None yet.
    pub fn new(size: SegmentSize) -> Self {
        Self {
            size,
            timelines: BTreeMap::new(),
            partial: BTreeMap::new(),
        }
    }

    /// Adds the next segment; they come in the order of their names.
    pub fn add(&mut self, name: SegmentName) {
        self.add_range(Range {
            first: name,
            last: name,
            count: 1,
        });
    }

    /// Adds the next run.
    pub fn add_range(&mut self, more: Range) {
        let ranges = self.timelines.entry(more.first.timeline).or_default();
        match ranges.last_mut() {
            Some(range) if range.last.next(self.size) == more.first => {
                range.last = more.last;
                range.count = range.count.saturating_add(more.count);
            }
            _ => ranges.push(more),
        }
    }

    /// Adds a segment that is archived in part, by the server that was promoted in the middle of it.
    pub fn add_partial(&mut self, name: SegmentName) {
        let last = self.partial.entry(name.timeline).or_insert(name);
        *last = name.max(*last);
    }

    /// The run that a segment is in.
    pub fn containing(&self, name: SegmentName) -> Option<&Range> {
        let ranges = self.timelines.get(&name.timeline)?;
        let behind = ranges.partition_point(|range| range.first <= name);
        let range = ranges.get(behind.checked_sub(1)?)?;
        (name <= range.last).then_some(range)
    }

    /// How many runs there are.
    pub fn count(&self) -> usize {
        self.timelines.values().map(Vec::len).sum()
    }

    /// The timelines that have complete segments.
    pub fn timelines(&self) -> impl Iterator<Item = TimelineId> {
        self.timelines.keys().copied()
    }

    /// All runs, by timeline.
    pub fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.timelines.values().flatten()
    }

    /// The missing segments between two runs of a timeline.
    pub fn gaps(&self) -> Vec<Range> {
        let pairs = self
            .timelines
            .values()
            .flat_map(|ranges| ranges.iter().zip(ranges.iter().skip(1)));
        pairs
            .filter_map(|(before, after)| {
                let timeline = before.first.timeline;
                self.range(timeline, self.number(before.last) + 1, self.number(after.first))
            })
            .collect()
    }

    /// The holes, over all timelines (invariant 7): the judgement of [`WalHole::judge`], over all segments. A segment
    /// is missing if a later segment of its timeline is archived, or if another timeline left its own behind it.
    ///
    /// The new timeline's first segment begins with a copy of the old timeline's segment, which is not needed then. WAL
    /// before a timeline's beginning is not its own. Timeline 1 begins with its first archived segment.
    pub fn holes(&self, tree: &TimelineTree) -> Vec<Hole> {
        let timelines: BTreeSet<TimelineId> = self.timelines().chain(tree.timelines()).collect();
        let mut holes = Vec::new();
        for timeline in timelines {
            let ranges = self.timelines.get(&timeline).map(Vec::as_slice).unwrap_or_default();
            let beginning = tree.beginning(timeline).map(|begin| self.number_at(begin));
            let Some(mut next) = beginning.or_else(|| ranges.first().map(|first| self.number(first.first))) else {
                continue;
            };
            for range in ranges {
                holes.extend(self.hole(timeline, next, range.first));
                next = next.max(self.number(range.last) + 1);
            }
            holes.extend(self.hole_at_end(timeline, next, tree));
        }
        holes
    }

    /// The hole from segment number `next` up to the segment `later`, which is archived.
    fn hole(&self, timeline: TimelineId, next: u64, later: SegmentName) -> Option<Hole> {
        Some(Hole {
            missing: self.range(timeline, next, self.number(later))?,
            proof: WalHole::Later(later),
        })
    }

    /// The hole behind the last complete segment of a timeline, from segment number `next` on.
    fn hole_at_end(&self, timeline: TimelineId, next: u64, tree: &TimelineTree) -> Option<Hole> {
        let left = tree.descendants(timeline).max_by_key(|(_, switch)| *switch);
        let left = left.and_then(|(child, switch)| {
            Some(Hole {
                missing: self.range(timeline, next, self.number_at(switch))?,
                proof: WalHole::LeftLater {
                    timeline: child,
                    switch,
                },
            })
        });
        let partial = self.partial.get(&timeline);
        let before = partial.and_then(|partial| self.hole(timeline, next, *partial));
        // Of two holes of one length, the last: another timeline proves more than a .partial.
        before.into_iter().chain(left).max_by_key(|hole| hole.missing.count)
    }

    fn number(&self, name: SegmentName) -> u64 {
        self.number_at(name.start(self.size))
    }

    /// The number of the segment that holds a position.
    fn number_at(&self, lsn: Lsn) -> u64 {
        lsn.0 / u64::from(self.size.bytes())
    }

    /// The segments with these numbers, the second excluded; `None` where there are none.
    fn range(&self, timeline: TimelineId, first: u64, end: u64) -> Option<Range> {
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        let name = |number: u64| {
            let start = number.saturating_mul(u64::from(self.size.bytes()));
            SegmentName::containing(timeline, Lsn(start), self.size)
        };
        Some(Range {
            first: name(first),
            last: name(end - 1),
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use pgmesh_postgres::Descent;

    use super::*;

    fn ranges(names: &[&str]) -> Ranges {
        let mut ranges = Ranges::new(SegmentSize::DEFAULT);
        for name in names {
            ranges.add(name.parse().unwrap());
        }
        ranges
    }

    #[test]
    fn a_gap_is_found_across_a_log_boundary() {
        let found = ranges(&[
            "0000000100000000000000FD",
            "0000000100000000000000FE",
            "000000010000000100000002",
        ]);
        let gaps = found.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].first.to_string(), "0000000100000000000000FF");
        assert_eq!(gaps[0].last.to_string(), "000000010000000100000001");
        assert_eq!(gaps[0].count, 3);
    }

    #[test]
    fn timelines_are_apart() {
        let found = ranges(&[
            "000000010000000000000001",
            "000000020000000000000005",
            "000000020000000000000006",
        ]);
        assert!(found.gaps().is_empty());
        assert_eq!(found.ranges().map(|range| range.count).collect::<Vec<_>>(), [1, 2]);
    }

    fn descent(timeline: u32, parent: u32, switch: u64) -> Descent {
        Descent {
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            switch: Lsn(switch),
        }
    }

    fn holes(names: &[&str], descents: &[Descent]) -> Vec<(String, String, WalHole)> {
        let found = ranges(names).holes(&descents.iter().copied().collect());
        let words = |hole: Hole| {
            (
                hole.missing.first.to_string(),
                hole.missing.last.to_string(),
                hole.proof,
            )
        };
        found.into_iter().map(words).collect()
    }

    #[test]
    fn invariant_7_the_end_of_a_timeline_that_was_left_later_is_a_hole() {
        let left = descent(2, 1, 0x800_0100);
        let archived = ["000000010000000000000004", "000000020000000000000008"];
        let proof = WalHole::LeftLater {
            timeline: TimelineId(2),
            switch: Lsn(0x800_0100),
        };
        let expected = (
            "000000010000000000000005".to_owned(),
            "000000010000000000000007".to_owned(),
            proof,
        );
        assert_eq!(holes(&archived, &[left]), [expected]);
    }

    #[test]
    fn a_failover_with_everything_archived_has_no_hole() {
        // Of segment 8 timeline 1 has at most a .partial: timeline 2's begins with a copy of it.
        let left = descent(2, 1, 0x800_0100);
        let mut archived = ranges(&[
            "000000010000000000000006",
            "000000010000000000000007",
            "000000020000000000000008",
            "000000020000000000000009",
        ]);
        assert!(archived.holes(&[left].into_iter().collect()).is_empty());
        archived.add_partial("000000010000000000000008".parse().unwrap());
        assert!(archived.holes(&[left].into_iter().collect()).is_empty());
        // Timeline 1 may have WAL behind the switch.
        let tail = [
            "000000010000000000000007",
            "000000010000000000000008",
            "000000010000000000000009",
        ];
        assert!(holes(&tail, &[left]).is_empty());
    }

    #[test]
    fn the_beginning_of_a_timeline_may_be_the_hole() {
        let left = descent(2, 1, 0x800_0100);
        let found = holes(&["000000010000000000000007", "00000002000000000000000A"], &[left]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].0.as_str(), found[0].1.as_str()),
            ("000000020000000000000008", "000000020000000000000009")
        );
        // A timeline that was left in the segment in which it began has no segment of its own.
        let lines = [left, descent(3, 1, 0x800_0100), descent(3, 2, 0x8FF_0000)];
        assert!(holes(&["000000010000000000000007", "000000030000000000000008"], &lines).is_empty());
    }

    proptest::proptest! {
        /// The holes of an archive are exactly the segments of which a recovery is told that they are holes.
        #[test]
        fn invariant_7_holes_are_what_a_recovery_is_told_of(
            archived in proptest::collection::btree_set((1u32..5, 0u32..12), 0..24),
            partial in proptest::option::of((1u32..5, 0u32..12)),
            switches in proptest::collection::vec((1u32..4, 0u64..12, 0u64..3), 0..4),
        ) {
            let size = SegmentSize::DEFAULT;
            let bytes = u64::from(size.bytes());
            let segment = |timeline, segment| SegmentName { timeline: TimelineId(timeline), log: 0, segment };
            // Timeline n + 2 leaves an older timeline, and repeats its lines, even where they say later positions.
            let mut descents: Vec<Descent> = Vec::new();
            for (child, (parent, number, offset)) in (2u32..).zip(switches) {
                let parent = parent.min(child - 1);
                let switch = Lsn(number * bytes + [0, 256, bytes - 8][usize::try_from(offset).unwrap()]);
                let older: Vec<Descent> = descents.iter().filter(|line| line.timeline == TimelineId(parent)).copied().collect();
                descents.extend(older.into_iter().map(|line| Descent { timeline: TimelineId(child), ..line }));
                descents.push(descent(child, parent, switch.0));
            }
            let mut found = Ranges::new(size);
            archived.iter().for_each(|(timeline, number)| found.add(segment(*timeline, *number)));
            if let Some((timeline, number)) = partial {
                found.add_partial(segment(timeline, number));
            }
            let tree: TimelineTree = descents.iter().copied().collect();
            let holes = found.holes(&tree);
            for timeline in 1..5 {
                let first = archived.iter().find(|(known, _)| *known == timeline).map(|(_, number)| *number);
                let begins = tree.beginning(TimelineId(timeline)).map(|begin| u32::try_from(begin.0 / bytes).unwrap()).or(first);
                for number in 0..13 {
                    let name = segment(timeline, number);
                    let is_hole = holes.iter().any(|hole| hole.missing.first <= name && name <= hole.missing.last && hole.missing.first.timeline == name.timeline);
                    let later = archived.iter().copied().chain(partial).filter(|(known, later)| *known == timeline && *later > number);
                    let later = later.min().map(|(timeline, number)| segment(timeline, number));
                    let is_missing = !archived.contains(&(timeline, number)) && begins.is_some_and(|begins| number >= begins);
                    let told = is_missing && WalHole::judge(name, size, later, descents.iter().copied()).is_some();
                    proptest::prop_assert_eq!(is_hole, told, "{} in {:?} of {:?}", name, holes, tree);
                }
            }
        }
    }
}
