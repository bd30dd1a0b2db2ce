//! Raft's log on RocksDB.

mod raft_storage;

use pgmesh_protocol::EntryId;
use pgmesh_runtime::tasks;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use openraft::{AnyError, Entry, ErrorSubject, ErrorVerb, LogId, Raft, StorageError, StorageIOError, Vote};
use pgmesh_storage::wire;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::folder::Folder;
use super::ledger::Ledger;
use super::state::StateStore;
use super::state_db::{database_options, open_database};
use crate::consensus::TypeConfig;
use crate::disk_pace::DiskPace;
use crate::error::CatalogError;
use crate::options::CatalogOptions;
use crate::value;

const ENTRIES: &str = "entries";
const META: &str = "meta";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
const NODE_ID: &[u8] = b"node-id";
const LEDGER: &[u8] = b"ledger";
const SKIP: &[u8] = b"skip";

/// How many entries a node may be told to leave out, in all its life: each costs all commands in it.
const SKIPS: usize = 64;

/// The longest entry in bytes, with room to spare: a batch, or one proposal of the largest size.
const ENTRY_LIMIT: usize = 16 << 20;
/// How many bytes of entries are read for one message to a follower (at least one entry is).
const READ_BYTES: usize = 1 << 20;
/// Acknowledgements are written at this interval, where the death of the process cannot reach them.
const LEDGER_PAUSE: Duration = Duration::from_millis(20);
/// Acknowledgements that no append has taken along are synced at this interval.
const LEDGER_SYNC: Duration = Duration::from_secs(1);

/// The ledger in memory, which may be newer than the one on disk.
#[derive(Debug, Default)]
struct Known {
    ledger: Ledger,
    /// Whether the acknowledgements have been handed to the operating system, and whether they are on disk.
    is_written: bool,
    is_synced: bool,
}

/// Raft's log, vote and node identifier. An append is one synced write.
#[derive(Debug, Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: DB,
    path: PathBuf,
    known: Mutex<Known>,
    pace: DiskPace,
    /// Held while the ledger is written: an older one must not replace a newer one.
    writing: Mutex<()>,
    /// The state to which the log's entries are applied.
    state: OnceLock<StateStore>,
    /// After `db`: the folder is let go when the database is closed.
    _folder: Folder,
}

impl LogStore {
    /// How long appends take.
    pub(crate) fn pace(&self) -> &DiskPace {
        &self.inner.pace
    }

