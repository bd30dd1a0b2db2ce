//! The outcome of an expiry, for programs and for people.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{BackupLabel, RepoKey};
use serde::Serialize;
use std::fmt;

use crate::text::size;

/// The outcome, a part for each repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExpireReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// The repositories, by number.
    pub repositories: Vec<RepositoryReport>,
}

/// The outcome in one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryReport {
    /// Its number.
    pub repo: u16,
    /// All backups that it kept at the beginning, by label.
    pub backups: Vec<BackupReport>,
    /// The archives of which WAL could go.
    pub archives: Vec<ArchiveReport>,
    /// The failure that ended the work on this repository.
    pub errors: Vec<ErrorReport>,
}

impl RepositoryReport {
    /// Nothing was done there yet.
    pub(super) fn new(repo: RepoKey) -> Self {
        Self {
            repo: repo.get(),
            backups: Vec::new(),
            archives: Vec::new(),
            errors: Vec::new(),
        }
    }
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// Its label.
    pub label: BackupLabel,
    /// Whether it has expired, or would with `--dry-run`.
    pub expired: bool,
    /// Why it expires or stays.
    pub reason: String,
    /// Bytes that it added to the repository. Chunks that other backups use stay.
    pub bytes: u64,
}

/// The WAL of one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveReport {
    /// Such as `15-1`.
    pub id: String,
    /// The runs of segments that have expired, or would.
    pub ranges: Vec<StretchReport>,
    /// Files in all, history files included.
    pub files: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// Segments that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StretchReport {
    /// The first one; the 16 digits of its directory where all of that goes.
    pub start: String,
    /// The last one, or its directory.
    pub stop: String,
    /// Files.
    pub files: u64,
    /// Bytes in the repository.
    pub bytes: u64,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// The exit code that it would have by itself.
    pub code: u8,
    /// The event and its cause.
    pub message: String,
}

impl ExpireReport {
    /// The failure of the command, if a repository had one (104).
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        let count: usize = self.repositories.iter().map(|repo| repo.errors.len()).sum();
        let what = format!("expire command encountered {count} error(s), check the log file for details");
        (count > 0).then(|| Failure::new(ExitCode::Command, what))
    }
}

impl fmt::Display for ExpireReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would expire" } else { "expired" };
        for repo in &self.repositories {
            let gone: Vec<&BackupReport> = repo.backups.iter().filter(|backup| backup.expired).collect();
            let kept = repo.backups.len().saturating_sub(gone.len());
            writeln!(f, "repo{}: {verb} {} backups, {kept} stay", repo.repo, gone.len())?;
            for backup in gone {
                writeln!(f, "    {}: {} ({})", backup.label, size(backup.bytes), backup.reason)?;
            }
            if self.dry_run {
                for backup in repo.backups.iter().filter(|backup| !backup.expired) {
                    writeln!(f, "    {} stays ({})", backup.label, backup.reason)?;
                }
            }
            for archive in repo.archives.iter().filter(|archive| archive.files > 0) {
                let (files, bytes) = (archive.files, size(archive.bytes));
                writeln!(f, "    {}: {files} WAL files, {bytes}", archive.id)?;
                for range in &archive.ranges {
                    let (files, bytes) = (range.files, size(range.bytes));
                    writeln!(f, "        {} to {}: {files} files, {bytes}", range.start, range.stop)?;
                }
            }
            for error in &repo.errors {
                writeln!(f, "    error [{:03}]: {}", error.code, error.message)?;
            }
        }
        Ok(())
    }
}
