//! The descent of a cluster's timelines, from all known histories. Pure.

use std::collections::BTreeMap;

use crate::{Descent, Lsn, TimelineId};

/// The lines of all known histories of a cluster.
///
/// ```
/// use pgmesh_postgres::{Descent, TimelineTree, Lsn, TimelineId};
/// let left = Descent { timeline: TimelineId(2), parent: TimelineId(1), switch: Lsn(0x800_0100) };
/// let tree = TimelineTree::from_iter([left]);
/// assert!(tree.contains(TimelineId(2), TimelineId(1), Lsn(0x800_0100)));
/// assert!(!tree.contains(TimelineId(2), TimelineId(1), Lsn(0x900_0000)), "timeline 2 left timeline 1 before");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineTree {
    /// For each timeline with a history: its ancestors, and the position at which its line of descent left each of
    /// them.
    lines: BTreeMap<TimelineId, BTreeMap<TimelineId, Lsn>>,
}

impl FromIterator<Descent> for TimelineTree {
    fn from_iter<T: IntoIterator<Item = Descent>>(descents: T) -> Self {
        let mut lines: BTreeMap<TimelineId, BTreeMap<TimelineId, Lsn>> = BTreeMap::new();
        for Descent {
            timeline,
            parent,
            switch,
        } in descents
        {
            lines.entry(timeline).or_default().insert(parent, switch);
        }
        Self { lines }
    }
}

impl TimelineTree {
    /// The lines of the histories.
    pub fn descents(&self) -> impl Iterator<Item = Descent> {
        self.lines.iter().flat_map(|(timeline, lines)| {
            lines.iter().map(|(parent, switch)| Descent {
                timeline: *timeline,
                parent: *parent,
                switch: *switch,
            })
        })
    }

    /// The timelines whose histories are known.
    pub fn timelines(&self) -> impl Iterator<Item = TimelineId> {
        self.lines.keys().copied()
    }

    /// The position at which the line of descent of `timeline` left `ancestor`; `None` if that is no known ancestor.
    ///
    /// A history may have a line with a later position than the lines behind it: a server that follows timeline 2, but
    /// stops before the position at which timeline 2 left timeline 1, writes both down as ancestors of its timeline 3.
    /// It left both of them at the position where it stopped.
    #[must_use]
    pub fn left(&self, timeline: TimelineId, ancestor: TimelineId) -> Option<Lsn> {
        let lines = self.lines.get(&timeline)?;
        lines.get(&ancestor)?;
        lines.range(ancestor..).map(|(_, switch)| *switch).min()
    }

    /// The start of a timeline: its history's last line. `None` if its history is not known. Timeline 1 has none.
    #[must_use]
    pub fn beginning(&self, timeline: TimelineId) -> Option<Lsn> {
        let (_, switch) = self.lines.get(&timeline)?.last_key_value()?;
        Some(*switch)
    }

    /// The known timelines that descend from `ancestor`, each with the position at which its line of descent left it.
    pub fn descendants(&self, ancestor: TimelineId) -> impl Iterator<Item = (TimelineId, Lsn)> {
        let timelines = self.lines.keys();
        timelines.filter_map(move |timeline| Some((*timeline, self.left(*timeline, ancestor)?)))
    }

    /// Whether the WAL that `timeline` wrote before `end` is part of the history of `target`: then a server with that
    /// WAL can be recovered along `target`.
    #[must_use]
    pub fn contains(&self, target: TimelineId, timeline: TimelineId, end: Lsn) -> bool {
        target == timeline || self.left(target, timeline).is_some_and(|switch| end <= switch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descent(timeline: u32, parent: u32, switch: u64) -> Descent {
        Descent {
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            switch: Lsn(switch),
        }
    }

    #[test]
    fn descent_is_by_positions() {
        // 1 ── 2 at 100 ── 3 at 200; and 4, which left 1 at 50.
        let tree = TimelineTree::from_iter([
            descent(2, 1, 100),
            descent(3, 1, 100),
            descent(3, 2, 200),
            descent(4, 1, 50),
        ]);
        let contains = |target, timeline, end| tree.contains(TimelineId(target), TimelineId(timeline), Lsn(end));
        assert!(contains(3, 1, 100) && !contains(3, 1, 101));
        assert!(contains(3, 2, 200) && !contains(3, 2, 201));
        assert!(contains(4, 1, 50) && !contains(4, 1, 51));
        assert!(!contains(4, 2, 1) && !contains(3, 4, 1) && !contains(1, 2, 1));
        assert!(contains(3, 3, 9_999), "on the target itself");
        assert_eq!(tree.beginning(TimelineId(3)), Some(Lsn(200)));
        assert_eq!(tree.beginning(TimelineId(1)), None);
        let left: Vec<_> = tree
            .descendants(TimelineId(1))
            .map(|(timeline, _)| timeline.0)
            .collect();
        assert_eq!(left, [2, 3, 4]);
    }

    #[test]
    fn a_recovery_that_stopped_before_the_timeline_that_it_was_to_follow() {
        // Timeline 2 left timeline 1 at 100; a server that was to follow it stopped at 60, and began timeline 3.
        let tree = TimelineTree::from_iter([descent(2, 1, 100), descent(3, 1, 100), descent(3, 2, 60)]);
        assert_eq!(tree.beginning(TimelineId(3)), Some(Lsn(60)));
        assert_eq!(tree.left(TimelineId(3), TimelineId(1)), Some(Lsn(60)));
        assert!(
            !tree.contains(TimelineId(3), TimelineId(1), Lsn(80)),
            "it is only timeline 2's past"
        );
        assert!(tree.contains(TimelineId(2), TimelineId(1), Lsn(80)));
    }
}
