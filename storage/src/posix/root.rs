use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{PosixError, failed};
use crate::object::IDENTITY_PATH;

/// The repository's directory, and which one it was when it was opened.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Device and inode.
    seen: Mutex<(u64, u64)>,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // Not only there but readable, or every listing would fail later.
        fs::read_dir(&path)?;
        Ok(Self {
            path,
            seen: Mutex::new((metadata.dev(), metadata.ino())),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the directory is still the repository's.
    ///
    /// After an unmount the same path is an empty mount point: objects would be "not found" though they exist (invariant 7), and new ones
    /// would fill the wrong file system and vanish under the next mount (invariant 1). Mounted anew, a device may have
    /// another number; then `pgmesh.repo` shows that a repository is back. Which one it is, the keys show.
    pub(super) fn check(&self) -> Result<(), PosixError> {
        let action = "looking for the repository's directory";
        let metadata = fs::metadata(&self.path).map_err(failed(action, &self.path))?;
        let found = (metadata.dev(), metadata.ino());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == found {
            return Ok(());
        }
        if self.path.join(IDENTITY_PATH).is_file() {
            *seen = found;
            return Ok(());
        }
        // Of no kind that could be taken for "no such object".
        Err(failed(action, &self.path)(io::Error::other(
            "another directory is in its place: is its file system not mounted?",
        )))
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
        fs::write(path.join(IDENTITY_PATH), "").unwrap();
        root.check().unwrap();
    }

    #[test]
    fn a_file_is_no_root() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Root::open(file.path()).is_err());
        assert!(Root::open(Path::new("/nonexistent/pgmesh")).is_err());
    }
}