    /// Opens or makes the log in a catalog's folder.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn open(folder: &Folder, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let path = folder.log();
        let families = [ENTRIES, META].map(|name| (name, rocksdb::Options::default()));
        let db = open_database(&database_options(options), &path, families.into())?;
        let inner = Inner {
            db,
            path,
            known: Mutex::default(),
            pace: DiskPace::default(),
            writing: Mutex::default(),
            state: OnceLock::new(),
            _folder: folder.clone(),
        };
        let last = inner.last_entry()?;
        let purged = inner.read::<LogId<u64>>(META, PURGED)?;
        let end = last.or(purged);
        let recorded = inner.read::<Ledger>(META, LEDGER)?;
        let mut ledger = recorded.clone().unwrap_or_default();
        if let Some(recorded) = recorded
            && recorded.end() != end.map(|end| end.index)
        {
            return Err(CatalogError::LostEnd {
                path: inner.path,
                recorded: recorded.end(),
                found: end.map(|end| end.index),
            });
        }
        if let Some(end) = end {
            ledger.hold(end);
        }
        *inner.known() = Known {
            ledger,
            is_written: true,
            is_synced: true,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// From now on the log drops only entries that this state holds.
    pub(crate) fn belongs_to(&self, state: StateStore) {
        let _ = self.inner.state.set(state);
    }

    /// The last entry that was dropped from the log because the state has it.
    ///
    /// # Errors
    /// Errors of the database.
    pub(crate) fn purged(&self) -> Result<Option<LogId<u64>>, CatalogError> {
        self.inner.read(META, PURGED)
    }

    /// The highest position that this node has ever had; see [`Ledger`].
    pub(crate) fn reached(&self) -> Option<LogId<u64>> {
        self.inner.known().ledger.reached()
    }

    /// The state has this entry, whether the log has had it or not.
    pub(crate) fn hold(&self, entry: LogId<u64>) {
        self.inner.known().ledger.hold(entry);
    }

    /// The highest position that another node is known to have had.
    pub(crate) fn known_of(&self, node_id: u64) -> Option<LogId<u64>> {
        self.inner.known().ledger.known_of(node_id)
    }

    /// The identifier of the entry with this index, if the log has it.
    pub(crate) async fn entry_at(&self, index: u64) -> Option<LogId<u64>> {
        let end = index.saturating_add(1);
        let entries = self.run(move |inner| inner.entries(index, Some(end), 1)).await;
        entries.ok()?.first().map(|entry| entry.log_id)
    }

    /// A follower has acknowledged this node's log up to this entry. It is remembered at once, and written with the
    /// next append, or soon.
    pub(crate) fn acknowledged(&self, node_id: u64, upto: LogId<u64>) {
        let mut known = self.inner.known();
        if known.ledger.acknowledge(node_id, upto) {
            known.is_written = false;
            known.is_synced = false;
        }
    }

    /// Writes the followers' acknowledgements, until the catalog is dropped. No acknowledgement has a write of its own;
    /// an append takes them along. When there are many numbers, forgets nodes that a committed change has taken out of
    /// the group.
    pub(crate) async fn keep_ledger(self, raft: Raft<TypeConfig>, catalog: Weak<()>) {
        let mut synced = Instant::now();
        while catalog.strong_count() > 0 {
            sleep(LEDGER_PAUSE).await;
            let is_due = synced.elapsed() >= LEDGER_SYNC;
            if is_due {
                synced = Instant::now();
                self.forget_others(&raft).await;
            }
            if !self.inner.is_ledger_due(is_due) {
                continue;
            }
            let empty = WriteBatch::default();
            let saved = self
                .run(move |inner| inner.write_with_ledger(empty, is_due, |_| {}))
                .await;
            if let Err(error) = saved {
                tracing::warn!(%error, "the entries that followers have acknowledged could not be recorded");
            }
        }
    }

    async fn forget_others(&self, raft: &Raft<TypeConfig>) {
        if !self.inner.known().ledger.is_long() {
            return;
        }
        // A change that is not committed may be undone.
        let members = raft.with_raft_state(|state| {
            let memberships = [state.membership_state.committed(), state.membership_state.effective()];
            let nodes = memberships
                .iter()
                .flat_map(|membership| membership.membership().nodes());
            nodes.map(|(id, _)| *id).collect::<BTreeSet<u64>>()
        });
        let Ok(members) = members.await else {
            return;
        };
        let mut known = self.inner.known();
        if known.ledger.forget_others(&members) {
            known.is_written = false;
            known.is_synced = false;
        }
    }

    /// This node's identifier as it was recorded, or else `new`, which is recorded.
    ///
    /// # Errors
    /// [`CatalogError::Missing`] when there is neither; errors of the database.
    pub async fn node_id(&self, new: Option<u64>) -> Result<u64, CatalogError> {
        let known = self.run(|inner| inner.read::<u64>(META, NODE_ID)).await?;
        match (known, new) {
            (Some(known), _) => Ok(known),
            (None, Some(new)) => {
                self.run(move |inner| inner.write_one(NODE_ID, &new, true)).await?;
                Ok(new)
            }
            (None, None) => Err(CatalogError::Missing(self.inner.path.clone())),
        }
    }

    /// The last entry that is known to be committed, if one is.
    ///
    /// # Errors
    /// Errors of the database.
    pub(crate) async fn committed(&self) -> Result<Option<LogId<u64>>, CatalogError> {
        self.run(|inner| inner.read(META, COMMITTED)).await
    }

    /// The last vote that this node has given.
    ///
    /// # Errors
    /// Errors of the database.
    pub(crate) async fn vote(&self) -> Result<Option<Vote<u64>>, CatalogError> {
        self.run(|inner| inner.read(META, VOTE)).await
    }

    /// Some entries from this one on; none where the log ends before it.
    ///
    /// # Errors
    /// Errors of the database.
    pub(crate) async fn entries_from(&self, start: u64) -> Result<Vec<Entry<TypeConfig>>, CatalogError> {
        self.run(move |inner| inner.entries(start, None, READ_BYTES)).await
    }

    /// Lets an empty log begin behind an entry that the state has, with this vote. Durable when it returns.
    ///
    /// # Errors
    /// Errors of the database.
    pub(crate) async fn begin_behind(&self, last: LogId<u64>, vote: Vote<u64>) -> Result<(), CatalogError> {
        self.run(move |inner| {
            inner.purge(last)?;
            // Synced, and so are the writes before it.
            inner.write_one(VOTE, &vote, true)
        })
        .await
    }

    /// Records entries that are to be left out, durably, before any of them can be met. Returns these and the entries
    /// that were recorded before.
    ///
    /// # Errors
    /// More than a node may leave out; errors of the database.
    pub(crate) async fn skip(&self, entries: &[EntryId]) -> Result<BTreeSet<EntryId>, CatalogError> {
        let entries = entries.to_vec();
        self.run(move |inner| {
            let mut skips: BTreeSet<EntryId> = inner.read(META, SKIP)?.unwrap_or_default();
            let before = skips.len();
            skips.extend(entries);
            if skips.len() > SKIPS {
                return Err(CatalogError::CannotSkip(format!(
                    "more than {SKIPS} entries cannot be skipped"
                )));
            }
            if skips.len() > before {
                inner.write_one(SKIP, &skips, true)?;
            }
            Ok(skips)
        })
        .await
    }

    /// Does blocking work off the asynchronous threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let inner = Arc::clone(&self.inner);
        match tasks::blocking("the log store", move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(CatalogError::Stopped(error.to_string())),
        }
    }

