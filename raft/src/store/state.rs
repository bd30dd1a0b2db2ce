//! Raft's state machine: the tables, and snapshots of them.

use pgmesh_runtime::{clock, tasks};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta,
    StorageError, StoredMembership,
};

use tokio::sync::watch;

use super::files::{create_folder, free_name, io_error, remove_folder, replace_file};
use super::folder::Folder;
use super::kept::{Kept, Meta, POINTER, link_database};
use super::log::storage_error;
use super::mark::{Mark, entry_id};
use super::pack;
use super::rebuild::{loss, rebuild};
use super::skipped;
use super::state_db::{RaftState, StateDb};
use super::stream::SnapshotStream;
use crate::apply::{Base, Txn, Writes};
use crate::consensus::{Outcomes, TypeConfig};
use crate::error::CatalogError;
use crate::key;
use crate::model::Levels;
use crate::options::CatalogOptions;
use crate::table::Table;
use pgmesh_protocol::EntryId;

/// The tables and their snapshots. Clones share them.
#[derive(Debug, Clone)]
pub struct StateStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    catalog: Folder,
    folder: PathBuf,
    options: CatalogOptions,
    current: RwLock<Arc<StateDb>>,
    /// The last Raft entry that views show, and the entries that were left out before it.
    applied: watch::Sender<Mark>,
    /// The entries to be left out.
    skips: RwLock<BTreeSet<EntryId>>,
    /// Set when an entry could not be applied, or a snapshot not put in place: callers wait for it no more.
    is_broken: watch::Sender<bool>,
    /// The level that was to begin, and that this program does not have.
    newer_level: OnceLock<u32>,
    /// Held while a snapshot is made or put in place.
    snapshots: Mutex<()>,
    /// The snapshot that is kept.
    kept: RwLock<Option<Arc<Kept>>>,
}

impl StateStore {
    /// Opens or makes the tables in a catalog's folder, and removes files that a crash left half-done.
    ///
    /// # Errors
    /// As [`Self::open_after`].
    pub fn open(catalog: &Folder, options: &CatalogOptions) -> Result<Self, CatalogError> {
        Self::open_after(catalog, options, None)
    }

    /// Opens or makes the tables that belong to a log which begins after the entry `purged`. If the tables lack writes,
    /// they are made anew from the snapshot; the log then brings them up to date.
    ///
    /// # Errors
    /// Errors of disk and database; [`CatalogError::LostState`] when snapshot and log do not suffice.
    pub fn open_after(
        catalog: &Folder,
        options: &CatalogOptions,
        purged: Option<LogId<u64>>,
    ) -> Result<Self, CatalogError> {
        let folder = catalog.state();
        create_folder(&folder)?;
        let name = match fs::read_to_string(folder.join("CURRENT")) {
            Ok(name) => name.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "db-1".to_owned(),
            Err(error) => return Err(io_error("reading", &folder.join("CURRENT"))(error)),
        };
        let opened = StateDb::open(catalog, &folder.join(&name), options);
        let (db, name) = match loss(opened, purged)? {
            Ok(db) => (db, name),
            Err(why) => rebuild(catalog, options, purged, &why)?,
        };
        refuse_newer_level(&db, options)?;
        replace_file(&folder.join("CURRENT"), name.as_bytes())?;
        let kept = Kept::find(&folder)?;
        remove_all_but(&folder, &name, kept.as_ref().and_then(Kept::name))?;
        Ok(Self {
            inner: Arc::new(Inner {
                catalog: catalog.clone(),
                folder,
                options: options.clone(),
                applied: watch::Sender::new(db.raft_state()?.mark()),
                skips: RwLock::default(),
                is_broken: watch::Sender::new(false),
                newer_level: OnceLock::new(),
                current: RwLock::new(Arc::new(db)),
                snapshots: Mutex::new(()),
                kept: RwLock::new(kept.map(Arc::new)),
            }),
        })
    }

    /// The database in use.
    #[must_use]
    pub fn current(&self) -> Arc<StateDb> {
        self.inner.current()
    }

