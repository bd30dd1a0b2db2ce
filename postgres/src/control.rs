//! `global/pg_control`: a cluster's state and settings.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io, thread};

use thiserror::Error;

use crate::fields::{i64_at, u32_at, u64_at};
use crate::page::PAGE_SIZE;
use crate::relation::BLOCKS_PER_SEGMENT;
use crate::{Lsn, PgVersion, SegmentSize, SegmentSizeError, SystemId, TimelineId, UnsupportedVersion};

/// A server may be writing the file while it is read; until it has finished, the CRC is wrong (`get_controlfile` in
/// controldata_utils.c).
const READ_ATTEMPTS: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(10);

/// The offsets of the fields of `ControlFileData` (pg_control.h), in bytes, on 64-bit little-endian machines. All
/// supported versions agree up to the checksum version: 17 put `wal_level` into the checkpoint, where padding was
/// before.
mod offset {
    pub(super) const SYSTEM_ID: usize = 0;
    pub(super) const CONTROL_VERSION: usize = 8;
    pub(super) const CATALOG_VERSION: usize = 12;
    pub(super) const STATE: usize = 16;
    pub(super) const CHECKPOINT: usize = 32;
    pub(super) const REDO: usize = 40;
    pub(super) const CHECKPOINT_TIMELINE: usize = 48;
    pub(super) const CHECKPOINT_TIME: usize = 104;
    pub(super) const MIN_RECOVERY_POINT: usize = 136;
    pub(super) const MIN_RECOVERY_TIMELINE: usize = 144;
    pub(super) const BACKUP_START_POINT: usize = 152;
    pub(super) const WAL_LEVEL: usize = 172;
    pub(super) const BLOCK_SIZE: usize = 216;
    pub(super) const BLOCKS_PER_SEGMENT: usize = 220;
    pub(super) const WAL_BLOCK_SIZE: usize = 224;
    pub(super) const SEGMENT_SIZE: usize = 228;
    pub(super) const CHECKSUM_VERSION: usize = 252;
}

/// The offset of the CRC, which covers all bytes before it. 18 put the signedness of `char` before the nonce.
fn crc_offset(version: PgVersion) -> usize {
    match version {
        PgVersion::V14 | PgVersion::V15 | PgVersion::V16 | PgVersion::V17 => 288,
        PgVersion::V18 => 292,
    }
}

/// The content of `global/pg_control`, as far as a backup needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_id: SystemId,
    /// The version that made it.
    pub version: PgVersion,
    /// `pg_control_version`.
    pub control_version: u32,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// The server's state when it last wrote the file.
    pub state: ClusterState,
    /// The position of the latest checkpoint's record.
    pub checkpoint: Lsn,
    /// The redo position of that checkpoint: replay begins there.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// The time of that checkpoint, Unix seconds.
    pub checkpoint_time: i64,
    /// The position that recovery must reach before the cluster is consistent; invalid outside archive recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`.
    pub min_recovery_timeline: TimelineId,
    /// The redo position of the base backup that is being recovered; invalid once it is consistent.
    pub backup_start_point: Lsn,
    /// The `wal_level` of the server's last run.
    pub wal_level: WalLevel,
    /// 0: the pages have no checksums; 1: they have.
    pub data_checksum_version: u32,
    /// The bytes of a page, always [`PAGE_SIZE`]: other sizes are refused.
    pub block_size: u32,
    /// The bytes of a WAL page.
    pub wal_block_size: u32,
    /// The size of the cluster's WAL segments.
    pub segment_size: SegmentSize,
}

impl ControlFile {
    /// The file's path under PGDATA.
    pub const PATH: &'static str = "global/pg_control";

    /// Reads the file's content.
    ///
    /// # Errors
    /// It is too short, of an unsupported version, its CRC is wrong, or a field has an impossible value.
    ///
    /// ```no_run
    /// use pgmesh_postgres::ControlFile;
    ///
    /// let bytes = std::fs::read("/var/lib/postgresql/18/main/global/pg_control")?;
    /// let control = ControlFile::parse(&bytes)?;
    /// println!("cluster {}, PostgreSQL {}", control.system_id, control.version);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let too_short = || ControlFileError::TooShort { length: bytes.len() };
        let number = |offset| u32_at(bytes, offset).ok_or_else(too_short);
        let position = |offset| u64_at(bytes, offset).map(Lsn).ok_or_else(too_short);

