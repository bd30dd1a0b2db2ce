//! On which timelines a cluster's history ends: decision 26. Pure.
//!
//! After a failover, or a recovery in place, the history has one end: the old timeline is an ancestor of the new one,
//! and no server archives on it any more. If a copy of the cluster is promoted and archives, the history forks: the
//! original goes on behind the point where the copy left it. Then only a person can tell which end a restore should
//! lead to.

use crate::clock::utc;
use pgmesh_postgres::{Lsn, SegmentName, SegmentSize, TimelineId, TimelineTree};
use pgmesh_storage::BackupLabel;
use std::collections::{BTreeMap, BTreeSet};

/// The archive's facts about one timeline. An `order` tells which of two events happened first: it is a log position of
/// the catalog, or, where there is no catalog, a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineFacts {
    /// When its history was archived; 0 where it has none.
    pub began: u64,
    /// The last complete segment that is archived.
    pub last: Option<LastSegment>,
    /// The client that archives it, in words.
    pub host: Option<String>,
}

/// The last segment of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSegment {
    /// Its name.
    pub name: SegmentName,
    /// When it was archived.
    pub order: u64,
    /// When it was archived, Unix seconds.
    pub at: i64,
}

/// The newest backup of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestBackup {
    /// Its label.
    pub label: BackupLabel,
    /// When it began.
    pub began: u64,
    /// Where it is consistent.
    pub stop: Lsn,
}

/// One end of a cluster's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The timeline.
    pub timeline: TimelineId,
    /// The client that archives it, in words.
    pub host: Option<String>,
    /// Its last segment; none where only its history is archived.
    pub last: Option<LastSegment>,
    /// Where its WAL ends.
    pub end: Option<Lsn>,
}

/// A line that was given up: after its last archived segment, a backup of another line began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedLine {
    /// The line.
    pub line: Line,
    /// That backup.
    pub by: BackupLabel,
}

/// The timelines of one cluster, with their archive and their backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Family {
    /// Which timeline descends from which.
    pub tree: TimelineTree,
    /// The archive's facts about each timeline.
    pub facts: BTreeMap<TimelineId, TimelineFacts>,
    /// The newest backup of each timeline.
    pub backups: BTreeMap<TimelineId, NewestBackup>,
}

/// The ends of a cluster's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// The ends that a restore may be meant to lead to: one, for a cluster without forks.
    pub open: Vec<Line>,
    /// The ends that were given up.
    pub passed: Vec<PassedLine>,
}

impl Family {
    /// Takes account of a backup.
    pub fn add_backup(&mut self, timeline: TimelineId, backup: NewestBackup) {
        let newest = self.backups.entry(timeline).or_insert_with(|| backup.clone());
        if newest.began < backup.began || newest.began == backup.began && newest.stop < backup.stop {
            *newest = backup;
        }
    }

    /// The timeline that PostgreSQL takes for the latest: from this one on, it looks for a history file of each number,
    /// and stops at the first number without one.
    pub fn latest_from(&self, timeline: TimelineId) -> TimelineId {
        let known: BTreeSet<TimelineId> = self.tree.timelines().collect();
        let mut latest = timeline;
        while let Some(next) = latest
            .0
            .checked_add(1)
            .map(TimelineId)
            .filter(|next| known.contains(next))
        {
            latest = next;
        }
        latest
    }

    /// The ends of the history.
    pub fn lines(&self, size: SegmentSize) -> Lines {
        let timelines: BTreeSet<TimelineId> = self.facts.keys().copied().chain(self.tree.timelines()).collect();
        let ends: BTreeSet<TimelineId> = timelines
            .into_iter()
            .filter(|timeline| self.is_end(*timeline, size))
            .collect();
        // A line with a history file alone belongs to a server that was promoted a moment ago. If its original goes on
        // beside it, it is a copy that archived nothing else, and no line.
        let is_copy = |line: &Line| {
            let mut others = ends.iter();
            line.last.is_none() && others.any(|end| self.tree.left(line.timeline, *end).is_some())
        };
        let ends: Vec<Line> = ends
            .iter()
            .map(|timeline| self.line(*timeline, size))
            .filter(|line| !is_copy(line))
            .collect();
        let mut lines = Lines::default();
        for line in &ends {
            match self.passed_by(line, &ends) {
                None => lines.open.push(line.clone()),
                Some(by) => lines.passed.push(PassedLine { line: line.clone(), by }),
            }
        }
        lines
    }

    /// Whether no other timeline goes on where this one ends. Either no timeline descends from it, or it went on behind
    /// the points where the descendants left it: it has whole segments there, archived after the descendants began. A
    /// primary that dies leaves segments behind such a point too; these were archived before.
    fn is_end(&self, timeline: TimelineId, size: SegmentSize) -> bool {
        let last = self.facts.get(&timeline).and_then(|facts| facts.last);
        let went_on = |(child, switch): (TimelineId, Lsn)| {
            let began = self.facts.get(&child).map_or(0, |facts| facts.began);
            last.is_some_and(|last| switch <= last.name.start(size) && began < last.order)
        };
        self.tree.descendants(timeline).all(went_on)
    }

