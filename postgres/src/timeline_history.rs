//! Timeline history files: the ancestors of a timeline, and the positions at which it left them.

use std::str::FromStr;

use thiserror::Error;

use crate::{Lsn, TimelineId};

/// The content of a `.history` file, as `readTimeLineHistory` in timeline.c reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline whose history this is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first. Timeline 1 has none, and no history file.
    pub entries: Vec<TimelineHistoryEntry>,
}

/// One ancestor of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistoryEntry {
    /// The ancestor.
    pub parent: TimelineId,
    /// The first position that the next timeline does not share with it.
    pub switch: Lsn,
    /// The reason, in PostgreSQL's words.
    pub reason: String,
}

impl TimelineHistory {
    /// Reads the file of `timeline`. Blank lines and comments are passed over. Of a reason that is not UTF-8, the valid
    /// characters are kept.
    ///
    /// # Errors
    /// A line is malformed, or the ancestors do not ascend towards `timeline`.
    ///
    /// ```
    /// use pgmesh_postgres::{TimelineHistory, TimelineId};
    ///
    /// let history = TimelineHistory::parse(TimelineId(2), b"1\t0/3000148\tno recovery target specified\n")?;
    /// let left = history.branch_point_of(TimelineId(1)).unwrap();
    /// assert_eq!(left.to_string(), "0/3000148");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, TimelineHistoryError> {
        let text = String::from_utf8_lossy(bytes);
        let mut entries = Vec::<TimelineHistoryEntry>::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_line(line).ok_or_else(|| TimelineHistoryError::Line {
                timeline,
                number,
                line: line.chars().take(80).collect(),
            })?;
            if entries.last().is_some_and(|last| last.parent >= entry.parent) || entry.parent >= timeline {
                return Err(TimelineHistoryError::Order {
                    timeline,
                    number,
                    parent: entry.parent,
                });
            }
            entries.push(entry);
        }
        Ok(Self { timeline, entries })
    }

    /// The file's content as PostgreSQL writes it (`writeTimeLineHistory`): entries with a blank line in between.
    #[must_use]
    pub fn render(&self) -> String {
        let lines: Vec<String> = self
            .entries
            .iter()
            .map(|entry| format!("{}\t{}\t{}\n", entry.parent.0, entry.switch, entry.reason))
            .collect();
        lines.join("\n")
    }

    /// The position at which this timeline's line of descent left `parent`; `None` if that is no ancestor.
    #[must_use]
    pub fn branch_point_of(&self, parent: TimelineId) -> Option<Lsn> {
        self.entries
            .iter()
            .find(|entry| entry.parent == parent)
            .map(|entry| entry.switch)
    }

    /// The timeline in the line of descent that wrote the byte at `lsn`, found as `tliOfPointInHistory` finds it: an
    /// older line may have a later position than the lines behind it.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let mut timeline = self.timeline;
        for entry in self.entries.iter().rev() {
            if entry.switch <= lsn {
                break;
            }
            timeline = entry.parent;
        }
        timeline
    }

    /// Whether this history goes on where `older` ends: the same ancestors, left at the same positions, and then
    /// `older`'s timeline among the next ones.
    #[must_use]
    pub fn descends_from(&self, older: &Self) -> bool {
        let shared = self.entries.len() > older.entries.len()
            && self
                .entries
                .iter()
                .zip(&older.entries)
                .all(|(ours, theirs)| ours.parent == theirs.parent && ours.switch == theirs.switch);
        shared
            && self
                .entries
                .get(older.entries.len())
                .is_some_and(|entry| entry.parent == older.timeline)
    }
}

