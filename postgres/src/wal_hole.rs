//! Decides whether a WAL segment that an archive lacks is a hole in it, or lies behind its end. Pure.
//!
//! A recovery that asks for a segment takes "not there" for the end of the WAL, and opens the server for writing. If
//! the segment is a hole, the WAL behind it would be lost: a hole has to stop the recovery instead (invariant 7).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, SegmentName, SegmentSize, TimelineId};

/// The proof that WAL exists, or existed, behind a segment that the archive lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalHole {
    /// A later segment of the same timeline is archived.
    Later(SegmentName),
    /// An archived history says that another timeline left this one behind the segment.
    LeftLater {
        /// The other timeline.
        timeline: TimelineId,
        /// The position at which it left.
        switch: Lsn,
    },
}

impl fmt::Display for WalHole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(segment) => write!(f, "{segment}, a later segment of its timeline, is archived"),
            Self::LeftLater { timeline, switch } => {
                write!(f, "timeline {timeline} left its timeline later, at {switch}")
            }
        }
    }
}

/// One line of a history file: `timeline` descends from `parent`, and left it at `switch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descent {
    /// The timeline whose history has the line.
    pub timeline: TimelineId,
    /// The timeline that was left.
    pub parent: TimelineId,
    /// The first position that is not shared any more.
    pub switch: Lsn,
}

impl WalHole {
    /// Judges the absence of `missing`. `None` if no WAL behind it is known, so that it may be the end of the archive.
    ///
    /// `later` is any archived segment of its timeline with a greater name. `descents` are the lines of all known
    /// histories.
    ///
    /// A timeline has no WAL before its own beginning: no server ever wrote it, so its absence is no hole.
    ///
    /// ```
    /// use pgmesh_postgres::{SegmentName, SegmentSize, WalHole};
    /// let [missing, later] = ["000000010000000000000004", "000000010000000000000007"].map(|name| name.parse::<SegmentName>().unwrap());
    /// assert_eq!(WalHole::judge(missing, SegmentSize::DEFAULT, Some(later), []), Some(WalHole::Later(later)));
    /// assert_eq!(WalHole::judge(later, SegmentSize::DEFAULT, None, []), None);
    /// ```
    #[must_use]
    pub fn judge(
        missing: SegmentName,
        size: SegmentSize,
        later: Option<SegmentName>,
        descents: impl IntoIterator<Item = Descent>,
    ) -> Option<Self> {
        let end = missing.end(size);
        let mut hole = later
            .filter(|later| later.timeline == missing.timeline && *later > missing)
            .map(Self::Later);
        // The last line of its own history has the beginning of the timeline; other lines may have later positions.
        let mut own: Option<(TimelineId, Lsn)> = None;
        for Descent {
            timeline,
            parent,
            switch,
        } in descents
        {
            if timeline == missing.timeline {
                own = own.max(Some((parent, switch)));
            }
            if parent == missing.timeline && end <= switch && hole.is_none() {
                hole = Some(Self::LeftLater { timeline, switch });
            }
        }
        hole.filter(|_| own.is_none_or(|(_, begin)| begin < end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segment(name: &str) -> SegmentName {
        name.parse().unwrap()
    }

    fn descent(timeline: u32, parent: u32, switch: &str) -> Descent {
        Descent {
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            switch: switch.parse().unwrap(),
        }
    }

    #[test]
    fn invariant_7_a_timeline_that_was_left_later_proves_a_hole() {
        // Timeline 2 left timeline 1 within segment 8: 7 has to be there, 8 is archived by timeline 2 under its own
        // name.
        let left = descent(2, 1, "0/8000100");
        let judge = |name: &str| WalHole::judge(segment(name), SIZE, None, [left]);
        let hole = Some(WalHole::LeftLater {
            timeline: TimelineId(2),
            switch: left.switch,
        });
        assert_eq!(judge("000000010000000000000007"), hole);
        assert_eq!(judge("000000010000000000000003"), hole);
        assert_eq!(judge("000000010000000000000008"), None);
        assert_eq!(judge("000000010000000000000009"), None);
        assert_eq!(judge("000000020000000000000009"), None);
    }

    #[test]
    fn a_switch_at_the_very_beginning_of_a_segment_needs_the_whole_one_before() {
        let left = descent(2, 1, "0/8000000");
        assert!(WalHole::judge(segment("000000010000000000000007"), SIZE, None, [left]).is_some());
        assert_eq!(
            WalHole::judge(segment("000000010000000000000008"), SIZE, None, [left]),
            None
        );
    }

    #[test]
    fn what_lies_before_a_timeline_began_is_no_hole_in_it() {
        let left = descent(2, 1, "0/8000100");
        let later = Some(segment("000000020000000000000009"));
        assert_eq!(
            WalHole::judge(segment("000000020000000000000005"), SIZE, later, [left]),
            None
        );
        assert!(WalHole::judge(segment("000000020000000000000008"), SIZE, later, [left]).is_some());
        // Timeline 3 descends from 1 by way of 2: both of its lines are about WAL before its beginning.
        let lines = [descent(3, 1, "0/8000100"), descent(3, 2, "0/A000000")];
        assert_eq!(
            WalHole::judge(
                segment("000000030000000000000009"),
                SIZE,
                Some(segment("00000003000000000000000B")),
                lines
            ),
            None
        );
    }

    #[test]
    fn a_timeline_begins_where_the_last_line_of_its_history_says() {
        // Timeline 2 left timeline 1 in segment 8; a recovery that was to follow it stopped in segment 5, and began
        // timeline 3 there.
        let lines = [
            descent(2, 1, "0/8000100"),
            descent(3, 1, "0/8000100"),
            descent(3, 2, "0/5000100"),
        ];
        let later = Some(segment("00000003000000000000000A"));
        assert!(WalHole::judge(segment("000000030000000000000006"), SIZE, later, lines).is_some());
        assert_eq!(
            WalHole::judge(segment("000000030000000000000004"), SIZE, later, lines),
            None
        );
    }

    #[test]
    fn only_a_later_segment_of_the_same_timeline_counts() {
        let missing = segment("000000010000000000000005");
        for other in [
            "000000010000000000000005",
            "000000010000000000000004",
            "000000020000000000000009",
        ] {
            assert_eq!(WalHole::judge(missing, SIZE, Some(segment(other)), []), None);
        }
    }
}
