//! Retention: the facts that it decides on, and the expiry of backups and WAL from one repository.
//!
//! A PG host or an administrator decides, by the rules in `pgmesh_client::expire`; a node carries out. The catalog
//! refuses the expiry of anything that is held, and of a repository's last full backup.

use crate::bounded::{ExpiredLabels, FileName, KeptStretches, List, Reason, Text};
use pgmesh_postgres::{PgVersion, SegmentName, SystemId, TimelineId};
use pgmesh_storage::{ArchiveId, BackupLabel, BackupType, DbId, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

/// Asks for the backups and archives of a stanza that one repository keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRetained {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repository.
    pub repo: RepoKey,
    /// Goes on with the backup after this label: the last one of the answer before.
    pub after: Option<BackupLabel>,
}

/// The answer to [`GetRetained`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// Why the stanza is stopped, if it is.
    pub stopped: Option<String>,
    /// All databases of the stanza, oldest first.
    pub databases: Vec<RetainedDatabase>,
    /// The backups that the repository keeps or still owes, by label.
    pub backups: Vec<RetainedBackup>,
    /// There are more after the last one.
    pub more: bool,
    /// The node's clock, Unix seconds.
    pub clock: i64,
}

/// One database of a stanza.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedDatabase {
    /// 1, 2, …; the last one is the current one.
    pub id: DbId,
    /// The name of its archive, such as `15-1`.
    pub archive_id: ArchiveId,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The cluster's major version.
    pub version: PgVersion,
    /// Whether the repository keeps WAL of it.
    pub has_wal: bool,
}

/// One backup that a repository keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedBackup {
    /// Its label.
    pub label: BackupLabel,
    /// Its type.
    pub kind: BackupType,
    /// The backup that it depends on by pgBackRest's rules; none for a full backup.
    pub prior: Option<BackupLabel>,
    /// Its database.
    pub database: DbId,
    /// The first segment that it needs.
    pub wal_start: SegmentName,
    /// The last segment that it needs.
    pub wal_stop: SegmentName,
    /// When it began, Unix seconds.
    pub time_start: i64,
    /// When it ended, Unix seconds.
    pub time_stop: i64,
    /// Bytes that it added to the repository.
    pub stored_delta: u64,
    /// Whether the repository has all of it. A backup that is not whole does not count for retention.
    pub is_whole: bool,
    /// The hold on it.
    pub hold: Option<HoldInfo>,
}

/// A hold: the backup, and the backups that it depends on, do not expire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldInfo {
    /// Since when, Unix seconds.
    pub since: i64,
    /// Until when, Unix seconds; none: until it is released.
    pub until: Option<i64>,
    /// Who asked for it, as in the audit trail.
    pub by: String,
    /// Why, in words. Empty where nothing was said.
    pub why: String,
}

/// Expires backups in one repository: it no longer keeps them, whatever other repositories do. All or none. Their WAL
/// stays until [`ExpireWal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireBackups {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repository.
    pub repo: RepoKey,
    /// The backups; those that are not kept there are passed over.
    pub labels: List<BackupLabel, ExpiredLabels>,
    /// Why, for the audit trail. For example, `repo1-retention-full=2`.
    pub why: Text<Reason>,
}

/// Backups that were expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredBackups {
    /// The labels that the repository kept until now.
    pub labels: Vec<BackupLabel>,
}

/// A stretch of WAL of one archive that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptWal {
    /// Its first segment.
    pub first: SegmentName,
    /// Its last segment; none: all that is after `first`, on all timelines.
    pub last: Option<SegmentName>,
}

impl KeptWal {
    /// Whether a segment is in it. As in pgBackRest, names are compared, so that a segment of a lower timeline is
    /// before all segments of a higher one.
    #[must_use]
    pub fn has(&self, segment: SegmentName) -> bool {
        self.first <= segment && self.last.is_none_or(|last| segment <= last)
    }
}

/// Expires WAL of one database in one repository: all files but those in the stretches that stay, a page at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireWal {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repository.
    pub repo: RepoKey,
    /// The database.
    pub database: DbId,
    /// The stretches that stay.
    pub keep: List<KeptWal, KeptStretches>,
    /// Only segments before this one.
    pub before: Option<SegmentName>,
    /// History files of the timelines below this one go as well; none: no history file goes.
    pub histories_below: Option<TimelineId>,
    /// Only reports the files.
    pub dry_run: bool,
    /// Goes on after this file: the end of the answer before.
    pub after: Option<Text<FileName>>,
}

/// WAL files that were expired, or would be, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredWal {
    /// The files.
    pub files: Vec<ExpiredFile>,
    /// Where the next page begins, if there is one.
    pub more: Option<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredFile {
    /// Its name, as PostgreSQL gave it.
    pub file: String,
    /// Its bytes in the repository.
    pub bytes: u64,
}

/// Holds a backup, or releases it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// The hold; none releases the backup.
    pub hold: Option<HoldWish>,
}

/// The hold that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldWish {
    /// Until when, Unix seconds; none: until it is released.
    pub until: Option<i64>,
    /// Why, in words. May be empty.
    pub why: Text<Reason>,
}
