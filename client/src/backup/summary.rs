//! The result of a backup.

use pgmesh_postgres::{Lsn, SegmentName};
use pgmesh_storage::{BackupLabel, BackupType};
use serde::Serialize;
use std::fmt;

use crate::text::size;

/// How the pages to read were chosen, in files that the prior backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChosenBy {
    /// They were not: everything was read.
    Nothing,
    /// By the WAL since, as PostgreSQL summarizes it.
    Summaries,
    /// By the WAL since, from maps that the mesh has made of it.
    Maps,
    /// By sizes and times of files.
    Times,
}

/// A committed backup, for the user.
#[derive(Debug, Clone, Serialize)]
pub struct BackupSummary {
    /// Its label.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The backup that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<BackupLabel>,
    /// How the pages to read were chosen.
    pub chosen_by: ChosenBy,
    /// Bytes of files that were read.
    pub read: u64,
    /// Pages, of 8 KiB, that were stored because they are new or changed.
    pub pages_changed: u64,
    /// Pages that were stored though they did not change, so that restores need not read too many chunks.
    pub pages_rewritten: u64,
    /// Pages that changed without being named by a change map, where that was put to the test.
    pub pages_missed: u64,
    /// When it began, by the server's clock, Unix seconds.
    pub start_time: i64,
    /// When it was complete, by the server's clock, Unix seconds.
    pub stop_time: i64,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where the cluster is consistent.
    pub stop_lsn: Lsn,
    /// The first segment that it needs.
    pub wal_start: SegmentName,
    /// The last segment that it needs to be consistent.
    pub wal_stop: SegmentName,
    /// The number of files.
    pub files: u64,
    /// The sizes of all files, in bytes.
    pub size: u64,
    /// Bytes of content that the mesh did not have.
    pub new_size: u64,
    /// Bytes that the new content takes in one repository.
    pub new_stored: u64,
    /// Chunks that the mesh had already.
    pub chunks_known: u64,
    /// Files with pages whose checksums do not fit.
    pub files_with_bad_pages: u64,
    /// Repositories that hold all of it.
    pub durable: Vec<u16>,
    /// Repositories that will be brought up to date in the background.
    pub owed: Vec<u16>,
}

/// The words behind "read", for a person.
impl fmt::Display for ChosenBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nothing => "",
            Self::Summaries => ", as PostgreSQL's summaries say",
            Self::Maps => ", as the archived WAL says",
            Self::Times => ", by sizes and times",
        })
    }
}

/// A few lines for a person.
impl fmt::Display for BackupSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} backup: {}, {} in {} files",
            self.backup_type,
            self.label,
            size(self.size),
            self.files
        )?;
        if let Some(prior) = &self.prior {
            writeln!(
                formatter,
                "    compared with {prior}: {} read{}, {} pages changed",
                size(self.read),
                self.chosen_by,
                self.pages_changed
            )?;
        }
        if self.pages_missed > 0 {
            writeln!(
                formatter,
                "    {} pages changed that the change map does not name: see the warnings",
                self.pages_missed
            )?;
        }
        writeln!(
            formatter,
            "    new content: {}, {} in each repository",
            size(self.new_size),
            size(self.new_stored)
        )?;
        writeln!(formatter, "    wal start/stop: {} / {}", self.wal_start, self.wal_stop)?;
        write!(formatter, "    repositories: {}", repositories(&self.durable))?;
        if !self.owed.is_empty() {
            write!(formatter, "; still to be copied to {}", repositories(&self.owed))?;
        }
        if self.files_with_bad_pages > 0 {
            write!(
                formatter,
                "\n    {} files have pages with wrong checksums: see the warnings",
                self.files_with_bad_pages
            )?;
        }
        Ok(())
    }
}

/// `repo1, repo2`.
fn repositories(keys: &[u16]) -> String {
    keys.iter()
        .map(|key| format!("repo{key}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_there_is_and_what_is_owed() {
        let segment = "00000001000000000000000A".parse().unwrap();
        let mut summary = BackupSummary {
            label: "20261123-055410F".parse().unwrap(),
            backup_type: BackupType::Full,
            prior: None,
            chosen_by: ChosenBy::Nothing,
            read: 8192,
            pages_changed: 1,
            pages_rewritten: 0,
            pages_missed: 0,
            start_time: 0,
            stop_time: 1,
            start_lsn: Lsn(1),
            stop_lsn: Lsn(2),
            wal_start: segment,
            wal_stop: segment,
            files: 3,
            size: 8192,
            new_size: 1024,
            new_stored: 512,
            chunks_known: 0,
            files_with_bad_pages: 0,
            durable: vec![1, 2],
            owed: vec![],
        };
        assert_eq!(
            summary.to_string(),
            "full backup: 20261123-055410F, 8KB in 3 files\n    new content: 1KB, 512B in each repository\n    \
             wal start/stop: 00000001000000000000000A / 00000001000000000000000A\n    repositories: repo1, repo2"
        );
        summary.owed = vec![3];
        summary.files_with_bad_pages = 1;
        assert!(
            summary
                .to_string()
                .contains("still to be copied to repo3\n    1 files have pages")
        );
    }
}
