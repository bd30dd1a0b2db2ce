//! Tells a data directory from a copy of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use std::{fs, io};

use sha2::{Digest, Sha256};
use thiserror::Error;

/// The length of a fingerprint in bytes, before it becomes hexadecimal.
const LENGTH: usize = 8;

/// A text of 16 hexadecimal digits that differs between a data directory and a copy of it, although both have the same
/// system identifier. It is made of the directory's inode number and, if the file system knows it, its birth time. It
/// stays the same over restarts, renames and mounts, and changes when the directory is restored or moved to another
/// file system. A clone of the whole file system (a snapshot of a disk) has the same text.
///
/// # Errors
/// The directory cannot be examined.
pub fn instance_fingerprint(pgdata: &Path) -> Result<String, FingerprintError> {
    let failed = |source| FingerprintError {
        path: pgdata.to_owned(),
        source,
    };
    let metadata = fs::metadata(pgdata).map_err(failed)?;
    let mut hasher = Sha256::new();
    hasher.update(b"pgmesh instance\0");
    hasher.update(metadata.ino().to_le_bytes());
    // Some file systems keep no birth time (tmpfs before Linux 5.19, NFS): then the inode number alone must do.
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

/// Linux's file with the identifier of a machine, 32 hexadecimal digits (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// A text of 16 hexadecimal digits that differs between two machines; empty if the machine has no identifier, as in
/// many containers. It stays the same over restarts and changes of the host's name or address. A clone of a whole
/// virtual machine may have the same text.
#[must_use]
pub fn machine_fingerprint() -> String {
    machine_of(Path::new(MACHINE_ID))
}

fn machine_of(file: &Path) -> String {
    let content = fs::read_to_string(file).unwrap_or_default();
    let id = content.trim();
    let is_id =
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    if !is_id {
        return String::new();
    }
    // The identifier itself is confidential (machine-id(5)), so only a hash of it leaves the machine.
    let mut hasher = Sha256::new();
    hasher.update(b"pgmesh machine\0");
    hasher.update(id.as_bytes());
    let digest = hasher.finalize();
    hex::encode(digest.get(..LENGTH).unwrap_or_default())
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
    fn a_machine_is_told_by_its_identifier_where_it_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine-id");
        let fingerprint = |content: &str| {
            fs::write(&file, content).unwrap();
            machine_of(&file)
        };
        let one = fingerprint("d8e8fca2dc0f896fd7cb4cb0031ba249\n");
        assert_eq!(one.len(), 16);
        assert_ne!(one, fingerprint("126a8a51b9d1bbd07fddc65819a542c3\n"));
        for none in ["", "uninitialized\n", "00000000000000000000000000000000\n"] {
            assert_eq!(fingerprint(none), "");
        }
        assert_eq!(machine_of(&folder.path().join("none")), "");
    }

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
