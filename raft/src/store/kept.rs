//! The snapshot that a node keeps: a checkpoint of the tables in a folder of its own, and a file that names it.
//!
//! ```text
//! state/SNAPSHOT      JSON: the folder's name, and what openraft knows of the snapshot; replaced as a whole
//! state/snapshot-<N>  RocksDB files; tables (*.sst) are hard links, the rest are copies
//! ```
//! RocksDB never changes a table file, so a checkpoint costs only the files that were written since the last one,
//! whatever the size of the catalog. It is packed into one file only for a peer that needs it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use openraft::{BasicNode, SnapshotMeta};
use serde::{Deserialize, Serialize};

use super::files::{free_name, io_error, remove_folder, rename, replace_file, sync_folder};
use super::pack;
use crate::error::CatalogError;

pub(super) type Meta = SnapshotMeta<u64, BasicNode>;

/// Names the snapshot.
pub(super) const POINTER: &str = "SNAPSHOT";

#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    folder: String,
    meta: Meta,
}

/// A snapshot. A reader keeps its folder, also when another snapshot has taken its place.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) meta: Meta,
    pub(super) folder: PathBuf,
    is_retired: AtomicBool,
    packed: Mutex<Weak<Packed>>,
}

/// A packed snapshot: a file without a name, which is there as long as it has a reader.
#[derive(Debug)]
pub(super) struct Packed {
    file: File,
    /// Its folder's name is given to no other snapshot meanwhile.
    _kept: Arc<Kept>,
}

impl Packed {
    /// The file once more, with a position of its own.
    fn open(&self) -> std::io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_retired.load(Ordering::Acquire)
            && let Err(error) = remove_folder(&self.folder)
        {
            tracing::warn!(%error, "a replaced snapshot could not be deleted; the next start deletes it");
        }
    }
}

impl Kept {
    fn new(meta: Meta, folder: PathBuf) -> Self {
        Self {
            meta,
            folder,
            is_retired: AtomicBool::new(false),
            packed: Mutex::default(),
        }
    }

    /// The snapshot that the pointer in the state's folder names, if there is one.
    ///
    /// # Errors
    /// Errors of the disk; the pointer is not understood.
    pub(super) fn find(state: &Path) -> Result<Option<Self>, CatalogError> {
        let path = state.join(POINTER);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        let pointer: Pointer =
            serde_json::from_slice(&text).map_err(|error| io_error("parsing", &path)(error.into()))?;
        let folder = state.join(pointer.folder);
        if !folder.is_dir() {
            tracing::error!(folder = %folder.display(), "the catalog's snapshot is missing; another one is made");
            return Ok(None);
        }
        Ok(Some(Self::new(pointer.meta, folder)))
    }

    /// Makes the files in a folder durable.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn sync(made: &Path) -> Result<(), CatalogError> {
        for file in files(made)? {
            let path = made.join(file);
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(io_error("syncing", &path))?;
        }
        sync_folder(made)
    }

    /// Makes the RocksDB files in `made` the snapshot: syncs them, gives the folder its name, and replaces the pointer.
    /// A crash at any point leaves the snapshot before or this one.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn put(state: &Path, made: &Path, meta: Meta) -> Result<Self, CatalogError> {
        Self::sync(made)?;
        let (name, folder) = free_name(state, "snapshot");
        rename(made, &folder)?;
        let pointer = Pointer {
            folder: name,
            meta: meta.clone(),
        };
        let path = state.join(POINTER);
        let text = serde_json::to_vec(&pointer).map_err(|error| io_error("writing", &path)(error.into()))?;
        replace_file(&path, &text)?;
        Ok(Self::new(meta, folder))
    }

    /// The name of the folder.
    pub(super) fn name(&self) -> Option<&str> {
        self.folder.file_name().and_then(|name| name.to_str())
    }

    /// Another snapshot has taken its place: its folder goes with its last reader.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// The snapshot in one file. It is packed when the first one asks, and gone when the last one is done.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn packed(self: &Arc<Self>) -> std::io::Result<(Arc<Packed>, File)> {
        let mut known = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = known.upgrade() {
            let file = packed.open()?;
            return Ok((packed, file));
        }
        let path = self.folder.with_extension("packed");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // No other process can open it, and a crash leaves nothing.
        fs::remove_file(&path)?;
        let header = serde_json::to_vec(&self.meta)?;
        pack::pack(&self.folder, &header, &file)?;
        let packed = Arc::new(Packed {
            file,
            _kept: self.clone(),
        });
        let file = packed.open()?;
        *known = Arc::downgrade(&packed);
        Ok((packed, file))
    }
}

/// Copies the files of a database that is not open into a folder that does not exist yet, tables as hard links. Nothing
/// is synced.
///
/// # Errors
/// Errors of the disk.
pub(super) fn link_database(from: &Path, to: &Path) -> Result<(), CatalogError> {
    fs::create_dir(to).map_err(io_error("creating folder", to))?;
    for name in files(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let is_table = source.extension().is_some_and(|extension| extension == "sst");
        if !is_table || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).map_err(io_error("copying", &source))?;
        }
    }
    Ok(())
}

/// The names of the files in a folder.
fn files(folder: &Path) -> Result<Vec<std::ffi::OsString>, CatalogError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
        .map_err(io_error("reading folder", folder))
}