/// `1<white space>0/3000000<white space>reason`.
fn parse_line(line: &str) -> Option<TimelineHistoryEntry> {
    let (parent, rest) = line.split_once(|character: char| character.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (switch, reason) = rest
        .split_once(|character: char| character.is_ascii_whitespace())
        .unwrap_or((rest, ""));
    let parent = TimelineId::from_str(parent).ok().filter(|parent| parent.0 != 0)?;
    Some(TimelineHistoryEntry {
        parent,
        switch: switch.parse().ok()?,
        reason: reason.trim().to_owned(),
    })
}

/// A fault of a timeline history file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimelineHistoryError {
    /// A line that is no entry.
    #[error(
        "history of timeline {timeline}, line {number}: a timeline and a WAL position are expected, there is {line:?}"
    )]
    Line {
        /// The timeline whose history it is.
        timeline: TimelineId,
        /// The line's number, from 1.
        number: u32,
        /// The beginning of the line.
        line: String,
    },
    /// The ancestor cannot come at this place.
    #[error(
        "history of timeline {timeline}, line {number}: timeline {parent} cannot be an ancestor at this place, timelines ascend"
    )]
    Order {
        /// The timeline whose history it is.
        timeline: TimelineId,
        /// The line's number, from 1.
        number: u32,
        /// The ancestor.
        parent: TimelineId,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THREE: &str =
        "1\t0/3000000\tno recovery target specified\n\n2\t0/5000148\tat restore point \"before drop\"\n";

    #[test]
    fn a_history_file_survives() {
        let history = TimelineHistory::parse(TimelineId(3), THREE.as_bytes()).unwrap();
        assert_eq!(history.render(), THREE);
        assert_eq!(history.branch_point_of(TimelineId(2)), Some(Lsn(0x500_0148)));
        assert_eq!(history.branch_point_of(TimelineId(3)), None);
        assert_eq!(history.timeline_at(Lsn(0x2FF_FFFF)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x300_0000)), TimelineId(2));
        assert_eq!(history.timeline_at(Lsn(0x500_0148)), TimelineId(3));
        let stopped_early = TimelineHistory::parse(TimelineId(3), b"1\t0/8000000\tx\n2\t0/5000000\tx\n").unwrap();
        assert_eq!(stopped_early.timeline_at(Lsn(0x400_0000)), TimelineId(1));
        assert_eq!(stopped_early.timeline_at(Lsn(0x600_0000)), TimelineId(3));
    }

    #[test]
    fn descent_is_by_branch_points() {
        let parse = |timeline, text: &str| TimelineHistory::parse(TimelineId(timeline), text.as_bytes()).unwrap();
        let (one, two, three) = (parse(1, ""), parse(2, "1\t0/3000000\tx\n"), parse(3, THREE));
        assert!(three.descends_from(&two) && three.descends_from(&one) && two.descends_from(&one));
        assert!(!two.descends_from(&three) && !two.descends_from(&two));
        assert!(!three.descends_from(&parse(2, "1\t0/2000000\tx\n")));
    }

    #[test]
    fn malformed_files_are_refused() {
        for text in [
            "1",
            "x\t0/1\tr",
            "1\t01\tr",
            "0\t0/1\tr",
            "3\t0/1\tr",
            "2\t0/1\tr\n1\t0/2\tr",
            "1\t0/1\n1\t0/2",
            "\0\0\0",
        ] {
            assert!(
                TimelineHistory::parse(TimelineId(3), text.as_bytes()).is_err(),
                "{text:?} was taken"
            );
        }
        assert!(TimelineHistory::parse(TimelineId(2), b"# note\n  1\t0/1\n").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_parsed(steps in proptest::collection::vec((1u32..9, any::<u64>(), "[a-z\"]([a-z ]{0,20}[a-z])?"), 0..6)) {
            let mut parent = 0;
            let entries: Vec<_> = steps.into_iter().map(|(step, switch, reason)| {
                parent += step;
                TimelineHistoryEntry { parent: TimelineId(parent), switch: Lsn(switch), reason }
            }).collect();
            let history = TimelineHistory { timeline: TimelineId(parent + 1), entries };
            prop_assert_eq!(TimelineHistory::parse(history.timeline, history.render().as_bytes()), Ok(history));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TimelineHistory::parse(TimelineId(7), &bytes);
        }
    }
}
