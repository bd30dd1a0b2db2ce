//! The tables on RocksDB.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use openraft::{BasicNode, LogId, StoredMembership};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    IteratorMode, LogLevel, MergeOperands, Options, PrefixRange, ReadOptions, WriteBatch,
};
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::files::remove_folder;
use super::folder::Folder;
use super::mark::{Mark, entry_id};
use crate::apply::{Base, Row, Rows, Snapshots, Writes};
use crate::error::{CatalogError, ReadError};
use crate::key;
use crate::options::CatalogOptions;
use crate::table::Table;
use crate::value;
use pgmesh_protocol::EntryId;

/// The key, in each table, of the number of writes that have touched it. No record has an empty key.
const MARK: &[u8] = b"";
/// The key of all tables' numbers, in the column family that RocksDB always has and no table uses.
const MARKS: &[u8] = b"marks";

/// How many writes have touched each table, by the table's name.
///
/// The database's own list of its files (MANIFEST) may lose its end with a disk that confirms writes which it has not
/// made. Some tables then lack the writes that were flushed last, or a part in the middle, with newer writes from the
/// write-ahead log on top; RocksDB opens such a database without complaint. So each write counts itself in every table
/// that it touches, as an increment that is lost with the rest of the write, and all counts stand together in one more
/// place.
type Marks = BTreeMap<String, u64>;

/// The record by which Raft knows the state; written with every batch of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftState {
    pub(crate) last_applied: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, BasicNode>,
    /// The entries that were left out: a node that takes this state as a snapshot has left them out, too.
    pub(crate) skipped: Vec<EntryId>,
    /// The first entry of each of the last terms, the oldest first.
    terms: Vec<EntryId>,
    /// The digest chain over the state's writes.
    chain: Chain,
}

/// Of so many terms it is remembered where they began: of two nodes that meet, one may have gone through several
/// elections without the other.
const TERMS: usize = 16;

impl RaftState {
    /// An entry was applied, and has written this.
    pub(crate) fn note_applied(&mut self, id: LogId<u64>, writes: &Writes) {
        self.last_applied = Some(id);
        self.chain.add(id, writes);
        let entry = entry_id(id);
        if self.terms.last().is_some_and(|last| last.term >= entry.term) {
            return;
        }
        if self.terms.len() == TERMS {
            self.terms.remove(0);
        }
        self.terms.push(entry);
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            applied: self.last_applied.map_or(0, |id| id.index),
            terms: self.terms.clone(),
            skipped: self.skipped.clone(),
            links: self.chain.links(),
        }
    }
}

/// The state database.
#[derive(Debug)]
pub struct StateDb {
    db: DB,
    marks: Mutex<Marks>,
    /// After `db`, so that it is dropped after it.
    folder: RetiredFolder,
    /// Views outlive a catalog; the folder is let go when the last one is gone.
    _catalog: Folder,
}

/// Removes a replaced database's folder with its last reader.
#[derive(Debug)]
struct RetiredFolder {
    path: PathBuf,
    is_retired: AtomicBool,
}

impl Drop for RetiredFolder {
    fn drop(&mut self) {
        if self.is_retired.load(Ordering::Acquire)
            && let Err(error) = remove_folder(&self.path)
        {
            tracing::warn!(%error, "a replaced state database could not be deleted; the next start deletes it");
        }
    }
}

impl StateDb {
    /// Opens or makes the tables in `path`.
    pub(super) fn open(catalog: &Folder, path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let db = open_database(&database_options(options), path, table_options(options))?;
        Self::with(db, catalog, path)
    }

    fn with(db: DB, catalog: &Folder, path: &Path) -> Result<Self, CatalogError> {
        let bytes = db.get(MARKS).map_err(|source| CatalogError::Database {
            doing: "reading the marks of",
            path: path.to_owned(),
            source,
        })?;
        let marks = bytes.map(|bytes| value::decode::<Marks>(Table::Raft, MARKS, &bytes));
        Ok(Self {
            db,
            marks: Mutex::new(marks.transpose()?.unwrap_or_default()),
            folder: RetiredFolder {
                path: path.to_owned(),
                is_retired: AtomicBool::new(false),
            },
            _catalog: catalog.clone(),
        })
    }

