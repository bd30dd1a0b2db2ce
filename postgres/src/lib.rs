//! PostgreSQL's own formats, as far as a backup needs them.
//!
//! Formats only: no network, no runtime, no repositories. The layers, lowest first:
//!
//! 1. names and numbers: [`Lsn`], [`TimelineId`], [`SystemId`], [`PgVersion`], [`SegmentSize`], [`SegmentName`],
//!    [`WalFileName`];
//! 2. small files: [`WalHeader`], [`TimelineHistory`], [`TimelineTree`], [`ControlFile`], [`BackupLabel`],
//!    [`PostmasterPid`];
//! 3. the data directory: [`page`], [`RelationFile`], [`walk`], [`instance_fingerprint`];
//! 4. [`wal`]: which blocks the WAL has changed;
//! 5. the files that a restore writes: [`RecoverySettings`], [`ManifestWriter`].
//!
//! Bytes from a disk are never trusted: every parser takes any bytes and answers with a value or an error.
//! [`PgVersion`] knows the differences between PostgreSQL's versions.

mod backup_label;
mod backup_manifest;
mod control;
mod fields;
mod fingerprint;
mod lsn;
pub mod page;
mod postmaster;
mod recovery;
mod relation;
mod segment;
mod timeline_history;
mod timeline_tree;
mod version;
pub mod wal;
mod wal_file_name;
mod wal_header;
mod wal_hole;
mod wal_search;
mod walk;

pub use backup_label::{BackupLabel, BackupLabelError};
pub use backup_manifest::{ManifestFile, ManifestWriter, WalRange};
pub use control::{ClusterState, ControlFile, ControlFileError, WalLevel};
pub use fingerprint::{FingerprintError, instance_fingerprint, machine_fingerprint};
pub use lsn::{Lsn, ParseLsnError, ParseNumberError, SystemId, TimelineId};
pub use postmaster::{PostmasterPid, PostmasterPidError};
pub use recovery::{
    RECOVERY_TARGETS, RecoverySettings, RecoverySettingsError, RecoveryTarget, SettingLine, TargetAction,
    has_recovery_target, setting_lines,
};
pub use relation::{BLOCKS_PER_SEGMENT, DEFAULT_TABLESPACE, Fork, GLOBAL_TABLESPACE, RelationFile, is_checksummed};
pub use segment::{ParseSegmentNameError, SegmentName, SegmentSize, SegmentSizeError};
pub use timeline_history::{TimelineHistory, TimelineHistoryEntry, TimelineHistoryError};
pub use timeline_tree::TimelineTree;
pub use version::{PgVersion, UnsupportedVersion};
pub use wal::{Candidates, ChangeMap, RelationFork};
pub use wal_file_name::{ParseWalFileNameError, WalFileName};
pub use wal_header::{WalHeader, WalHeaderError};
pub use wal_hole::{Descent, WalHole};
pub use wal_search::WalSearch;
pub use walk::{
    ClusterTree, Entries, EntriesIter, Entry, EntryKind, Exclusions, Link, Skipped, Tablespace, Verdict, WalkError,
    WalkOptions, walk,
};