    /// Refuses to leave out entries that were applied.
    ///
    /// # Errors
    /// [`CatalogError::CannotSkip`].
    pub(crate) fn refuse_applied(&self, entries: &[EntryId]) -> Result<(), CatalogError> {
        let wanted = Mark {
            applied: 0,
            terms: vec![],
            skipped: entries.to_vec(),
            links: vec![],
        };
        match self.mark().difference(&wanted) {
            None => Ok(()),
            Some(entry) => Err(CatalogError::CannotSkip(format!(
                "this node has applied entry {entry} and has no trouble with it; start it without --skip-entry={entry}"
            ))),
        }
    }

    /// Says which entries are to be left out when they come: before any of them can be applied.
    pub(crate) fn skip(&self, entries: BTreeSet<EntryId>) {
        self.inner
            .skips
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(entries);
    }

    /// The entries among `skipped`, which another node has left out, that this node has to leave out, too, and does not
    /// know of yet.
    pub(crate) fn unknown_skips(&self, skipped: &[EntryId]) -> Vec<EntryId> {
        let own = self.mark();
        let skips = self.inner.skips.read().unwrap_or_else(PoisonError::into_inner);
        let is_unknown = |entry: &&EntryId| entry.index > own.applied && !skips.contains(entry);
        skipped.iter().filter(is_unknown).copied().collect()
    }

    /// How far the state goes, and which entries it has left out.
    pub(crate) fn mark(&self) -> Mark {
        self.inner.applied.borrow().clone()
    }

    /// Tells when an entry is applied, or another state is put in place.
    pub(crate) fn changes(&self) -> watch::Receiver<Mark> {
        self.inner.applied.subscribe()
    }

    /// Waits until views show the Raft entry with this index.
    pub async fn wait_until_applied(&self, entry: u64) {
        // The sender is this store's: it cannot be gone.
        let _ = self
            .inner
            .applied
            .subscribe()
            .wait_for(|mark| mark.applied >= entry)
            .await;
    }

    /// Waits until the state holds this entry.
    ///
    /// # Errors
    /// [`CatalogError::Stopped`] when nothing is applied or put in place any more.
    pub(crate) async fn wait_until_held(&self, entry: u64) -> Result<(), CatalogError> {
        let mut broken = self.inner.is_broken.subscribe();
        tokio::select! {
            () = self.wait_until_applied(entry) => Ok(()),
            _ = broken.wait_for(|is_broken| *is_broken) => Err(CatalogError::Stopped(
                "the catalog's tables take no more writes after an earlier error".to_owned(),
            )),
        }
    }

    /// Applies entries that follow what was applied.
    pub(crate) async fn apply_entries(&self, entries: Vec<Entry<TypeConfig>>) -> Result<(), CatalogError> {
        self.run(move |inner| inner.apply(entries)).await.map(drop)
    }

    /// Copies the tables into the folder of another catalog, durably.
    pub(crate) fn copy_to(&self, to: &Folder) -> Result<(), CatalogError> {
        let folder = to.state();
        let (name, path) = free_name(&folder, "db");
        self.current().checkpoint(&path)?;
        replace_file(&folder.join("CURRENT"), name.as_bytes())
    }

    /// Replaces the record by which Raft knows the state, durably.
    pub(crate) fn set_raft_state(&self, raft: &RaftState) -> Result<(), CatalogError> {
        let db = self.current();
        db.write(&Writes::default(), raft)?;
        db.sync()
    }

    /// The level that was to begin and that this program does not have, and the highest that it has.
    pub(crate) fn newer_level(&self) -> Option<(u32, u32)> {
        let found = self.inner.newer_level.get()?;
        Some((*found, self.inner.options.level))
    }

    fn note_broken<T>(&self, done: &Result<T, CatalogError>) {
        if done.is_err() {
            self.inner.is_broken.send_replace(true);
        }
    }

    /// Does blocking work off the asynchronous threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let inner = Arc::clone(&self.inner);
        match tasks::blocking("the state store", move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(CatalogError::Stopped(error.to_string())),
        }
    }
}

/// A program that does not have the catalog's level would apply commands otherwise than the others do.
fn refuse_newer_level<B: Base>(base: &B, options: &CatalogOptions) -> Result<(), CatalogError> {
    let levels: Levels = base.record(Table::Mesh, key::LEVELS)?.unwrap_or_default();
    if levels.current > options.level {
        return Err(CatalogError::Level {
            found: levels.current,
            known: options.level,
        });
    }
    Ok(())
}

