//! Committed backups.

use std::collections::BTreeMap;

use pgmesh_postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use pgmesh_storage::{BackupLabel, DbId, RepoKey};
use serde::{Deserialize, Serialize};

use super::{ExpiredIn, Hold, LogIndex, StoredObject};

/// One committed backup, as `info` shows it, and as a restore needs it to find its manifest. Its key is (stanza,
/// label). Databases, tablespaces and files are in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The database of the stanza that was backed up.
    pub db: DbId,
    /// When it began, in seconds since the Unix epoch.
    pub started_at: i64,
    /// When it ended, in seconds since the Unix epoch.
    pub stopped_at: i64,
    /// The log position at which it began, which `apply` knows by its session; 0 for a backup that was taken up from a
    /// repository when the catalog was rebuilt.
    pub began: LogIndex,
    /// `pg_backup_start`'s location.
    pub lsn_start: Lsn,
    /// `pg_backup_stop`'s location.
    pub lsn_stop: Lsn,
    /// The first segment needed to restore it.
    pub wal_start: SegmentName,
    /// The last segment needed to restore it.
    pub wal_stop: SegmentName,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Bytes of the whole cluster.
    pub size: u64,
    /// Bytes that were read because they may have changed.
    pub delta: u64,
    /// Stored bytes that each repository holds for the whole backup.
    pub stored: BTreeMap<RepoKey, u64>,
    /// Stored bytes that each repository took in for this backup alone.
    pub stored_delta: BTreeMap<RepoKey, u64>,
    /// Number of files.
    pub files: u64,
    /// Whether pages with a wrong checksum were found.
    pub page_errors: bool,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The backup that this one was compared with. All whose bytes it may share are found by way of it: a record that
    /// named them would grow with each backup.
    pub prior: Option<BackupLabel>,
    /// Its manifest root.
    pub manifest: StoredObject,
    /// The version of pgmesh that took it.
    pub program: String,
    /// Repositories that do not keep it any more.
    pub expired: ExpiredIn,
    /// The hold on it.
    pub hold: Option<Hold>,
}

impl BackupRecord {
    /// The repositories that keep it and have its manifest.
    pub fn holders(&self) -> impl Iterator<Item = RepoKey> {
        let replicas = self.manifest.replicas.iter();
        replicas
            .map(|replica| replica.repo)
            .filter(|repo| self.is_kept_in(*repo))
    }

    /// Whether a repository keeps it, or still owes it.
    #[must_use]
    pub fn is_kept_in(&self, repo: RepoKey) -> bool {
        !self.expired.contains(&repo)
    }

    /// Whether the backup needs a WAL file, or a later file of the same timeline. A history file stands for the whole
    /// timeline.
    #[must_use]
    pub fn needs(&self, from: WalFileName) -> bool {
        self.wal_stop.timeline == from.timeline() && from.segment().is_none_or(|segment| segment <= self.wal_stop)
    }
}
