//! The changes of a record beside its blocks: the rules of PostgreSQL 17's summarizer (walsummarizer.c).

use super::error::WalProblem;
use super::record::{self, Record};
use super::versions::{DatabaseRecord, database_record, wal_level_offset};
use super::{ChangeMap, RelationFork};
use crate::{Fork, Lsn, PgVersion};

/// The resource managers whose records have such changes (rmgrlist.h).
mod manager {
    pub const WAL: u8 = 0;
    pub const TRANSACTION: u8 = 1;
    pub const STORAGE: u8 = 2;
    pub const DATABASE: u8 = 4;
}

/// The length of the beginning of a record that tells all its changes; `None` if `bytes` is too short to know it. Page
/// images and rows are not needed.
pub(super) fn telling_length(bytes: &[u8], length: u32, version: PgVersion) -> Option<usize> {
    let mut blocks = Vec::new();
    let record = record::parse(Lsn::INVALID, bytes, length, version, &mut blocks).ok()?;
    let by_data = matches!(
        record.resource_manager,
        manager::WAL | manager::TRANSACTION | manager::STORAGE | manager::DATABASE
    );
    Some(if by_data {
        length as usize
    } else {
        record.headers_length
    })
}

/// Adds all changes of a record to `changes`.
///
/// # Errors
/// The record changes files in an unknown way, or says that files change without WAL.
pub(super) fn add(changes: &mut ChangeMap, record: &Record<'_>, version: PgVersion) -> Result<(), WalProblem> {
    for reference in record.blocks {
        changes.add_block(reference.fork, reference.block);
    }
    let known = match record.resource_manager {
        manager::WAL => {
            check_level(record, version)?;
            !record.is_special()
        }
        manager::TRANSACTION => add_transaction(changes, record)?,
        manager::STORAGE => add_storage(changes, record)?,
        manager::DATABASE => add_database(changes, record, version)?,
        _ => !record.is_special(),
    };
    known.then_some(()).ok_or(WalProblem::UnknownChange {
        resource_manager: record.resource_manager,
        info: record.info,
    })
}

/// Records with `wal_level` are written when it may have changed. If it was `minimal`, the earlier WAL is of no use
/// either: the server may have been restarted anywhere in it.
fn check_level(record: &Record<'_>, version: PgVersion) -> Result<(), WalProblem> {
    const MINIMAL: u32 = 0;
    match wal_level_offset(version, record.operation()) {
        Some(offset) if record.data_u32(offset)? == MINIMAL => Err(WalProblem::MinimalLevel),
        _ => Ok(()),
    }
}

/// Files that are removed when a transaction ends (`xl_xact_commit` and `xl_xact_abort` in xact.h).
fn add_transaction(changes: &mut ChangeMap, record: &Record<'_>) -> Result<bool, WalProblem> {
    const OPERATION: u8 = 0x70;
    const HAS_INFO: u8 = 0x80;
    const COMMIT: u8 = 0x00;
    const ABORT: u8 = 0x20;
    const COMMIT_PREPARED: u8 = 0x30;
    const ABORT_PREPARED: u8 = 0x40;
    const HAS_DATABASE: u32 = 1 << 0;
    const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
    const HAS_RELATIONS: u32 = 1 << 2;
    if !matches!(
        record.info & OPERATION,
        COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED
    ) {
        return Ok(!record.is_special());
    }
    if record.info & HAS_INFO == 0 {
        return Ok(!record.is_special());
    }
    // The time comes first.
    let has = record.data_u32(8)?;
    let mut at = 12;
    if has & HAS_DATABASE != 0 {
        at += 8;
    }
    if has & HAS_SUBTRANSACTIONS != 0 {
        at += 4 + count(record, at)? * 4;
    }
    if has & HAS_RELATIONS == 0 {
        return Ok(!record.is_special());
    }
    let relations = count(record, at)?;
    for relation in 0..relations {
        for fork in [Fork::Main, Fork::Init] {
            changes.add_limit(relation_at(record, at + 4 + relation * 12, fork)?, 0);
        }
    }
    Ok(true)
}

/// Forks that are created and cut off (`xl_smgr_create` and `xl_smgr_truncate` in storage_xlog.h).
fn add_storage(changes: &mut ChangeMap, record: &Record<'_>) -> Result<bool, WalProblem> {
    const CREATE: u8 = 0x10;
    const TRUNCATE: u8 = 0x20;
    /// `SMGR_TRUNCATE_HEAP`. The other flags are of forks that are always read whole.
    const TRUNCATES_MAIN: u32 = 0x0001;
    match record.operation() {
        CREATE => {
            let fork = Fork::from_number(record.data_u32(12)?).ok_or(WalProblem::Malformed { part: "fork" })?;
            changes.add_limit(relation_at(record, 0, fork)?, 0);
        }
        TRUNCATE => {
            if record.data_u32(16)? & TRUNCATES_MAIN != 0 {
                changes.add_limit(relation_at(record, 4, Fork::Main)?, record.data_u32(0)?);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Databases that are created and dropped (`xl_dbase_create_rec` and its successors in dbcommands_xlog.h).
fn add_database(changes: &mut ChangeMap, record: &Record<'_>, version: PgVersion) -> Result<bool, WalProblem> {
    let Some(kind) = database_record(version, record.operation()) else {
        return Ok(false);
    };
    let database = record.data_u32(0)?;
    match kind {
        DatabaseRecord::Create => changes.add_database(record.data_u32(4)?, database),
        DatabaseRecord::Drop => {
            for tablespace in 0..count(record, 4)? {
                changes.add_database(record.data_u32(8 + tablespace * 4)?, database);
            }
        }
    }
    Ok(true)
}

/// A number of elements that follow in the record's data; it must be less than the data's length.
fn count(record: &Record<'_>, offset: usize) -> Result<usize, WalProblem> {
    let count = record.data_u32(offset)? as usize;
    let plausible = count <= record.data_length;
    plausible.then_some(count).ok_or(WalProblem::Malformed { part: "data" })
}

/// The relation at `offset` of the data (`RelFileLocator`).
fn relation_at(record: &Record<'_>, offset: usize, fork: Fork) -> Result<RelationFork, WalProblem> {
    Ok(RelationFork {
        tablespace: record.data_u32(offset)?,
        database: record.data_u32(offset + 4)?,
        relation: record.data_u32(offset + 8)?,
        fork,
    })
}
