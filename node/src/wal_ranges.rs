//! Which WAL an archive holds: ranges and gaps on each timeline. Pure.

use pgmesh_postgres::{SegmentName, SegmentSize, TimelineId};
use std::collections::BTreeMap;
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

/// Collects segments, in any order within a timeline's names being ascending.
#[derive(Debug)]
pub struct Ranges {
    size: SegmentSize,
    timelines: BTreeMap<TimelineId, Vec<Range>>,
}

impl Ranges {
    /// None yet.
    pub fn new(size: SegmentSize) -> Self {
        Self {
            size,
            timelines: BTreeMap::new(),
        }
    }

    /// Adds the next segment; they come in the order of their names.
    pub fn add(&mut self, name: SegmentName) {
        let ranges = self.timelines.entry(name.timeline).or_default();
        match ranges.last_mut() {
            Some(range) if range.last.next(self.size) == name => {
                range.last = name;
                range.count += 1;
            }
            _ => ranges.push(Range {
                first: name,
                last: name,
                count: 1,
            }),
        }
    }

    /// All runs, by timeline.
    pub fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.timelines.values().flatten()
    }

    /// What is missing between two runs of one timeline.
    pub fn gaps(&self) -> Vec<Range> {
        let pairs = self
            .timelines
            .values()
            .flat_map(|ranges| ranges.iter().zip(ranges.iter().skip(1)));
        pairs
            .map(|(before, after)| {
                let first = before.last.next(self.size);
                let bytes = after.first.start(self.size).0.saturating_sub(first.start(self.size).0);
                let count = bytes / u64::from(self.size.bytes());
                let mut last = first;
                // The last missing one is the one before the next run; found by position, not by walking.
                if count > 1 {
                    let at = pgmesh_postgres::Lsn(after.first.start(self.size).0 - u64::from(self.size.bytes()));
                    last = SegmentName::containing(first.timeline, at, self.size);
                }
                Range { first, last, count }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
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
}
