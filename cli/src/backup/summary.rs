//! What a backup came to.

use pgmesh_postgres::{Lsn, SegmentName};
use pgmesh_storage::{BackupLabel, BackupType};
use serde::Serialize;

/// A committed backup, for the one who started it.
#[derive(Debug, Clone, Serialize)]
pub struct BackupSummary {
    /// Its label.
    pub label: BackupLabel,
    /// What it stores.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
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