    async fn read(&self, key: &'static [u8]) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        self.run(move |inner| inner.read(META, key))
            .await
            .map_err(storage_error(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

pub(super) fn storage_error(
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
) -> impl FnOnce(CatalogError) -> StorageError<u64> {
    move |error| StorageIOError::new(subject, verb, AnyError::new(&error)).into()
}

impl Inner {
    /// A panic of another holder leaves nothing half-changed here: go on.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch together with the ledger as `change` leaves it.
    fn write_with_ledger(
        &self,
        mut batch: WriteBatch,
        synced: bool,
        change: impl FnOnce(&mut Ledger),
    ) -> Result<(), CatalogError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ledger = self.known().ledger.clone();
        change(&mut ledger);
        batch.put_cf(self.family(META)?, LEDGER, value::encode(&ledger));
        self.write(batch, synced)?;
        let mut known = self.known();
        known.ledger.follow(&ledger);
        if known.ledger.agrees(&ledger) {
            known.is_written = true;
            known.is_synced |= synced;
        }
        Ok(())
    }

    /// Whether the ledger holds acknowledgements that are not written, or not synced.
    fn is_ledger_due(&self, synced: bool) -> bool {
        let known = self.known();
        if synced { !known.is_synced } else { !known.is_written }
    }

    fn family(&self, name: &'static str) -> Result<&ColumnFamily, CatalogError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| CatalogError::Stopped(format!("the log has no column family {name}")))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rocksdb::Error) -> CatalogError + '_ {
        move |source| CatalogError::Database {
            doing,
            path: self.path.clone(),
            source,
        }
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CatalogError> {
        let record = bytes.strip_prefix(&[1]).unwrap_or_default();
        wire::decode(record, ENTRY_LIMIT).map_err(|error| CatalogError::Io {
            doing: "decoding a record of the log in",
            path: self.path.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })
    }

    fn read<T: DeserializeOwned>(&self, family: &'static str, key: &[u8]) -> Result<Option<T>, CatalogError> {
        let bytes = self
            .db
            .get_cf(self.family(family)?, key)
            .map_err(self.failed("reading the log"))?;
        bytes.map(|bytes| self.decode(&bytes)).transpose()
    }

    fn write(&self, batch: WriteBatch, synced: bool) -> Result<(), CatalogError> {
        let mut options = WriteOptions::default();
        options.set_sync(synced);
        self.db
            .write_opt(batch, &options)
            .map_err(self.failed("writing the log"))
    }

    fn write_one<T: Serialize>(&self, key: &[u8], record: &T, synced: bool) -> Result<(), CatalogError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META)?, key, value::encode(record));
        self.write(batch, synced)
    }

    fn append(&self, entries: &[Entry<TypeConfig>]) -> Result<(), CatalogError> {
        let family = self.family(ENTRIES)?;
        let mut batch = WriteBatch::default();
        for entry in entries {
            let bytes = value::encode(entry);
            // An entry that cannot be read back stops this node here, and not every node whenever it starts.
            if bytes.len() > ENTRY_LIMIT {
                return Err(CatalogError::TooLarge {
                    given: bytes.len(),
                    limit: ENTRY_LIMIT,
                });
            }
            batch.put_cf(family, entry.log_id.index.to_be_bytes(), bytes);
        }
        // Invariant 1: acknowledged is durable.
        self.write_with_ledger(batch, true, |ledger| {
            for entry in entries {
                ledger.append(entry.log_id);
            }
        })
    }

    fn truncate(&self, from: u64) -> Result<(), CatalogError> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(ENTRIES)?, from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write_with_ledger(batch, true, |ledger| ledger.truncate(from))
    }

    fn purge(&self, upto: LogId<u64>) -> Result<(), CatalogError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META)?, PURGED, value::encode(&upto));
        let end = upto.index.saturating_add(1);
        batch.delete_range_cf(self.family(ENTRIES)?, 0_u64.to_be_bytes(), end.to_be_bytes());
        // Not synced: entries that come back after a crash are purged again.
        self.write_with_ledger(batch, false, |ledger| ledger.purge(upto))
    }

    fn entries(
        &self,
        start: u64,
        end: Option<u64>,
        bytes_at_most: usize,
    ) -> Result<Vec<Entry<TypeConfig>>, CatalogError> {
        let from = start.to_be_bytes();
        let mode = IteratorMode::From(&from, Direction::Forward);
        let mut entries = Vec::new();
        let mut read = 0;
        for row in self.db.iterator_cf(self.family(ENTRIES)?, mode) {
            let (key, bytes) = row.map_err(self.failed("reading the log"))?;
            let is_past = end.is_some_and(|end| key.as_ref() >= end.to_be_bytes().as_slice());
            if is_past || read >= bytes_at_most {
                break;
            }
            read += bytes.len();
            entries.push(self.decode(&bytes)?);
        }
        Ok(entries)
    }

    fn last_entry(&self) -> Result<Option<LogId<u64>>, CatalogError> {
        let mut rows = self.db.iterator_cf(self.family(ENTRIES)?, IteratorMode::End);
        let Some(row) = rows.next() else {
            return Ok(None);
        };
        let (_, bytes) = row.map_err(self.failed("reading the log"))?;
        let entry: Entry<TypeConfig> = self.decode(&bytes)?;
        Ok(Some(entry.log_id))
    }
}
