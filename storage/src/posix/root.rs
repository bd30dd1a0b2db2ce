use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{PosixError, failed};

/// The repository's directory, and its identity at the time when it was opened.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Device and inode.
    opened: (u64, u64),
    /// Set for good when the directory was missing once, or another directory was in its place.
    is_gone: AtomicBool,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // A directory without read permission would fail at the first listing; it fails here instead.
        fs::read_dir(&path)?;
        Ok(Self {
            path,
            opened: (metadata.dev(), metadata.ino()),
            is_gone: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the directory is still the repository's.
    ///
    /// After an unmount the same path is an empty mount point: objects would be "not found" though they exist
    /// (invariant 7), and new objects would fill the wrong file system and vanish under the next mount (invariant 1).
    /// The next mount may bring another repository, or an older copy of this one. So a directory that was missing once
    /// stays an error here, until the store is opened again and its content is checked.
    pub(super) fn check(&self) -> Result<(), PosixError> {
        let action = "looking for the repository's directory";
        // An error kind that no caller takes for "no such object".
        let gone = |why| Err(failed(action, &self.path)(io::Error::other(why)));
        if self.is_gone.load(Ordering::Acquire) {
            return gone("the directory was missing for a time, so the repository must be opened and checked again");
        }
        match fs::metadata(&self.path) {
            Ok(metadata) if self.opened == (metadata.dev(), metadata.ino()) => Ok(()),
            Ok(_) => {
                self.is_gone.store(true, Ordering::Release);
                gone("another directory is in its place: is its file system not mounted?")
            }
            Err(error) => {
                let is_missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
                self.is_gone.fetch_or(is_missing, Ordering::AcqRel);
                Err(failed(action, &self.path)(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_in_its_place_is_noticed() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("repository");
        fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        root.check().unwrap();
        fs::rename(&path, base.path().join("away")).unwrap();
        assert!(root.check().is_err(), "missing");
        fs::create_dir(&path).unwrap();
        assert!(root.check().is_err(), "an empty mount point");
        // The directory comes back, perhaps as a copy, perhaps changed meanwhile.
        fs::remove_dir(&path).unwrap();
        fs::rename(base.path().join("away"), &path).unwrap();
        assert!(root.check().is_err(), "it must be opened again");
        Root::open(&path).unwrap().check().unwrap();
    }

    #[test]
    fn a_file_is_no_root() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Root::open(file.path()).is_err());
        assert!(Root::open(Path::new("/nonexistent/pgmesh")).is_err());
    }
}