        let control_version = number(offset::CONTROL_VERSION)?;
        let catalog_version = number(offset::CATALOG_VERSION)?;
        let version = PgVersion::from_control(control_version, catalog_version)?;
        check_crc(bytes, crc_offset(version))?;
        Ok(Self {
            system_id: SystemId(u64_at(bytes, offset::SYSTEM_ID).ok_or_else(too_short)?),
            version,
            control_version,
            catalog_version,
            state: ClusterState::from_number(number(offset::STATE)?)?,
            checkpoint: position(offset::CHECKPOINT)?,
            redo: position(offset::REDO)?,
            checkpoint_timeline: TimelineId(number(offset::CHECKPOINT_TIMELINE)?),
            checkpoint_time: i64_at(bytes, offset::CHECKPOINT_TIME).ok_or_else(too_short)?,
            min_recovery_point: position(offset::MIN_RECOVERY_POINT)?,
            min_recovery_timeline: TimelineId(number(offset::MIN_RECOVERY_TIMELINE)?),
            backup_start_point: position(offset::BACKUP_START_POINT)?,
            wal_level: WalLevel::from_number(number(offset::WAL_LEVEL)?)?,
            data_checksum_version: number(offset::CHECKSUM_VERSION)?,
            block_size: supported_block_size(number(offset::BLOCK_SIZE)?, number(offset::BLOCKS_PER_SEGMENT)?)?,
            wal_block_size: number(offset::WAL_BLOCK_SIZE)?,
            segment_size: SegmentSize::new(number(offset::SEGMENT_SIZE)?)?,
        })
    }

    /// Reads `global/pg_control` of a data directory. While its CRC is wrong, the file is read again for a moment,
    /// since the server may be writing it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), or the file cannot be read.
    pub fn read(pgdata: &Path) -> Result<Self, ControlFileError> {
        let path = pgdata.join(Self::PATH);
        let mut attempt = 1;
        loop {
            let bytes = fs::read(&path).map_err(|source| ControlFileError::Read {
                path: path.clone(),
                source,
            })?;
            match Self::parse(&bytes) {
                Err(ControlFileError::Checksum { .. } | ControlFileError::TooShort { .. })
                    if attempt < READ_ATTEMPTS =>
                {
                    thread::sleep(READ_PAUSE);
                    attempt += 1;
                }
                parsed => return parsed,
            }
        }
    }

    /// Whether the cluster's pages carry checksums.
    #[must_use]
    pub fn has_page_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

fn check_crc(bytes: &[u8], offset: usize) -> Result<(), ControlFileError> {
    let too_short = || ControlFileError::TooShort { length: bytes.len() };
    let stored = u32_at(bytes, offset).ok_or_else(too_short)?;
    let computed = crc32c::crc32c(bytes.get(..offset).ok_or_else(too_short)?);
    if stored == computed {
        Ok(())
    } else {
        Err(ControlFileError::Checksum { stored, computed })
    }
}

/// All of pgmesh counts in pages of 8 KiB and segments of 1 GiB.
fn supported_block_size(block_size: u32, blocks_per_segment: u32) -> Result<u32, ControlFileError> {
    let supported = usize::try_from(block_size) == Ok(PAGE_SIZE) && blocks_per_segment == BLOCKS_PER_SEGMENT;
    supported.then_some(block_size).ok_or(ControlFileError::BlockSize {
        block_size,
        blocks_per_segment,
    })
}

/// A server's state when it last wrote `pg_control` (`DBState`). Its text is pg_controldata's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery, as a standby is.
    InArchiveRecovery,
    /// Running as a primary, or crashed while it ran.
    InProduction,
}

impl ClusterState {
    fn from_number(value: u32) -> Result<Self, ControlFileError> {
        Ok(match value {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return Err(ControlFileError::Field { field: "state", value }),
        })
    }

    /// Whether the cluster was stopped cleanly, so that its files alone are consistent.
    #[must_use]
    pub fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// The `wal_level`: how much a server writes into its WAL. Below `Replica`, the WAL cannot be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for crash recovery.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Enough for logical decoding too.
    Logical,
}