    fn line(&self, timeline: TimelineId, size: SegmentSize) -> Line {
        let facts = self.facts.get(&timeline).cloned().unwrap_or_default();
        Line {
            timeline,
            host: facts.host,
            last: facts.last,
            end: facts
                .last
                .map(|last| last.name.end(size))
                .or_else(|| self.tree.beginning(timeline)),
        }
    }

    /// The backup of another line, and not of this one, that began after the last segment of this line was archived. A
    /// line without segments counts from its history file: its server died as soon as it was promoted.
    fn passed_by(&self, line: &Line, ends: &[Line]) -> Option<BackupLabel> {
        let began = self.facts.get(&line.timeline).map_or(0, |facts| facts.began);
        let last = line.last.map_or(began, |last| last.order);
        let is_of = |line: &Line, timeline: TimelineId, backup: &NewestBackup| {
            self.tree.contains(line.timeline, timeline, backup.stop)
        };
        let passing = self.backups.iter().filter(|(timeline, backup)| {
            let mut others = ends.iter().filter(|other| other.timeline != line.timeline);
            last < backup.began
                && !is_of(line, **timeline, backup)
                && others.any(|other| is_of(other, **timeline, backup))
        });
        passing.map(|(_, backup)| backup.label.clone()).next()
    }

    /// The line to recommend of several: the line of the newest backup that is not common to all of them; without such
    /// a backup, the line that archived last.
    pub fn recommended<'l>(&self, lines: &'l [Line]) -> Option<&'l Line> {
        let backup = |line: &Line| {
            let own = self.backups.iter().filter(|(timeline, backup)| {
                let is_of = |line: &&Line| self.tree.contains(line.timeline, **timeline, backup.stop);
                is_of(&line) && !lines.iter().all(|line| is_of(&line))
            });
            own.map(|(_, backup)| backup.began).max()
        };
        lines
            .iter()
            .max_by_key(|line| (backup(line), line.last.map(|last| last.order)))
    }
}

