use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::fingerprints::Fingerprints;
use crate::digest::Digest;

/// The longest path and link, in bytes: Linux's `PATH_MAX`.
const MAX_PATH_LENGTH: usize = 4096;

/// A run of bytes inside a chunk's plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The chunk.
    pub digest: Digest,
    /// The start of the run in the chunk's plaintext, in bytes.
    pub offset: u32,
    /// The run's length, in bytes; not 0.
    pub length: u32,
}

/// A run of blocks of a relation's file, counted from the beginning of that file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first block.
    pub first: u32,
    /// The number of blocks; not 0.
    pub count: u32,
}

/// A file, directory or link of a backed-up data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The path relative to PGDATA, separated by `/`; the files of a tablespace are below `pg_tblspc/<oid>`.
    pub path: String,
    /// Its type: a file, a directory or a link; and its content.
    pub kind: EntryKind,
    /// The time of the last change, in seconds since 1970.
    pub modified: i64,
    /// The permission bits `0o777`: no set-user-id, no set-group-id, no sticky bit.
    pub mode: u32,
    /// The owner's name, where it has one.
    pub user: Option<String>,
    /// The group's name, where it has one.
    pub group: Option<String>,
    /// The place of a file's page fingerprints; not in backups of early versions. In a part, they are a record of their
    /// own.
    #[serde(skip)]
    pub fingerprints: Option<Fingerprints>,
}

/// The type of an entry, and its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A file: its extents one after the other.
    File {
        /// The size, in bytes: the sum of the extents' lengths.
        size: u64,
        /// The CRC-32C of the whole content, as PostgreSQL's `backup_manifest` has it.
        crc32c: u32,
        /// The extents of the content, in order.
        extents: Vec<Extent>,
        /// The blocks whose page checksums did not fit.
        bad_pages: Vec<BlockRange>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// The link's destination.
        destination: String,
    },
}

/// An entry that a restore must not write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the entry {path:?} is invalid: {what}")]
pub struct InvalidEntry {
    /// The entry's path.
    pub path: String,
    /// The reason.
    pub what: &'static str,
}

impl FileEntry {
    /// Checks the properties that a restore relies on: the path stays below PGDATA, and the extents add up to the size.
    ///
    /// # Errors
    /// The first property that fails.
    pub fn check(&self) -> Result<(), InvalidEntry> {
        self.check_place()?;
        let invalid = |what| self.invalid(what);
        match &self.kind {
            EntryKind::Directory | EntryKind::Link { .. } => Ok(()),
            EntryKind::File { size, extents, .. } => {
                if self.fingerprints.as_ref().is_some_and(|found| !found.is_plausible()) {
                    return Err(invalid("its fingerprints are incomplete"));
                }
                if extents.iter().any(|extent| extent.length == 0) {
                    return Err(invalid("one of its extents is empty"));
                }
                let sum: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
                (sum == *size)
                    .then_some(())
                    .ok_or_else(|| invalid("its extents do not make up its size"))
            }
        }
    }

    /// Checks path, permissions and destination. An entry's first record has all of them, however many records follow.
    ///
    /// # Errors
    /// The first property that fails.
    pub fn check_place(&self) -> Result<(), InvalidEntry> {
        let invalid = |what| self.invalid(what);
        if !is_safe_path(&self.path) {
            return Err(invalid("its path does not stay below the data directory"));
        }
        // A set-user-id program has no place in a data directory: a restore as root would make it a program with root's
        // rights.
        if self.mode > 0o777 {
            return Err(invalid(
                "its mode has bits that are no permissions of user, group and others",
            ));
        }
        match &self.kind {
            EntryKind::Directory => Ok(()),
            EntryKind::Link { destination } => {
                let fits =
                    !destination.is_empty() && destination.len() <= MAX_PATH_LENGTH && !destination.contains('\0');
                fits.then_some(())
                    .ok_or_else(|| invalid("the destination of its link is not a valid path"))
            }
            EntryKind::File { .. } => Ok(()),
        }
    }

