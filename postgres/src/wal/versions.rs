//! The differences between PostgreSQL's versions in records, one function for each difference.

use crate::PgVersion;

/// Whether the header of a page image with these `bimg_info` bits goes on with the length of its hole: if it has a hole
/// and is compressed (xlogrecord.h).
pub(super) fn has_hole_length(version: PgVersion, bits: u8) -> bool {
    const HAS_HOLE: u8 = 0x01;
    let compressed = if version >= PgVersion::V15 {
        // pglz, lz4 and zstd.
        0x04 | 0x08 | 0x10
    } else {
        // pglz alone. Later the same bit says that the image is to be applied.
        0x02
    };
    bits & HAS_HOLE != 0 && bits & compressed != 0
}

/// A record of the resource manager for databases (dbcommands_xlog.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatabaseRecord {
    /// A database was created, whether its files are logged (from 15 on) or were copied.
    Create,
    /// A database was dropped.
    Drop,
}

/// The kind of a record of the resource manager for databases; `None` if it is unknown.
pub(super) fn database_record(version: PgVersion, info: u8) -> Option<DatabaseRecord> {
    match (info, version >= PgVersion::V15) {
        (0x00, _) | (0x10, true) => Some(DatabaseRecord::Create),
        (0x10, false) | (0x20, true) => Some(DatabaseRecord::Drop),
        _ => None,
    }
}

/// The offset of `wal_level`, an `int`, in the data of a record of the resource manager for the WAL itself; `None` if
/// the record has none (pg_control.h, xlog_internal.h).
pub(super) fn wal_level_offset(version: PgVersion, info: u8) -> Option<usize> {
    const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    const PARAMETER_CHANGE: u8 = 0x60;
    const END_OF_RECOVERY: u8 = 0x90;
    const CHECKPOINT_REDO: u8 = 0xE0;
    match info {
        PARAMETER_CHANGE => Some(20),
        CHECKPOINT_SHUTDOWN if version >= PgVersion::V17 => Some(20),
        END_OF_RECOVERY if version >= PgVersion::V17 => Some(16),
        CHECKPOINT_REDO if version >= PgVersion::V17 => Some(0),
        _ => None,
    }
}