fn remove_all_but(folder: &Path, current: &str, snapshot: Option<&str>) -> Result<(), CatalogError> {
    let entries = fs::read_dir(folder).map_err(io_error("reading folder", folder))?;
    for entry in entries {
        let entry = entry.map_err(io_error("reading folder", folder))?;
        let name = entry.file_name();
        let path = entry.path();
        let kept = [Some("CURRENT"), Some(POINTER), Some(current), snapshot];
        let is_kept = kept.into_iter().flatten().any(|kept| name.to_str() == Some(kept));
        if is_kept {
            continue;
        }
        if path.is_dir() {
            remove_folder(&path)?;
        } else {
            fs::remove_file(&path).map_err(io_error("removing", &path))?;
        }
    }
    Ok(())
}

impl Inner {
    fn current(&self) -> Arc<StateDb> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    fn apply(&self, entries: Vec<Entry<TypeConfig>>) -> Result<Vec<Outcomes>, CatalogError> {
        let db = self.current();
        let mut raft = db.raft_state()?;
        let mut txn = Txn::new(db.as_ref());
        let mut replies = Vec::with_capacity(entries.len());
        let mut failed = None;
        for entry in entries {
            let id = entry.log_id;
            match self.apply_one(&mut txn, &mut raft, entry) {
                Ok(outcomes) => replies.push(outcomes),
                Err(error) => {
                    // The entries before it are kept all the same.
                    txn.undo();
                    failed = Some(error);
                    break;
                }
            }
            if txn.entry().contains_key(&(Table::Mesh, key::LEVELS.to_vec()))
                && let Err(error) = refuse_newer_level(&txn, &self.options)
            {
                // The entry waits for a newer program.
                if let CatalogError::Level { found, .. } = &error {
                    let _ = self.newer_level.set(*found);
                }
                txn.undo();
                failed = Some(error);
                break;
            }
            raft.note_applied(id, txn.entry());
            txn.seal();
        }
        db.write(&txn.into_writes(), &raft)?;
        self.applied.send_replace(raft.mark());
        failed.map_or(Ok(replies), Err)
    }

    fn apply_one(
        &self,
        txn: &mut Txn<'_, StateDb>,
        raft: &mut RaftState,
        entry: Entry<TypeConfig>,
    ) -> Result<Outcomes, CatalogError> {
        let id = entry_id(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Ok(Outcomes(Vec::new())),
            EntryPayload::Normal(batch) if self.is_skipped(&id) => {
                tracing::warn!(entry = %id, "an entry of the log is skipped, because of --skip-entry");
                let outcomes = skipped::leave_out(txn, id, &batch)?;
                raft.skipped.push(id);
                Ok(outcomes)
            }
            EntryPayload::Normal(batch) => skipped::apply_batch(txn, id, batch),
            EntryPayload::Membership(membership) => {
                raft.membership = StoredMembership::new(Some(entry.log_id), membership);
                Ok(Outcomes(Vec::new()))
            }
        }
    }

    fn is_skipped(&self, entry: &EntryId) -> bool {
        let skips = self.skips.read().unwrap_or_else(PoisonError::into_inner);
        skips.contains(entry)
    }

    /// The log may be purged up to the snapshot's last entry, so the snapshot is durable when this returns.
    fn build_snapshot(&self) -> Result<Arc<Kept>, CatalogError> {
        let _alone = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let checkpoint = self.folder.join("checkpoint.tmp");
        remove_folder(&checkpoint)?;
        self.current().checkpoint(&checkpoint)?;
        // Commands go on being applied: only the copy knows up to where it goes.
        let copied = StateDb::open_read_only(&self.catalog, &checkpoint, &self.options)?.raft_state()?;
        let meta = snapshot_meta(&copied);
        let kept = Kept::put(&self.folder, &checkpoint, meta)?;
        Ok(self.keep(kept))
    }

    /// The snapshot before is removed with its last reader.
    fn keep(&self, kept: Kept) -> Arc<Kept> {
        let kept = Arc::new(kept);
        let mut current = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.replace(kept.clone()) {
            old.retire();
        }
        kept
    }

    pub(super) fn current_snapshot(&self) -> Option<Arc<Kept>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    /// A file for a snapshot that is being received. It has no name: a crash leaves nothing behind.
    fn receiving_file(&self) -> Result<File, CatalogError> {
        let path = self.folder.join("receiving.tmp");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(io_error("creating", &path))?;
        fs::remove_file(&path).map_err(io_error("removing", &path))?;
        Ok(file)
    }

