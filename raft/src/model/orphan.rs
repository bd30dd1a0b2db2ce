//! Objects that lie in a repository and that the catalog does not know.

use pgmesh_storage::{ArchiveId, Digest, Generation, RepoKey};
use serde::{Deserialize, Serialize};

use super::{GarbageKey, LogIndex, ObjectRef};

/// A number of objects, and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes in the repository.
    pub bytes: u64,
}

impl Amount {
    /// One more object.
    pub fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// One object less.
    pub fn remove(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The findings of a scan of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct OrphanTally {
    /// Objects that the catalog does not know.
    pub unknown: Amount,
    /// Unknown objects that were named before the catalog's era began: they stay.
    pub earlier: Amount,
    /// Unknown objects that cannot be identified, since they are damaged or parts of a WAL file: they stay.
    pub unreadable: u64,
    /// Files that are no objects of a repository: they stay.
    pub foreign: u64,
}

/// A scan of a repository that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndedScan {
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// Its findings.
    pub found: OrphanTally,
}

/// Looking for objects of one repository that the catalog does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrphanScan {
    /// The position of the catalog when the scan that is under way, or was the last one, began.
    pub began: LogIndex,
    /// The folder that it goes on with; none when it has come to its end.
    pub next: Option<u16>,
    /// Its findings so far.
    pub found: OrphanTally,
    /// The last scan that came to its end.
    pub ended: Option<EndedScan>,
    /// The rows of table `Orphans`: seen once, and looked for once more.
    pub waiting: Amount,
    /// The objects that were made garbage since the repository was registered.
    pub discarded: Amount,
}

/// An object that a scan did not find in the catalog; its key is (repository, path).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SightedOrphan {
    /// When it was noted.
    pub seen: LogIndex,
    /// Its bytes in the repository.
    pub bytes: u64,
}

impl SightedOrphan {
    /// Whether a scan that began at `began`, when `oldest` was the oldest session that was still open, is the second
    /// look: it began after the note, and all sessions that were open at the first look have ended in between.
    #[must_use]
    pub fn is_due(&self, began: LogIndex, oldest: Option<super::SessionId>) -> bool {
        self.seen <= began && oldest.is_none_or(|session| session.0 > self.seen)
    }
}

/// An object that two scans did not find in the catalog, with all that its name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Its path in the repository.
    pub path: String,
    /// Its name in the catalog.
    pub object: ObjectRef,
    /// The digest in its name.
    pub digest: Digest,
    /// The archive in its name, for a WAL file and a stanza's information.
    pub archive: Option<ArchiveId>,
    /// The generation in its name.
    pub generation: Generation,
}

impl Orphan {
    /// Its key in the catalog's table of garbage.
    #[must_use]
    pub fn key(&self, repo: RepoKey) -> GarbageKey {
        GarbageKey {
            object: self.object.clone(),
            repo,
            generation: self.generation,
        }
    }
}
