//! The settings of a backup.

use crate::pg::{ArchivingCheck, PgSettings};
use crate::wal_push::PushSettings;
use pgmesh_storage::{BackupType, Codec, StanzaName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether a standby's files are read (`backup-standby`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyWish {
    /// No: the primary is on this host.
    Without,
    /// Where one fits.
    Preferred,
    /// There is no backup without one.
    Demanded,
}

/// The options of one backup, checked.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// The clusters of which it is taken: a primary, and perhaps standbys.
    pub clusters: Vec<PgSettings>,
    /// Whether a standby's files are read.
    pub standby: StandbyWish,
    /// Whether the server must archive its own WAL; where not, the backup pushes the WAL that it needs.
    pub archiving: ArchivingCheck,
    /// How the backup pushes that WAL.
    pub push: PushSettings,
    /// `stanza`.
    pub stanza: StanzaName,
    /// `type`.
    pub kind: BackupType,
    /// `delta`: read all files, also where the changes are known.
    pub delta: bool,
    /// `delta-verify`: the longest time since everything was last read.
    pub delta_verify: Duration,
    /// `process-max`: how many files are read, and how many chunks compressed, at once.
    pub workers: usize,
    /// `compress-type`.
    pub codec: Codec,
    /// `compress-level`.
    pub level: Option<i32>,
    /// `start-fast`.
    pub start_fast: bool,
    /// `checksum-page`, where it was set.
    pub checksum_page: Option<bool>,
    /// `exclude`.
    pub exclude: Vec<String>,
    /// `annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `archive-timeout`.
    pub archive_timeout: Duration,
    /// `backup-ack`, where it was set.
    pub backup_ack: Option<u16>,
}

impl BackupSettings {
    /// Whether page checksums are checked in a cluster that has them or has not.
    pub fn checks_pages(&self, cluster_has_checksums: bool) -> bool {
        if self.checksum_page == Some(true) && !cluster_has_checksums {
            tracing::warn!("checksum-page=y, but the cluster has no page checksums: pages are not checked");
        }
        cluster_has_checksums && self.checksum_page != Some(false)
    }
}