impl WalLevel {
    fn from_number(value: u32) -> Result<Self, ControlFileError> {
        Ok(match value {
            0 => Self::Minimal,
            1 => Self::Replica,
            2 => Self::Logical,
            _ => {
                return Err(ControlFileError::Field {
                    field: "wal_level",
                    value,
                });
            }
        })
    }
}

impl fmt::Display for WalLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        })
    }
}

/// A fault of a `pg_control`.
#[derive(Debug, Error)]
pub enum ControlFileError {
    /// The file could not be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file ends before its CRC.
    #[error("pg_control has only {length} bytes")]
    TooShort {
        /// The bytes that there are.
        length: usize,
    },
    /// The file is of an unsupported version, or its version numbers are damaged.
    #[error(transparent)]
    Version(#[from] UnsupportedVersion),
    /// The file is damaged.
    #[error("pg_control is damaged: its CRC is {stored:08X}, its content has {computed:08X}")]
    Checksum {
        /// The CRC in the file.
        stored: u32,
        /// The CRC of the file's content.
        computed: u32,
    },
    /// The cluster has pages or relation files of another size.
    #[error(
        "the cluster has pages of {block_size} bytes and {blocks_per_segment} of them a file: pgmesh supports PostgreSQL \
         as it is built by default, {PAGE_SIZE} and {BLOCKS_PER_SEGMENT}"
    )]
    BlockSize {
        /// The bytes of a page.
        block_size: u32,
        /// The pages of a relation file.
        blocks_per_segment: u32,
    },
    /// The cluster has WAL segments of an impossible size.
    #[error("reading pg_control: {0}")]
    SegmentSize(#[from] SegmentSizeError),
    /// A field has a value that PostgreSQL does not write.
    #[error("pg_control says {value} as {field}, which pgmesh does not know")]
    Field {
        /// The field's name in PostgreSQL.
        field: &'static str,
        /// Its value.
        value: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of `version` whose CRC is right.
    fn file(version: PgVersion, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = vec![0u8; 8192];
        let mut put = |offset: usize, value: u32| bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        put(offset::SYSTEM_ID, 42);
        put(offset::CONTROL_VERSION, version.control_version());
        put(offset::CATALOG_VERSION, version.catalog_version());
        put(offset::STATE, 6);
        put(offset::REDO, 0x28);
        put(offset::WAL_LEVEL, 1);
        put(offset::BLOCK_SIZE, 8192);
        put(offset::BLOCKS_PER_SEGMENT, 131_072);
        put(offset::WAL_BLOCK_SIZE, 8192);
        put(offset::SEGMENT_SIZE, 16 << 20);
        put(offset::CHECKSUM_VERSION, 1);
        change(&mut bytes);
        let end = crc_offset(version);
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn all_versions_are_read() {
        for version in PgVersion::ALL {
            let control = ControlFile::parse(&file(version, |_| ())).unwrap();
            assert_eq!(control.version, version);
            assert_eq!(control.system_id, SystemId(42));
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.redo, Lsn(0x28));
            assert_eq!(control.wal_level, WalLevel::Replica);
            assert!(control.has_page_checksums());
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = file(PgVersion::V18, |_| ());
        for bit in 0..crc_offset(PgVersion::V18) * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let with = |offset: usize, value: u32| {
            let bytes = file(PgVersion::V15, |bytes| {
                bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes())
            });
            ControlFile::parse(&bytes).unwrap_err()
        };
        assert!(matches!(
            with(offset::STATE, 7),
            ControlFileError::Field { field: "state", .. }
        ));
        assert!(matches!(with(offset::WAL_LEVEL, 3), ControlFileError::Field { .. }));
        assert!(matches!(
            with(offset::BLOCK_SIZE, 16384),
            ControlFileError::BlockSize { .. }
        ));
        assert!(matches!(
            with(offset::SEGMENT_SIZE, 5),
            ControlFileError::SegmentSize(_)
        ));
        assert!(matches!(with(offset::CATALOG_VERSION, 5), ControlFileError::Version(_)));
        assert!(matches!(
            ControlFile::parse(&[]),
            Err(ControlFileError::TooShort { length: 0 })
        ));
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = ControlFile::read(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/global/pg_control"), "{message}");
    }

    proptest! {
        #[test]
        fn no_length_makes_the_parser_panic(length in 0usize..300) {
            prop_assert!(ControlFile::parse(&file(PgVersion::V18, |_| ())[..length.min(295)]).is_err());
        }
    }
}
