//! The cost of a hole: the backups that it stops, and how far each can still be recovered. Pure.

use crate::wal_ranges::Hole;
use pgmesh_postgres::{Lsn, SegmentName, SegmentSize, TimelineId, TimelineTree, WalHole};
use pgmesh_protocol::HoleInfo;
use pgmesh_raft::BackupRecord;
use pgmesh_storage::BackupLabel;

/// So many backups, and so many timelines, of a hole are named.
const NAMED: usize = 16;

/// The WAL that a backup begins with.
struct Span {
    label: BackupLabel,
    timeline: TimelineId,
    first: SegmentName,
    last: SegmentName,
    stop: Lsn,
}

/// The backups of a database.
pub struct Spans<'t> {
    size: SegmentSize,
    tree: &'t TimelineTree,
    spans: Vec<Span>,
}

impl<'t> Spans<'t> {
    /// None yet.
    pub fn new(size: SegmentSize, tree: &'t TimelineTree) -> Self {
        Self {
            size,
            tree,
            spans: Vec::new(),
        }
    }

    /// Adds a backup.
    pub fn add(&mut self, label: BackupLabel, backup: &BackupRecord) {
        self.spans.push(Span {
            label,
            timeline: backup.timeline,
            first: backup.wal_start,
            last: backup.wal_stop,
            stop: backup.lsn_stop,
        });
    }

    /// The ends of the history to which no backup can be recovered, though a backup could without the holes.
    pub fn unreached(&self, ends: &[TimelineId], holes: &[Hole]) -> Vec<u32> {
        let is_unreached = |target: &TimelineId| {
            let mut usable = self.usable(*target).peekable();
            let stops = |span: &Span| {
                let mut holes = holes.iter();
                holes.any(|hole| self.is_on_the_way_to(hole, *target) && self.is_before(span, hole))
            };
            usable.peek().is_some() && usable.all(stops)
        };
        let unreached = ends.iter().filter(|end| is_unreached(end));
        unreached.map(|end| end.0).collect()
    }

    /// The backups that can be recovered along a timeline.
    fn usable(&self, target: TimelineId) -> impl Iterator<Item = &Span> {
        let is_usable = move |span: &&Span| self.tree.contains(target, span.timeline, span.stop);
        self.spans.iter().filter(is_usable)
    }

    /// Whether a recovery along `target` needs the missing WAL.
    fn is_on_the_way_to(&self, hole: &Hole, target: TimelineId) -> bool {
        let timeline = hole.missing.first.timeline;
        if target == timeline {
            return matches!(hole.proof, WalHole::Later(_));
        }
        let end = hole.missing.first.end(self.size);
        self.tree.left(target, timeline).is_some_and(|switch| end <= switch)
    }

    /// Whether a recovery from a backup comes to the hole.
    fn is_before(&self, span: &Span, hole: &Hole) -> bool {
        let timeline = hole.missing.first.timeline;
        if span.timeline == timeline {
            return span.first <= hole.missing.last;
        }
        self.tree.contains(timeline, span.timeline, span.stop)
    }
}

