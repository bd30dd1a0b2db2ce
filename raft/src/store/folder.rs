//! A catalog's folder.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use serde::{Deserialize, Serialize};

use super::files::{create_folder, io_error, remove_folder, replace_file};
use crate::error::CatalogError;
use crate::model::MeshRecord;

/// The file that says that the catalog is complete.
const MARKER: &str = "catalog.json";

/// Locked while a process has the catalog open.
const LOCK: &str = "lock";

/// How long opening waits for another process, or an earlier catalog of this one, to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A catalog's folder, which is this process's alone as long as a clone of this exists.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    _lock: Arc<File>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
}

impl Folder {
    /// Prepares a folder for a new catalog. The remains of an interrupted attempt are removed.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when it holds a catalog; [`CatalogError::InUse`]; errors of the disk.
    pub async fn create(path: &Path) -> Result<Self, CatalogError> {
        if path.join(MARKER).exists() {
            return Err(CatalogError::Exists(path.to_owned()));
        }
        create_folder(path)?;
        let folder = Self::lock(path).await?;
        // Another process may have completed one while this one waited.
        if path.join(MARKER).exists() {
            return Err(CatalogError::Exists(folder.path));
        }
        for part in [folder.log(), folder.state()] {
            remove_folder(&part)?;
            create_folder(&part)?;
        }
        Ok(folder)
    }

    /// Finds the catalog in a folder.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::InUse`], [`CatalogError::Format`]; errors of the disk.
    pub async fn open(path: &Path) -> Result<Self, CatalogError> {
        let marker = path.join(MARKER);
        if !marker.exists() {
            return Err(CatalogError::Missing(path.to_owned()));
        }
        let folder = Self::lock(path).await?;
        let text = fs::read(&marker).map_err(io_error("reading", &marker))?;
        let content: Marker =
            serde_json::from_slice(&text).map_err(|error| io_error("parsing", &marker)(error.into()))?;
        if content.format != MeshRecord::CATALOG_FORMAT {
            return Err(CatalogError::Format {
                found: content.format,
                known: MeshRecord::CATALOG_FORMAT,
            });
        }
        Ok(folder)
    }

    /// Takes the folder for this process; the operating system gives it back when the process is gone.
    async fn lock(path: &Path) -> Result<Self, CatalogError> {
        let lock = path.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(io_error("opening", &lock))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        _lock: Arc::new(file),
                    });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::WouldBlock) => return Err(CatalogError::InUse(path.to_owned())),
                Err(TryLockError::Error(error)) => return Err(io_error("locking", &lock)(error)),
            }
        }
    }

    /// Declares the catalog complete.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn complete(&self) -> Result<(), CatalogError> {
        let format = MeshRecord::CATALOG_FORMAT;
        let content = format!("{{\"format\":{format}}}\n");
        replace_file(&self.path.join(MARKER), content.as_bytes())
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }
}
