use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{PosixError, failed, sync_directory};

/// The most directories that are remembered; then all are forgotten, which costs a few syncs.
const MAX_REMEMBERED: usize = 1 << 16;

/// New directories: readable by the group, as pgBackRest's.
const MODE: u32 = 0o750;

/// The directories of a repository that are known to be durable: each was synced into its parent.
///
/// A directory that exists need not be durable: another writer may have made it a moment ago, or a process that was
/// killed before its sync. So each process syncs each directory's parent once, even if it did not make the directory.
#[derive(Debug)]
pub(super) struct Directories {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Directories {
    pub(super) fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            durable: Mutex::default(),
        }
    }

    /// Makes `folder`, and all missing folders between it and the root, and makes them durable.
    pub(super) fn make_durable(&self, folder: &Path) -> Result<(), PosixError> {
        if folder == self.root || self.is_known(folder) {
            return Ok(());
        }
        let Some(parent) = folder.parent() else {
            return Ok(());
        };
        self.make_durable(parent)?;
        create(folder)?;
        sync_directory(parent)?;
        self.remember(folder);
        Ok(())
    }

    /// Forgets all directories: called when a remembered folder turns out to be missing.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn is_known(&self, folder: &Path) -> bool {
        self.lock().contains(folder)
    }

    fn remember(&self, folder: &Path) {
        let mut durable = self.lock();
        if durable.len() >= MAX_REMEMBERED {
            durable.clear();
        }
        durable.insert(folder.to_owned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a directory. An existing directory is a success.
pub(super) fn create(folder: &Path) -> Result<(), PosixError> {
    match fs::DirBuilder::new().mode(MODE).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.map_err(failed("making the directory", folder)),
    }
}

/// Makes a directory anywhere, with all missing parents, durably.
pub(super) fn create_with_parents(folder: &Path) -> Result<(), PosixError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        // A relative path of one part.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    create_with_parents(parent)?;
    create(folder)?;
    sync_directory(parent)
}