    /// Opens the tables in `path` for reading only.
    pub(super) fn open_read_only(
        catalog: &Folder,
        path: &Path,
        options: &CatalogOptions,
    ) -> Result<Self, CatalogError> {
        let families = table_options(options)
            .into_iter()
            .map(|(name, options)| ColumnFamilyDescriptor::new(name, options));
        let db =
            DB::open_cf_descriptors_read_only(&database_options(options), path, families, false).map_err(|source| {
                CatalogError::Database {
                    doing: "opening",
                    path: path.to_owned(),
                    source,
                }
            })?;
        Self::with(db, catalog, path)
    }

    /// Removes the folder when the last reader is gone.
    pub(super) fn retire(&self) {
        self.folder.is_retired.store(true, Ordering::Release);
    }

    pub(crate) fn raft_state(&self) -> Result<RaftState, ReadError> {
        Ok(self.record(Table::Raft, key::RAFT_STATE)?.unwrap_or_default())
    }

    /// Finds out whether some tables lack writes; names the missing ones.
    pub(super) fn find_loss(&self) -> Result<Option<String>, CatalogError> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for table in Table::ALL {
            let found = count(self.get(table, MARK)?.as_deref());
            let expected = marks.get(table.name()).copied().unwrap_or_default();
            if found != expected {
                return Ok(Some(format!("table {table} holds {found} of {expected} writes")));
            }
        }
        Ok(None)
    }

    /// Reads every row, so that RocksDB compares every block with its checksum; names the first table that it could not
    /// read.
    pub(super) fn find_damage(&self) -> Option<String> {
        let tables = Table::ALL.into_iter();
        let failed = tables.filter_map(|table| self.scan(table, &[], &[]).find_map(Result::err));
        failed.map(|error| error.to_string()).next()
    }

    /// Writes a transaction and how far it goes, as one. Not synced: the log is, and entries are applied again.
    pub(crate) fn write(&self, writes: &Writes, raft: &RaftState) -> Result<(), CatalogError> {
        let mut batch = WriteBatch::default();
        for ((table, key), value) in writes {
            let family = self.family(*table)?;
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        batch.put_cf(self.family(Table::Raft)?, key::RAFT_STATE, value::encode(raft));
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new_marks = marks.clone();
        let touched = writes.keys().map(|(table, _)| *table).chain([Table::Raft]);
        for table in touched.collect::<BTreeSet<_>>() {
            batch.merge_cf(self.family(table)?, MARK, 1_u64.to_be_bytes());
            let mark = new_marks.entry(table.name().to_owned()).or_default();
            *mark = mark.wrapping_add(1);
        }
        batch.put(MARKS, value::encode(&new_marks));
        self.db.write(batch).map_err(self.failed("writing the state"))?;
        *marks = new_marks;
        Ok(())
    }

    /// Makes all writes durable.
    pub(super) fn sync(&self) -> Result<(), CatalogError> {
        self.db.flush_wal(true).map_err(self.failed("syncing the state"))
    }

    /// Makes a copy of the database in `path` (hard links for the most part) and makes sure that the state itself is
    /// durable: the log may be purged up to the copy's last entry.
    pub(super) fn checkpoint(&self, path: &Path) -> Result<(), CatalogError> {
        self.sync()?;
        rocksdb::checkpoint::Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(path))
            .map_err(self.failed("making a checkpoint of"))
    }

    /// Puts any bytes in the place of a row, as no command can.
    #[cfg(test)]
    pub(crate) fn poison(&self, table: Table, key: &[u8], bytes: &[u8]) {
        self.db.put_cf(self.family(table).unwrap(), key, bytes).unwrap();
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rocksdb::Error) -> CatalogError + '_ {
        move |source| CatalogError::Database {
            doing,
            path: self.folder.path.clone(),
            source,
        }
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, ReadError> {
        self.db.cf_handle(table.name()).ok_or(ReadError::NoTable(table))
    }
}

fn read_failed(table: Table) -> impl Fn(rocksdb::Error) -> ReadError {
    move |source| ReadError::Database { table, source }
}

impl Base for StateDb {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.db.get_cf(self.family(table)?, key).map_err(read_failed(table))
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let family = self.family(table)?;
        self.db
            .multi_get_cf(keys.iter().map(|key| (family, key)))
            .into_iter()
            .map(|value| value.map_err(read_failed(table)))
            .collect()
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        self.rows(table, prefix, IteratorMode::From(from, Direction::Forward))
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        self.rows(table, prefix, IteratorMode::End)
    }
}