impl Line {
    /// `timeline 2 (client pg2, last archived 2026-01-01 00:00:00 UTC, up to 0/9000000)`.
    pub fn describe(&self) -> String {
        let host = self.host.clone().unwrap_or_else(|| "of an unknown host".to_owned());
        let end = self.end.map(|end| format!(", up to {end}")).unwrap_or_default();
        match self.last {
            Some(last) => format!(
                "timeline {} ({host}, last archived {}{end})",
                self.timeline,
                utc(last.at)
            ),
            None => format!("timeline {} ({host}, no WAL of its own{end})", self.timeline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::Descent;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segment(timeline: u32, segment: u32) -> SegmentName {
        SegmentName {
            timeline: TimelineId(timeline),
            log: 0,
            segment,
        }
    }

    /// Timelines (number, order of the history, last segment, its order), and where one left another (child, parent,
    /// segment).
    fn family(timelines: &[(u32, u64, u32, u64)], left: &[(u32, u32, u32)]) -> Family {
        let mut family = Family::default();
        for (timeline, began, last, order) in timelines {
            let last = (*order > 0).then(|| LastSegment {
                name: segment(*timeline, *last),
                order: *order,
                at: i64::try_from(*order).unwrap(),
            });
            let facts = TimelineFacts {
                began: *began,
                last,
                host: Some(format!("client pg{timeline}")),
            };
            family.facts.insert(TimelineId(*timeline), facts);
        }
        family.tree = left
            .iter()
            .map(|(child, parent, at)| Descent {
                timeline: TimelineId(*child),
                parent: TimelineId(*parent),
                switch: segment(*parent, *at).start(SIZE) + 0x100,
            })
            .collect();
        family
    }

    fn open(family: &Family) -> Vec<u32> {
        family.lines(SIZE).open.iter().map(|line| line.timeline.0).collect()
    }

    fn with_backup(mut family: Family, timeline: u32, at: u32, began: u64) -> Family {
        let backup = NewestBackup {
            label: "20260101-000000F".parse().unwrap(),
            began,
            stop: segment(timeline, at).start(SIZE) + 0x80,
        };
        family.add_backup(TimelineId(timeline), backup);
        family
    }

    #[test]
    fn a_linear_history_has_one_end() {
        // Nothing is archived; one timeline; a failover, with and without segments behind the point where timeline 2
        // left.
        assert!(open(&Family::default()).is_empty());
        assert_eq!(open(&family(&[(1, 0, 9, 90)], &[])), [1]);
        let left = [(2, 1, 8)];
        assert_eq!(open(&family(&[(1, 0, 7, 70), (2, 80, 9, 90)], &left)), [2]);
        assert_eq!(open(&family(&[(1, 0, 9, 75), (2, 80, 9, 90)], &left)), [2]);
        // A promotion a moment ago: of timeline 2, only the history file is archived.
        assert_eq!(open(&family(&[(1, 0, 9, 75), (2, 80, 0, 0)], &left)), [2]);
        // The segment in which the new timeline began, archived late by a primary that was shut down.
        assert_eq!(open(&family(&[(1, 0, 8, 85), (2, 80, 9, 90)], &left)), [2]);
        // One promotion after the other.
        let twice = [(2, 1, 8), (3, 1, 8), (3, 2, 9)];
        assert_eq!(
            open(&family(&[(1, 0, 9, 75), (2, 80, 9, 90), (3, 100, 12, 120)], &twice)),
            [3]
        );
    }

    #[test]
    fn two_recoveries_in_place_leave_one_end() {
        // The second recovery followed timeline 2, as PostgreSQL does by itself, and stopped before the point where
        // timeline 2 had left timeline 1.
        let mut family = family(
            &[(1, 0, 12, 75), (2, 80, 9, 90), (3, 100, 6, 120)],
            &[(2, 1, 8), (3, 1, 8), (3, 2, 5)],
        );
        assert_eq!(open(&family), [3]);
        let backup = NewestBackup {
            label: "20260101-000000F".parse().unwrap(),
            began: 60,
            stop: segment(1, 6).start(SIZE),
        };
        family.add_backup(TimelineId(1), backup.clone());
        assert!(
            !family.tree.contains(TimelineId(3), TimelineId(1), backup.stop),
            "taken behind the point where 3 began"
        );
    }

    #[test]
    fn an_original_that_goes_on_beside_its_promoted_copy_is_a_line_of_its_own() {
        let left = [(2, 1, 8)];
        let forked = family(&[(1, 0, 9, 95), (2, 80, 9, 90)], &left);
        assert_eq!(open(&forked), [1, 2]);
        let lines = forked.lines(SIZE).open;
        assert_eq!(forked.recommended(&lines).unwrap().timeline.0, 1, "it archived last");
        let backed_up = with_backup(forked, 2, 9, 85);
        assert_eq!(
            backed_up.recommended(&lines).unwrap().timeline.0,
            2,
            "it has a backup of its own"
        );
        assert_eq!(
            lines[0].describe(),
            "timeline 1 (client pg1, last archived 1970-01-01 00:01:35 UTC, up to 0/A000000)"
        );
        // A copy that archived its history and nothing else leaves one line: the original's.
        assert_eq!(open(&family(&[(1, 0, 9, 95), (2, 80, 0, 0)], &left)), [1]);
        // Two children of one timeline.
        let siblings = family(
            &[(1, 0, 7, 70), (2, 80, 9, 90), (3, 100, 9, 120)],
            &[(2, 1, 8), (3, 1, 6)],
        );
        assert_eq!(open(&siblings), [2, 3]);
    }

    #[test]
    fn a_backup_settles_which_line_goes_on() {
        let left = [(2, 1, 8)];
        let forked = family(&[(1, 0, 9, 95), (2, 80, 12, 130)], &left);
        // A backup from before the fork is common to both lines; a backup from before the other line's last segment
        // settles nothing.
        assert_eq!(open(&with_backup(forked.clone(), 1, 7, 110)), [1, 2]);
        assert_eq!(open(&with_backup(forked.clone(), 2, 12, 94)), [1, 2]);
        let settled = with_backup(forked, 2, 12, 110);
        assert_eq!(open(&settled), [2]);
        assert_eq!(settled.lines(SIZE).passed[0].line.timeline.0, 1);
        // And the other way round: the copy was thrown away, the original is backed up again.
        let ended = family(&[(1, 0, 14, 150), (2, 80, 9, 90)], &left);
        assert_eq!(open(&with_backup(ended, 1, 13, 140)), [1]);
    }

    #[test]
    fn a_promotion_a_moment_ago_is_the_end_beside_a_copy_that_was_given_up() {
        // Timeline 2 is a copy's. The original went on, was backed up, and its standby has just begun timeline 3.
        let family = family(
            &[(1, 0, 14, 150), (2, 80, 9, 90), (3, 160, 0, 0)],
            &[(2, 1, 8), (3, 1, 15)],
        );
        assert_eq!(open(&family), [2, 3]);
        assert_eq!(open(&with_backup(family, 1, 13, 140)), [3]);
    }

    #[test]
    fn a_promotion_that_came_to_nothing_is_settled_by_a_backup_too() {
        // The server of timeline 2 died before it archived a segment, and another standby became timeline 3.
        let family = family(
            &[(1, 0, 7, 70), (2, 80, 0, 0), (3, 100, 9, 120)],
            &[(2, 1, 8), (3, 1, 8)],
        );
        assert_eq!(open(&family), [2, 3]);
        assert_eq!(open(&with_backup(family.clone(), 3, 9, 79)), [2, 3]);
        assert_eq!(open(&with_backup(family, 3, 9, 110)), [3]);
    }

    #[test]
    fn postgresql_follows_the_last_number() {
        let known = family(&[], &[(2, 1, 8), (3, 1, 4), (5, 1, 4)]);
        assert_eq!(
            known.latest_from(TimelineId(1)).0,
            3,
            "there is no history of timeline 4"
        );
        assert_eq!(known.latest_from(TimelineId(5)).0, 5);
    }
}