/// The cost of a hole; `None` if no backup needs the missing WAL.
pub fn cost(spans: &Spans<'_>, hole: &Hole, archive: String) -> Option<HoleInfo> {
    let Hole { missing, proof } = hole;
    let own = missing.first.timeline;
    let descendants = spans.tree.descendants(own).map(|(timeline, _)| timeline);
    let targets = std::iter::once(own).chain(descendants);
    let targets: Vec<TimelineId> = targets.filter(|target| spans.is_on_the_way_to(hole, *target)).collect();
    let can_follow = |span: &Span| {
        let mut targets = targets.iter();
        targets.any(|target| spans.tree.contains(*target, span.timeline, span.stop))
    };
    let concerned = |span: &&Span| spans.is_before(span, hole) && can_follow(span);
    let is_broken = |span: &&Span| span.timeline == own && missing.first <= span.last;
    let (broken, stopped): (Vec<&Span>, Vec<&Span>) = spans.spans.iter().filter(concerned).partition(is_broken);
    if broken.is_empty() && stopped.is_empty() {
        return None;
    }
    let label = |span: &&Span| span.label.clone();
    Some(HoleInfo {
        archive,
        first: missing.first.to_string(),
        last: missing.last.to_string(),
        count: missing.count,
        proof: *proof,
        beyond: missing.first.start(spans.size),
        until: None,
        timelines: targets.iter().take(NAMED).map(|timeline| timeline.0).collect(),
        backups: stopped.iter().take(NAMED).map(label).collect(),
        backups_more: stopped.len().saturating_sub(NAMED) as u64,
        broken: broken.iter().take(NAMED).map(label).collect(),
        broken_more: broken.len().saturating_sub(NAMED) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_ranges::Ranges;
    use pgmesh_postgres::Descent;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn name(timeline: u32, segment: u32) -> SegmentName {
        SegmentName {
            timeline: TimelineId(timeline),
            log: 0,
            segment,
        }
    }

    fn tree() -> TimelineTree {
        let left = Descent {
            timeline: TimelineId(2),
            parent: TimelineId(1),
            switch: Lsn(0x800_0100),
        };
        TimelineTree::from_iter([left])
    }

    /// Backups that lie in one segment each.
    fn spans(backups: &[(u32, u32)]) -> Vec<Span> {
        let span = |(number, (timeline, segment)): (usize, &(u32, u32))| Span {
            label: format!("2026010{}-000000F", number + 1).parse().unwrap(),
            timeline: TimelineId(*timeline),
            first: name(*timeline, *segment),
            last: name(*timeline, *segment),
            stop: name(*timeline, *segment).start(SIZE) + 0x100,
        };
        backups.iter().enumerate().map(span).collect()
    }

    fn ranges(names: &[(u32, u32)]) -> Ranges {
        let mut ranges = Ranges::new(SIZE);
        for (timeline, segment) in names {
            ranges.add(name(*timeline, *segment));
        }
        ranges
    }

    /// Where a hole stops recoveries, along which timelines, and how many backups.
    type Stop = (Lsn, Vec<u32>, usize);

    /// The cost of each hole, and the timelines that cannot be reached.
    fn costs(archived: &[(u32, u32)], backups: &[(u32, u32)]) -> (Vec<Stop>, Vec<u32>) {
        let (tree, ranges) = (tree(), ranges(archived));
        let spans = Spans {
            size: SIZE,
            tree: &tree,
            spans: spans(backups),
        };
        let holes = ranges.holes(&tree);
        let told = holes.iter().filter_map(|hole| cost(&spans, hole, "15-1".to_owned()));
        let told = told.map(|info| (info.beyond, info.timelines, info.backups.len() + info.broken.len()));
        (told.collect(), spans.unreached(&[TimelineId(2)], &holes))
    }

    #[test]
    fn a_hole_costs_the_backups_before_it() {
        // Segments 5 to 7 of timeline 1 are missing, timeline 2 left it in 8.
        let archived = [(1, 3), (1, 4), (2, 8), (2, 9)];
        let (told, unreached) = costs(&archived, &[(1, 3)]);
        assert_eq!(told, [(Lsn(0x500_0000), vec![2], 1)]);
        assert_eq!(unreached, [2]);
        // With a backup behind it the newest state can be reached, and the older backup still has lost its targets.
        let (told, unreached) = costs(&archived, &[(1, 3), (2, 9)]);
        assert_eq!(told, [(Lsn(0x500_0000), vec![2], 1)]);
        assert!(unreached.is_empty());
        // Where no backup is older, nothing is lost.
        assert_eq!(costs(&archived, &[(2, 9)]), (vec![], vec![]));
        assert_eq!(costs(&archived, &[]), (vec![], vec![]));
    }

    #[test]
    fn what_is_missing_on_an_abandoned_branch_costs_only_that() {
        // Timeline 1 went on for a while behind the point where timeline 2 left it.
        let archived = [(1, 7), (1, 8), (1, 9), (1, 11), (2, 8)];
        let (told, unreached) = costs(&archived, &[(1, 7)]);
        assert_eq!(told, [(Lsn(0xA00_0000), vec![1], 1)]);
        assert!(unreached.is_empty());
    }

    #[test]
    fn a_backup_whose_own_wal_is_missing_cannot_be_recovered_at_all() {
        let (tree, ranges) = (tree(), ranges(&[(1, 3), (1, 5)]));
        let mut all = spans(&[(1, 3), (1, 5)]);
        all[0].last = name(1, 5);
        let spans = Spans {
            size: SIZE,
            tree: &tree,
            spans: all,
        };
        let holes = ranges.holes(&tree);
        let info = cost(&spans, &holes[0], "15-1".to_owned()).unwrap();
        assert_eq!((info.broken.len(), info.backups.len()), (1, 0));
    }
}
