//! A job for a reader: files, each with its past in the prior backup.

use pgmesh_postgres::Entry;
use pgmesh_storage::{Extent, FileEntry, FingerprintTable};
use roaring::RoaringBitmap;

/// A job whose files have been looked up in the prior backup.
#[derive(Debug)]
pub struct ReadyJob {
    /// The number of the first entry.
    pub number: u64,
    /// The entries.
    pub entries: Vec<Ready>,
}

/// An entry, and its past.
#[derive(Debug)]
pub struct Ready {
    /// As the walk found it.
    pub entry: Entry,
    /// Its past in the prior backup.
    pub past: Past,
}

/// The past of a file, as the prior backup tells it.
#[derive(Debug)]
pub enum Past {
    /// There is none: the file is read and stored as a whole.
    New,
    /// The file has not changed since, and is not read.
    Same(Box<FileEntry>),
    /// The file may have changed.
    Known(Box<Known>),
}

/// A file as the prior backup has it.
#[derive(Debug)]
pub struct Known {
    /// Its entry in the prior backup.
    pub before: FileEntry,
    /// The old pages that may have changed; none where any page may have changed.
    pub look: Option<RoaringBitmap>,
    /// The fingerprints that it had.
    pub table: FingerprintTable,
    /// The pages that a change map names, where the map is put to the test.
    pub named: Option<RoaringBitmap>,
}

impl Known {
    /// Where the base of its fingerprints lies.
    pub fn base(&self) -> &[Extent] {
        self.before.fingerprints.as_ref().map_or(&[], |found| &found.base)
    }
}
