//! Telling a data directory from a copy of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use std::{fs, io};

use sha2::{Digest, Sha256};
use thiserror::Error;

/// The length of a fingerprint in bytes, before it becomes hexadecimal.
const LENGTH: usize = 8;

/// A text of 16 hexadecimal digits that differs between a data directory and a copy of it, which has the same system identifier:
/// made of the directory's inode number and, where the file system knows it, its birth time. It stays the same over restarts,
/// renames and mounts, and changes when the directory is restored or moved to another file system. A clone of the whole file
/// system (a snapshot of a disk) has the same.
///
/// # Errors
/// When the directory cannot be examined.
pub fn instance_fingerprint(pgdata: &Path) -> Result<String, FingerprintError> {
    let failed = |source| FingerprintError {
        path: pgdata.to_owned(),
        source,
    };
    let metadata = fs::metadata(pgdata).map_err(failed)?;
    let mut hasher = Sha256::new();
    hasher.update(b"pgmesh instance\0");
    hasher.update(metadata.ino().to_le_bytes());
    // Not every file system keeps a birth time (tmpfs before Linux 5.19, NFS): then the inode number must do.
    if let Some(birth) = metadata
        .created()
        .ok()
        .and_then(|birth| birth.duration_since(UNIX_EPOCH).ok())
    {
        hasher.update(birth.as_secs().to_le_bytes());
        hasher.update(birth.subsec_nanos().to_le_bytes());
    }
    let digest = hasher.finalize();
    Ok(hex::encode(digest.get(..LENGTH).unwrap_or_default()))
}

/// A data directory that could not be examined.
#[derive(Debug, Error)]
#[error("examining the data directory {}: {source}", path.display())]
pub struct FingerprintError {
    /// The directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_another_fingerprint_and_a_renamed_directory_the_same() {
        let parent = tempfile::tempdir().unwrap();
        let (original, copy, renamed) = (
            parent.path().join("original"),
            parent.path().join("copy"),
            parent.path().join("renamed"),
        );
        fs::create_dir(&original).unwrap();
        fs::create_dir(&copy).unwrap();
        let before = instance_fingerprint(&original).unwrap();
        assert_eq!(before.len(), 16);
        assert_ne!(before, instance_fingerprint(&copy).unwrap());

        fs::write(original.join("file"), "changed").unwrap();
        fs::rename(&original, &renamed).unwrap();
        assert_eq!(instance_fingerprint(&renamed).unwrap(), before);
        assert!(instance_fingerprint(&original).is_err());
    }
}
