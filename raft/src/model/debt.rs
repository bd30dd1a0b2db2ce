//! Replicas that should exist and do not, and objects that exist and should not.

use pgmesh_storage::{ArchiveId, Digest, Generation, RepoKey};
use serde::{Deserialize, Serialize};

use super::{LogIndex, ObjectRef};

/// A replica that should exist and does not; its key is (repository, object).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// When it arose, in seconds since the Unix epoch.
    pub since: i64,
    /// Why.
    pub reason: DebtReason,
    /// The lowest generation that the replica may be written under.
    pub generation: Generation,
    /// The object's stored length in bytes.
    pub bytes: u64,
}

/// Why a replica does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DebtReason {
    /// It has not been written yet.
    Owed,
    /// It was found damaged.
    Damaged,
    /// It was found missing.
    Missing,
}

/// An object of which no good replica is left; its key is the object. Its debts cannot be paid by copying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When the last good replica was withdrawn, in seconds since the Unix epoch.
    pub since: i64,
}

/// Names one object of one generation in one repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GarbageKey {
    /// The object.
    pub object: ObjectRef,
    /// The repository.
    pub repo: RepoKey,
    /// The generation.
    pub generation: Generation,
}

/// An object that nothing refers to any more. It is deleted when every session that began before `since` has ended
/// (invariant 5), and then forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// When it became garbage.
    pub since: LogIndex,
    /// The digest in its name.
    pub digest: Digest,
    /// The archive in its name, for a WAL file and a stanza's information.
    pub archive: Option<ArchiveId>,
    /// The length of its plaintext in bytes: of a WAL file it tells in how many parts the file lies.
    pub plain_length: u64,
}

/// A chunk that was condemned at `since`, as the collector read it before it deleted the objects. If the chunk was
/// uploaded and condemned again since, it has another position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CondemnedChunk {
    /// The chunk.
    pub digest: Digest,
    /// When it was condemned.
    pub since: LogIndex,
}

/// Garbage of `since`, as the collector read it before it deleted the object: the same name may have become garbage
/// once more in the meantime.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GarbageObject {
    /// The object.
    pub key: GarbageKey,
    /// When it became garbage.
    pub since: LogIndex,
}

/// The objects and debts of one repository, counted as they change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryCounters {
    /// Good replicas.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Debts.
    pub debts: u64,
    /// The stored bytes that they will come to.
    pub debt_bytes: u64,
    /// Objects that nothing refers to and that the repository does not let go: the rows of table `Kept`.
    pub kept: u64,
}
