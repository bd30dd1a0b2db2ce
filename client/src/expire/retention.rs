//! The options of one repository: how much it keeps.

use super::lines::Line;
use pgmesh_storage::{BackupType, RepoKey};
use std::num::NonZeroU32;

/// The unit of `retention-full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FullType {
    /// Full backups.
    #[default]
    Count,
    /// Days.
    Time,
}

/// The options of one repository, as they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `retention-full`: full backups or days.
    pub full: Option<u32>,
    /// `retention-full-type`.
    pub full_type: FullType,
    /// `retention-diff`: full and differential backups.
    pub diff: Option<u32>,
    /// `retention-archive`: backups whose WAL is kept without a gap.
    pub archive: Option<u32>,
    /// `retention-archive-type`: the backups that `archive` counts.
    pub archive_type: BackupType,
    /// `retention-daily`: days of which the newest full backup stays.
    pub daily: Option<u32>,
    /// `retention-weekly`, weeks that begin on Monday.
    pub weekly: Option<u32>,
    /// `retention-monthly`.
    pub monthly: Option<u32>,
    /// `retention-yearly`.
    pub yearly: Option<u32>,
    /// `retention-min`: full backups that stay whatever the other options and the command line say.
    pub min: NonZeroU32,
    /// `retention-history`, which has no effect: days.
    pub history: Option<u32>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            full: None,
            full_type: FullType::default(),
            diff: None,
            archive: None,
            archive_type: BackupType::Full,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            min: NonZeroU32::MIN,
            history: None,
        }
    }
}

impl Retention {
    /// Whether a day, week, month or year is kept.
    #[must_use]
    pub fn has_calendar(&self) -> bool {
        [self.daily, self.weekly, self.monthly, self.yearly]
            .iter()
            .any(Option::is_some)
    }

    /// Whether an option says that something expires.
    #[must_use]
    pub fn expires_anything(&self) -> bool {
        self.full.is_some() || self.diff.is_some() || self.archive.is_some() || self.has_calendar()
    }

    /// The number of backups whose WAL is kept without a gap, as far as the options alone say it: `retention-archive`,
    /// else the number of the backups that `retention-archive-type` names.
    #[must_use]
    pub fn archive_by_options(&self) -> Option<u32> {
        self.archive.or(match (self.archive_type, self.full_type) {
            (BackupType::Full, FullType::Count) => self.full,
            (BackupType::Diff, _) => self.diff,
            (BackupType::Full, FullType::Time) | (BackupType::Incr, _) => None,
        })
    }

    /// The warnings about the options of a repository, in pgBackRest's words.
    #[must_use]
    pub fn warnings(&self, repo: RepoKey) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.full.is_none() && self.full_type == FullType::Count && !self.has_calendar() {
            lines.push(Line::warn(format!(
                "option 'repo{repo}-retention-full' is not set for 'repo{repo}-retention-full-type=count', the \
                 repository may run out of space\n\
                 HINT: to retain full backups indefinitely (without warning), set option 'repo{repo}-retention-full' \
                 to the maximum."
            )));
        }
        let off = format!(
            "WAL segments will not be expired: option 'repo{repo}-retention-archive-type={}' but",
            self.archive_type
        );
        match (self.archive_type, self.archive, self.diff) {
            (BackupType::Diff, None, None) => lines.push(Line::warn(format!(
                "{off} neither option 'repo{repo}-retention-archive' nor option 'repo{repo}-retention-diff' is set"
            ))),
            (BackupType::Incr, None, _) => lines.push(Line::warn(format!(
                "{off} option 'repo{repo}-retention-archive' is not set"
            ))),
            (BackupType::Diff, Some(_), None) => lines.push(Line::warn(format!(
                "option 'repo{repo}-retention-diff' is not set for 'repo{repo}-retention-archive-type=diff'\n\
                 HINT: to retain differential backups indefinitely (without warning), set option \
                 'repo{repo}-retention-diff' to the maximum."
            ))),
            _ => {}
        }
        if self.history.is_some() {
            lines.push(Line::info(format!(
                "option 'repo{repo}-retention-history' has no effect: pgmesh keeps no copies of manifests beyond their \
                 backups"
            )));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(retention: &Retention) -> Vec<String> {
        let lines = retention.warnings(RepoKey::new(1).unwrap());
        lines.into_iter().map(|line| line.text).collect()
    }

    const FULL: &str = "option 'repo1-retention-full' is not set for 'repo1-retention-full-type=count', the repository may \
                        run out of space\nHINT: to retain full backups indefinitely (without warning), set option \
                        'repo1-retention-full' to the maximum.";

    #[test]
    fn the_warnings_are_pgbackrests() {
        let none = Retention::default();
        assert_eq!(
            (warnings(&none), none.archive_by_options()),
            (vec![FULL.to_owned()], None),
            "L2"
        );
        let full = Retention {
            full: Some(1),
            ..Retention::default()
        };
        assert_eq!(
            (warnings(&full), full.archive_by_options()),
            (Vec::new(), Some(1)),
            "L3"
        );
        let archive = Retention {
            archive: Some(1),
            ..Retention::default()
        };
        assert_eq!(warnings(&archive), [FULL], "L4");
        let incr = Retention {
            archive_type: BackupType::Incr,
            ..Retention::default()
        };
        let off = "WAL segments will not be expired: option 'repo1-retention-archive-type=";
        assert_eq!(
            warnings(&incr),
            [
                FULL,
                &format!("{off}incr' but option 'repo1-retention-archive' is not set")
            ],
            "L5"
        );
        let diff = Retention {
            archive_type: BackupType::Diff,
            ..Retention::default()
        };
        let neither = "neither option 'repo1-retention-archive' nor option 'repo1-retention-diff' is set";
        assert_eq!(warnings(&diff), [FULL, &format!("{off}diff' but {neither}")], "L6");
        let counted = Retention {
            diff: Some(2),
            ..diff.clone()
        };
        assert_eq!(
            (warnings(&counted).len(), counted.archive_by_options()),
            (1, Some(2)),
            "L7"
        );
        let both = Retention {
            archive: Some(3),
            full: Some(1),
            ..diff
        };
        let hint = "option 'repo1-retention-diff' is not set for 'repo1-retention-archive-type=diff'\nHINT: to retain \
                    differential backups indefinitely (without warning), set option 'repo1-retention-diff' to the maximum.";
        assert_eq!(warnings(&both), [hint], "L8");
        let all = Retention { diff: Some(2), ..both };
        assert_eq!(warnings(&all), Vec::<String>::new(), "L9");
        let time = Retention {
            full_type: FullType::Time,
            ..full
        };
        assert_eq!((warnings(&time), time.archive_by_options()), (Vec::new(), None), "L9");
    }

    #[test]
    fn days_that_are_kept_are_a_limit_too() {
        let daily = Retention {
            daily: Some(7),
            ..Retention::default()
        };
        assert_eq!(warnings(&daily), Vec::<String>::new());
        assert!(daily.expires_anything() && !Retention::default().expires_anything());
    }
}