impl StateDb {
    fn rows(&self, table: Table, prefix: &[u8], mode: IteratorMode<'_>) -> Rows<'_> {
        let family = match self.family(table) {
            Ok(family) => family,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let rows = self.db.iterator_cf_opt(family, scan_options(prefix), mode);
        Box::new(rows.filter(|row| !is_mark(row)).map(move |row| read_row(table, row)))
    }
}

/// The state database as it was when this was made, whatever is written since. It keeps overwritten rows from being
/// dropped: hold it for one decision, not for long.
pub struct StateSnapshot<'a> {
    db: &'a StateDb,
    snapshot: rocksdb::Snapshot<'a>,
}

impl Snapshots for StateDb {
    type Snapshot<'a> = StateSnapshot<'a>;

    fn snapshot(&self) -> StateSnapshot<'_> {
        StateSnapshot {
            db: self,
            snapshot: self.db.snapshot(),
        }
    }
}

impl Base for StateSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let family = self.db.family(table)?;
        self.snapshot.get_cf(family, key).map_err(read_failed(table))
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let family = self.db.family(table)?;
        self.snapshot
            .multi_get_cf(keys.iter().map(|key| (family, key)))
            .into_iter()
            .map(|value| value.map_err(read_failed(table)))
            .collect()
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        self.rows(table, prefix, IteratorMode::From(from, Direction::Forward))
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        self.rows(table, prefix, IteratorMode::End)
    }
}

impl StateSnapshot<'_> {
    fn rows(&self, table: Table, prefix: &[u8], mode: IteratorMode<'_>) -> Rows<'_> {
        let family = match self.db.family(table) {
            Ok(family) => family,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let rows = self.snapshot.iterator_cf_opt(family, scan_options(prefix), mode);
        Box::new(rows.filter(|row| !is_mark(row)).map(move |row| read_row(table, row)))
    }
}

fn scan_options(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    if !prefix.is_empty() {
        options.set_iterate_range(PrefixRange(prefix));
    }
    options
}

type RawRow = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

/// Whether a row is a table's count of its writes: it is no record.
fn is_mark(row: &RawRow) -> bool {
    matches!(row, Ok((key, _)) if key.as_ref() == MARK)
}

fn read_row(table: Table, row: RawRow) -> Result<Row, ReadError> {
    let (key, value) = row.map_err(read_failed(table))?;
    Ok((key.into_vec(), value.into_vec()))
}

/// Settings common to both databases.
pub(super) fn database_options(options: &CatalogOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    // A crash leaves a torn last record behind; damage anywhere else is not passed over in silence.
    database.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    database.set_db_write_buffer_size(options.write_buffer);
    database.set_max_total_wal_size(4 * options.write_buffer as u64);
    database.set_log_level(LogLevel::Warn);
    database.set_keep_log_file_num(4);
    database
}

fn table_options(options: &CatalogOptions) -> Vec<(&'static str, Options)> {
    let cache = Cache::new_lru_cache(options.block_cache);
    Table::ALL
        .into_iter()
        .map(|table| {
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            blocks.set_bloom_filter(10.0, false);
            // Invariant 11: indexes and filters of large tables count against the cache.
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
            let mut family = Options::default();
            family.set_block_based_table_factory(&blocks);
            family.set_compression_type(DBCompressionType::Lz4);
            family.set_merge_operator_associative("pgmesh.count", add_counts);
            (table.name(), family)
        })
        .collect()
}

/// A mark's value; anything else than eight bytes counts as a number that no table has.
fn count(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |bytes| bytes.try_into().map_or(u64::MAX, u64::from_be_bytes))
}

/// Adds increments to a mark.
#[expect(clippy::unnecessary_wraps, reason = "RocksDB's signature")]
fn add_counts(_key: &[u8], known: Option<&[u8]>, increments: &MergeOperands) -> Option<Vec<u8>> {
    let sum = increments
        .iter()
        .fold(count(known), |sum, increment| sum.wrapping_add(count(Some(increment))));
    Some(sum.to_be_bytes().to_vec())
}

/// Opens or makes a database.
pub(super) fn open_database(
    options: &Options,
    path: &Path,
    families: Vec<(&'static str, Options)>,
) -> Result<DB, CatalogError> {
    let descriptors = families
        .into_iter()
        .map(|(name, options)| ColumnFamilyDescriptor::new(name, options));
    DB::open_cf_descriptors(options, path, descriptors).map_err(|source| CatalogError::Database {
        doing: "opening",
        path: path.to_owned(),
        source,
    })
}
