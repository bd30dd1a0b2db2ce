//! The content that `pg_backup_stop` returns for the file `backup_label`.

use std::str::FromStr;

use thiserror::Error;

use crate::{Lsn, SegmentName, TimelineId};

/// The content of a `backup_label` (`build_backup_content` in xlogbackup.c).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// The position at which replay must begin: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub start_segment: SegmentName,
    /// The position of the checkpoint's record.
    pub checkpoint: Lsn,
    /// `streamed` for every backup of pgmesh.
    pub method: String,
    /// `primary` or `standby`.
    pub from: String,
    /// The start time of the backup as the server wrote it, in its `log_timezone`.
    pub start_time: String,
    /// The label that was given to the backup.
    pub label: String,
    /// The timeline that the backup began on.
    pub start_timeline: TimelineId,
}

impl BackupLabel {
    /// Reads the file. Unknown lines are passed over, for example those of an incremental base backup.
    ///
    /// # Errors
    /// A required line is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let (start, file) = required(text, "START WAL LOCATION")?
            .split_once(' ')
            .unwrap_or_default();
        let file = file
            .strip_prefix("(file ")
            .and_then(|file| file.strip_suffix(')'))
            .unwrap_or(file);
        Ok(Self {
            start: value("START WAL LOCATION", start)?,
            start_segment: value("START WAL LOCATION", file)?,
            checkpoint: value("CHECKPOINT LOCATION", required(text, "CHECKPOINT LOCATION")?)?,
            method: required(text, "BACKUP METHOD")?.to_owned(),
            from: required(text, "BACKUP FROM")?.to_owned(),
            start_time: required(text, "START TIME")?.to_owned(),
            label: required(text, "LABEL")?.to_owned(),
            start_timeline: value("START TIMELINE", required(text, "START TIMELINE")?)?,
        })
    }

    /// Whether the backup was taken from a standby.
    #[must_use]
    pub fn is_from_standby(&self) -> bool {
        self.from == "standby"
    }
}

/// The text behind `field: ` on the first line that begins so.
fn required<'text>(text: &'text str, field: &'static str) -> Result<&'text str, BackupLabelError> {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
        .ok_or(BackupLabelError::Missing { field })
}

fn value<T: FromStr>(field: &'static str, text: &str) -> Result<T, BackupLabelError> {
    text.trim().parse().map_err(|_| BackupLabelError::Malformed {
        field,
        text: text.chars().take(80).collect(),
    })
}

/// A fault of a `backup_label`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackupLabelError {
    /// A line is missing.
    #[error("backup_label has no line {field:?}")]
    Missing {
        /// The beginning of the line.
        field: &'static str,
    },
    /// A line has an impossible value.
    #[error("backup_label says {text:?} as {field:?}")]
    Malformed {
        /// The beginning of the line.
        field: &'static str,
        /// The value.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LABEL: &str = "START WAL LOCATION: 16/B3000028 (file 0000000200000016000000B3)\n\
        CHECKPOINT LOCATION: 16/B3000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2025-02-15 02:00:01 UTC\n\
        LABEL: pgmesh backup started at 2025-02-15 02:00:01\n\
        START TIMELINE: 2\n";

    #[test]
    fn a_label_is_read() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!(label.start.to_string(), "16/B3000028");
        assert_eq!(label.start_segment.to_string(), "0000000200000016000000B3");
        assert_eq!(label.checkpoint.to_string(), "16/B3000060");
        assert_eq!(label.start_timeline, TimelineId(2));
        assert_eq!(label.start_time, "2025-02-15 02:00:01 UTC");
        assert_eq!(label.label, "pgmesh backup started at 2025-02-15 02:00:01");
        assert!(!label.is_from_standby());
    }

    #[test]
    fn every_line_is_needed() {
        for omitted in 0..7 {
            let text: String = LABEL
                .lines()
                .enumerate()
                .filter(|(number, _)| *number != omitted)
                .map(|(_, line)| format!("{line}\n"))
                .collect();
            assert!(
                matches!(BackupLabel::parse(&text), Err(BackupLabelError::Missing { .. })),
                "without line {omitted}"
            );
        }
        assert!(matches!(
            BackupLabel::parse(&LABEL.replace("16/B3000028", "?")),
            Err(BackupLabelError::Malformed { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(START WAL LOCATION: |CHECKPOINT|[ 0-9A-F/()a-z\n]){0,12}") {
            let _ = BackupLabel::parse(&text);
        }
    }
}