    /// Unpacks a received snapshot into a new database folder.
    fn unpack(&self, meta: &Meta, mut received: File) -> Result<(PathBuf, String), CatalogError> {
        let (name, folder) = free_name(&self.folder, "db");
        create_folder(&folder)?;
        received
            .seek(SeekFrom::Start(0))
            .map_err(io_error("receiving", &folder))?;
        let header = pack::unpack(&received, &folder).map_err(io_error("unpacking", &folder))?;
        let found: Meta =
            serde_json::from_slice(&header).map_err(|error| io_error("unpacking", &folder)(error.into()))?;
        if &found != meta {
            return Err(CatalogError::Stopped(
                "a received snapshot is not the one that was announced".to_owned(),
            ));
        }
        Ok((folder, name))
    }

    fn install(&self, meta: &Meta, received: File) -> Result<(), CatalogError> {
        let (folder, name) = self.unpack(meta, received)?;
        // Before the database is opened, which changes its smaller files.
        let snapshot = self.folder.join("received.tmp");
        remove_folder(&snapshot)?;
        link_database(&folder, &snapshot)?;
        let db = StateDb::open(&self.catalog, &folder, &self.options)?;
        self.switch(meta, db, &name, &snapshot)
    }

    /// Puts an unpacked database in the place of the current one, and its copy in the place of the snapshot. Views of
    /// the old one stay readable.
    fn switch(&self, meta: &Meta, db: StateDb, name: &str, snapshot: &Path) -> Result<(), CatalogError> {
        let _alone = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let state = db.raft_state()?;
        if state.last_applied != meta.last_log_id || state.membership != meta.last_membership {
            return Err(CatalogError::Stopped(
                "a received snapshot does not hold the state that it claims".to_owned(),
            ));
        }
        refuse_newer_level(&db, &self.options)?;
        // Before anything is named: the step that may fail or take long.
        Kept::sync(snapshot)?;
        // In this order: a state that is newer than the snapshot is usual, an older one would be a gap.
        replace_file(&self.folder.join("CURRENT"), name.as_bytes())?;
        self.keep(Kept::put(&self.folder, snapshot, meta.clone())?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(db));
        old.retire();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!(index, "the catalog came as a snapshot");
        drop(current);
        self.applied.send_replace(state.mark());
        Ok(())
    }
}

fn snapshot_meta(state: &RaftState) -> Meta {
    let index = state.last_applied.map_or(0, |id| id.index);
    // Two snapshots of one state are different files: parts of them must not be mixed.
    let made = clock::since_epoch().as_nanos();
    SnapshotMeta {
        last_log_id: state.last_applied,
        last_membership: state.membership.clone(),
        snapshot_id: format!("{index}-{made:x}"),
    }
}

fn as_snapshot(kept: Arc<Kept>) -> Snapshot<TypeConfig> {
    Snapshot {
        meta: kept.meta.clone(),
        snapshot: Box::new(SnapshotStream::of(kept)),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateStore {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        self.run(Inner::build_snapshot)
            .await
            .map(as_snapshot)
            .map_err(storage_error(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        let state = self
            .run(|inner| Ok(inner.current().raft_state()?))
            .await
            .map_err(storage_error(ErrorSubject::StateMachine, ErrorVerb::Read))?;
        Ok((state.last_applied, state.membership))
    }

    /// openraft's worker for the state ends at its first error.
    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let applied = self.run(move |inner| inner.apply(entries)).await;
        self.note_broken(&applied);
        applied.map_err(storage_error(ErrorSubject::StateMachine, ErrorVerb::Write))
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotStream>, StorageError<u64>> {
        let file = self.run(Inner::receiving_file).await;
        self.note_broken(&file);
        let file = file.map_err(storage_error(ErrorSubject::Snapshot(None), ErrorVerb::Write))?;
        Ok(Box::new(SnapshotStream::receiving(file)))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<SnapshotStream>) -> Result<(), StorageError<u64>> {
        let meta = meta.clone();
        let installed = match snapshot.into_file().await {
            Ok((received, _packed)) => self.run(move |inner| inner.install(&meta, received)).await,
            Err(error) => Err(io_error("receiving a snapshot in", &self.inner.folder)(error)),
        };
        self.note_broken(&installed);
        installed.map_err(storage_error(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        Ok(self.inner.current_snapshot().map(as_snapshot))
    }
}
