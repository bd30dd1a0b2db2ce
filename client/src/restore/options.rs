//! The settings of a restore.

use super::target::Target;
use pgmesh_postgres::{RecoverySettings, RecoveryTarget};
use pgmesh_protocol::choice::{Follow, Restoring};
use pgmesh_storage::{RepoKey, StanzaName};
use std::path::PathBuf;

/// Whether a restore may change the files in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// No: a directory that is not empty is refused.
    Refuse,
    /// `--force`: they are removed.
    Remove,
    /// `--delta`: files and pages that equal the backup's are kept.
    Compare,
}

/// Whether the restored server archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMode {
    /// As its configuration says.
    Preserve,
    /// No.
    Off,
}

/// A restore as it was asked for.
#[derive(Debug, Clone)]
pub struct RestoreSettings {
    /// The stanza.
    pub stanza: StanzaName,
    /// `pg1-path`.
    pub pgdata: PathBuf,
    /// The treatment of the files that are there.
    pub existing: Existing,
    /// `--force`: the files of tablespaces that are not in the backup are removed.
    pub force: bool,
    /// `--delta` and `--force`: files with the size and time of the backup are kept, unread.
    pub trusts_times: bool,
    /// `keep-owners`: files get the owners that they had, root's too.
    pub keeps_owners: bool,
    /// How far to recover, and so which backup.
    pub target: Target,
    /// `target-timeline`.
    pub target_timeline: Option<String>,
    /// `archive-mode`, where it is given.
    pub archive_mode: Option<ArchiveMode>,
    /// The recovery settings for PostgreSQL, with its `restore_command`; the choice of the backup adds the rest.
    pub recovery: RecoverySettings,
    /// Where tablespaces and links go.
    pub places: PlaceOptions,
    /// `db-include`: names or oids.
    pub include: Vec<String>,
    /// `db-exclude`: names or oids.
    pub exclude: Vec<String>,
    /// `write-manifest`.
    pub write_manifest: bool,
    /// `process-max`.
    pub workers: usize,
    /// `repo`: read from this repository only.
    pub repo: Option<RepoKey>,
}

/// Where tablespaces and links go.
#[derive(Debug, Clone, Default)]
pub struct PlaceOptions {
    /// `tablespace-map`: name or oid, and directory.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// `tablespace-map-all`.
    pub tablespace_map_all: Option<PathBuf>,
    /// `link-all`.
    pub link_all: bool,
    /// `link-map`: path in the data directory, and destination.
    pub link_map: Vec<(String, PathBuf)>,
}

impl RestoreSettings {
    /// The wishes by which a backup is chosen.
    pub fn restoring(&self) -> Restoring {
        let follow = match self.target_timeline.as_deref() {
            None => Follow::End,
            Some("current") => Follow::Current,
            Some(text) => text.parse().map_or(Follow::Latest, Follow::Timeline),
        };
        Restoring {
            wanted: self.target.wanted.clone(),
            follow,
            goes_on: !matches!(self.target.recovery, RecoveryTarget::Immediate | RecoveryTarget::None),
        }
    }
}
