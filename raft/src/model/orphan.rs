//! Objects that lie in a repository and that the catalog does not know.

use pgmesh_storage::{ArchiveId, Digest, Generation, RepoKey};
use serde::{Deserialize, Serialize};

use super::{GarbageKey, LogIndex, ObjectRef};

/// So many objects, and what they take.
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

/// What a scan of a repository has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct OrphanTally {
    /// Objects that the catalog does not know.
    pub unknown: Amount,
    /// Those of them that were named before the catalog's era began: they stay.
    pub earlier: Amount,
    /// Those of them of which nobody can tell what they are, since they are damaged, or parts of a WAL file: they stay.
    pub unreadable: u64,
    /// What is no object of a repository: it stays.
    pub foreign: u64,
}

/// A scan of a repository that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndedScan {
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// What it has found.
    pub found: OrphanTally,
}

/// Looking for objects of one repository that the catalog does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrphanScan {
    /// The position of the catalog when the scan that is under way, or was the last one, began.
    pub began: LogIndex,
    /// The folder that it goes on with; none when it has come to its end.
    pub next: Option<u16>,
    /// What it has found so far.
    pub found: OrphanTally,
    /// The last one that came to its end.
    pub ended: Option<EndedScan>,
    /// The rows of table `Orphans`: seen once, and looked for once more.
    pub waiting: Amount,
    /// What was made garbage since the repository was registered.
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
    /// look: it began after the note, and whatever was under way at the first look has ended in between.
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
    /// What the catalog would call it.
    pub object: ObjectRef,
    /// The digest in its name.
    pub digest: Digest,
    /// The archive in its name, for a WAL file and a stanza's information.
    pub archive: Option<ArchiveId>,
    /// The generation in its name.
    pub generation: Generation,
}

impl Orphan {
    /// What the catalog would call it as garbage of this repository.
    #[must_use]
    pub fn key(&self, repo: RepoKey) -> GarbageKey {
        GarbageKey {
            object: self.object.clone(),
            repo,
            generation: self.generation,
        }
    }
}
