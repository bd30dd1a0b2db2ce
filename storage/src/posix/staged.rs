use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use object_store::PutPayload;

use super::{PosixError, directories, failed};
use crate::random;

/// The folder of files that have no final name yet. Hidden from listings.
pub(super) const STAGING_FOLDER: &str = "pgmesh.tmp";

/// New files: readable by the group, as pgBackRest's.
const MODE: u32 = 0o640;

/// The number of names that are drawn for a temporary file before giving up.
const ATTEMPTS: usize = 8;

/// A written and synced file without its final name. Removed when dropped. The file of a killed process has no lock any
/// more, by which [`remove_leftovers`] knows it.
pub(super) struct Staged {
    path: PathBuf,
    /// Held open for its lock.
    _file: fs::File,
}

impl Staged {
    /// Writes and syncs `payload` to a file in the staging folder below `root`.
    pub(super) fn write(root: &Path, payload: &PutPayload) -> Result<Self, PosixError> {
        let folder = root.join(STAGING_FOLDER);
        let (staged, mut file) = Self::create(&folder)?;
        for piece in payload {
            file.write_all(piece).map_err(failed("writing", &staged.path))?;
        }
        // Invariant 1: the content is durable before the object has its name.
        file.sync_all().map_err(failed("syncing", &staged.path))?;
        Ok(staged)
    }

    /// A new empty file, locked.
    fn create(folder: &Path) -> Result<(Self, fs::File), PosixError> {
        let mut last = io::Error::other("no free name was found");
        for _ in 0..ATTEMPTS {
            let name: [u8; 8] =
                random::bytes().map_err(|error| failed("naming a file in", folder)(io::Error::other(error)))?;
            // object_store's listings skip names that end in `#` and digits.
            let path = folder.join(format!("{}#0", hex::encode(name)));
            let opened = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(MODE)
                .open(&path);
            match opened {
                Ok(file) if is_ours(&file) => {
                    let lock = file.try_clone().map_err(failed("opening", &path))?;
                    return Ok((Self { path, _file: lock }, file));
                }
                // A cleaner came between creation and lock, and took the file for a leftover.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    directories::create(folder)?;
                    last = error;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(failed("creating", &path)(error)),
            }
        }
        Err(failed("creating a temporary file in", folder)(last))
    }

    /// Gives the file its name, if the name is free.
    pub(super) fn link(&self, target: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // If this fails, the next cleaning removes the file.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file just created; `false` if a cleaner has locked or removed it.
fn is_ours(file: &fs::File) -> bool {
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => false,
        // On a file system without locks, a cleaner skips the file too, since it cannot lock it.
        Ok(()) | Err(fs::TryLockError::Error(_)) => file.metadata().is_ok_and(|metadata| metadata.nlink() > 0),
    }
}

/// Removes the staged files that no living process holds.
pub(super) fn remove_leftovers(root: &Path) -> Result<u64, PosixError> {
    let folder = root.join(STAGING_FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed("listing", &folder))?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed("listing", &folder))?.path();
        let file = match fs::File::open(&path) {
            // Its owner has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(failed("opening", &path))?,
        };
        if file.try_lock().is_ok() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => {
                    outcome.map_err(failed("removing", &path))?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_the_dead_go_and_files_of_the_living_stay() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(remove_leftovers(root.path()).unwrap(), 0);
        let living = Staged::write(root.path(), &PutPayload::from_static(b"x")).unwrap();
        let dead = root.path().join(STAGING_FOLDER).join("00#0");
        fs::write(&dead, "half").unwrap();
        assert_eq!(remove_leftovers(root.path()).unwrap(), 1);
        assert!(!dead.exists());
        assert!(living.path.exists());
        let path = living.path.clone();
        drop(living);
        assert!(!path.exists());
    }
}