    fn invalid(&self, what: &'static str) -> InvalidEntry {
        InvalidEntry {
            path: self.path.chars().take(200).collect(),
            what,
        }
    }

    /// Checks that a tablespace's file is in the directory of the cluster's version. A tablespace's link leads out of
    /// the data directory, and beside that directory lie files of other programs.
    ///
    /// # Errors
    /// The file lies elsewhere.
    pub fn check_tablespace(&self, version_directory: &str) -> Result<(), InvalidEntry> {
        let below = self
            .path
            .strip_prefix("pg_tblspc/")
            .and_then(|path| path.split_once('/'));
        let Some((oid, below)) = below else { return Ok(()) };
        let is_tablespace = oid.parse::<u32>().is_ok();
        if is_tablespace && below.split('/').next() != Some(version_directory) {
            return Err(self.invalid("it lies in a tablespace, but not in the directory of the cluster's version"));
        }
        Ok(())
    }

    /// The extents of the file's content; none for a directory or a link.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        match &self.kind {
            EntryKind::File { extents, .. } => extents,
            EntryKind::Directory | EntryKind::Link { .. } => &[],
        }
    }

    /// The blocks whose page checksums did not fit; none for a directory or a link.
    #[must_use]
    pub fn bad_pages(&self) -> &[BlockRange] {
        match &self.kind {
            EntryKind::File { bad_pages, .. } => bad_pages,
            EntryKind::Directory | EntryKind::Link { .. } => &[],
        }
    }

    /// The file's size in bytes; 0 for a directory or a link.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            EntryKind::File { size, .. } => *size,
            EntryKind::Directory | EntryKind::Link { .. } => 0,
        }
    }
}

/// Whether a path is relative and goes down only.
fn is_safe_path(path: &str) -> bool {
    path.len() <= MAX_PATH_LENGTH
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            kind: EntryKind::Directory,
            modified: 0,
            mode: 0o700,
            user: None,
            group: None,
            fingerprints: None,
        }
    }

    #[test]
    fn paths_stay_below_the_data_directory() {
        for good in [
            "base",
            "base/1/1259",
            "pg_tblspc/16384/PG_15_202209061/5/1",
            "a..b",
            ".x",
        ] {
            directory(good).check().unwrap();
        }
        for bad in [
            "",
            "/etc",
            "..",
            "a/../b",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "a\0b",
            &"x".repeat(4097),
        ] {
            assert!(directory(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_entry_has_more_than_the_rights_of_users() {
        let with = |mode| FileEntry {
            mode,
            ..directory("base")
        };
        with(0o777).check().unwrap();
        for mode in [0o4755, 0o2755, 0o1777, 0o10_600] {
            assert!(with(mode).check().is_err(), "{mode:o}");
        }
    }

    #[test]
    fn what_lies_in_a_tablespace_lies_in_the_directory_of_the_version() {
        let check = |path| directory(path).check_tablespace("PG_15_202209061");
        for good in [
            "base/16385/x",
            "pg_tblspc",
            "pg_tblspc/16385",
            "pg_tblspc/16385/PG_15_202209061",
            "pg_tblspc/16385/PG_15_202209061/5/1",
            "pg_tblspc/strange/x",
        ] {
            check(good).unwrap();
        }
        for bad in [
            "pg_tblspc/16385/cron.d",
            "pg_tblspc/16385/PG_14_202107181/5/1",
            "pg_tblspc/16385/PG_15_202209061x/5",
            "pg_tblspc/+16385/x",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn extents_make_up_the_size() {
        let file = |size, lengths: &[u32]| FileEntry {
            kind: EntryKind::File {
                size,
                crc32c: 0,
                extents: lengths
                    .iter()
                    .map(|length| Extent {
                        digest: Digest([0; 32]),
                        offset: u32::MAX,
                        length: *length,
                    })
                    .collect(),
                bad_pages: Vec::new(),
            },
            ..directory("f")
        };
        file(0, &[]).check().unwrap();
        file(3, &[1, 2]).check().unwrap();
        assert!(file(4, &[1, 2]).check().is_err());
        assert!(file(3, &[3, 0]).check().is_err());
    }
}
