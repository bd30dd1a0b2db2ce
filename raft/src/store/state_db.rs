//! The tables on RocksDB.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::{BasicNode, LogId, StoredMembership};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    IteratorMode, LogLevel, Options, PrefixRange, ReadOptions, WriteBatch,
};
use serde::{Deserialize, Serialize};

use super::entry_id::{EntryId, Mark};
use super::files::remove_folder;
use super::folder::Folder;
use crate::apply::{Base, Rows, Writes};
use crate::error::{CatalogError, ReadError};
use crate::key;
use crate::options::CatalogOptions;
use crate::table::Table;
use crate::value;

/// What Raft needs to know of the state; written with every batch of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaftState {
    pub(crate) last_applied: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, BasicNode>,
    /// The entries that were left out: whoever takes this state as a snapshot has left them out, too.
    pub(crate) skipped: Vec<EntryId>,
}

impl RaftState {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            applied: self.last_applied.map_or(0, |id| id.index),
            skipped: self.skipped.clone(),
        }
    }
}

/// The state database.
#[derive(Debug)]
pub struct StateDb {
    db: DB,
    /// After `db`, so that it is dropped after it.
    folder: RetiredFolder,
    /// Views outlive a catalog; the folder is let go when the last one is gone.
    _catalog: Folder,
}

/// Removes a replaced database's folder once nobody reads it any more.
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
            tracing::warn!(%error, "a replaced state database stays until the next start");
        }
    }
}

impl StateDb {
    /// Opens or makes the tables in `path`.
    pub(super) fn open(catalog: &Folder, path: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let db = open_database(&database_options(options), path, table_options(options))?;
        Ok(Self {
            db,
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
        let families = Table::ALL.map(Table::name);
        let db = DB::open_cf_for_read_only(&database_options(options), path, families, false).map_err(|source| {
            CatalogError::Database {
                doing: "opening",
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            db,
            folder: RetiredFolder {
                path: path.to_owned(),
                is_retired: AtomicBool::new(false),
            },
            _catalog: catalog.clone(),
        })
    }

    /// Removes the folder when the last reader is gone.
    pub(super) fn retire(&self) {
        self.folder.is_retired.store(true, Ordering::Release);
    }

    pub(crate) fn raft_state(&self) -> Result<RaftState, ReadError> {
        Ok(self.record(Table::Raft, key::RAFT_STATE)?.unwrap_or_default())
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
        self.db.write(batch).map_err(self.failed("writing the state"))
    }

    /// Makes a copy of the database in `path` (hard links for the most part) and makes sure that the state itself
    /// is durable: the log may be purged up to what the copy holds.
    pub(super) fn checkpoint(&self, path: &Path) -> Result<(), CatalogError> {
        self.db.flush_wal(true).map_err(self.failed("syncing the state"))?;
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
        let mut options = ReadOptions::default();
        if !prefix.is_empty() {
            options.set_iterate_range(PrefixRange(prefix));
        }
        Box::new(
            self.db
                .iterator_cf_opt(family, options, mode)
                .map(move |row| match row {
                    Ok((key, value)) => Ok((key.into_vec(), value.into_vec())),
                    Err(source) => Err(read_failed(table)(source)),
                }),
        )
    }
}

/// Settings common to both databases.
pub(super) fn database_options(options: &CatalogOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    // A torn last record is what a crash leaves behind; damage anywhere else is not passed over in silence.
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
            (table.name(), family)
        })
        .collect()
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
