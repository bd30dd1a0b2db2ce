//! The objects in repositories, as the catalog names them.

use std::fmt;

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{BackupLabel, DbId, Digest, Generation, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

use super::PlacedIdentity;

/// One object of the mesh, independent of repository and generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectRef {
    /// A chunk.
    Chunk(Digest),
    /// A WAL file: segment, partial segment, timeline history or backup history.
    Segment {
        /// Its stanza.
        stanza: StanzaName,
        /// The database of the stanza that it belongs to.
        db: DbId,
        /// PostgreSQL's name of it.
        file: WalFileName,
    },
    /// A backup's manifest root.
    Manifest {
        /// Its stanza.
        stanza: StanzaName,
        /// Its backup.
        label: BackupLabel,
    },
    /// A repository's own description of one database of a stanza.
    StanzaInfo {
        /// The stanza.
        stanza: StanzaName,
        /// The database.
        db: DbId,
    },
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(digest) => write!(f, "chunk {digest}"),
            Self::Segment { stanza, db, file } => write!(f, "WAL file {file} of stanza {stanza}, database {db}"),
            Self::Manifest { stanza, label } => write!(f, "manifest of backup {label} of stanza {stanza}"),
            Self::StanzaInfo { stanza, db } => write!(f, "information on database {db} of stanza {stanza}"),
        }
    }
}

/// One object in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The repository that holds it.
    pub repo: RepoKey,
    /// The generation under whose name it lies there.
    pub generation: Generation,
}

/// A claim that an object is durable in one repository, or that a replica there is bad.
///
/// A number can be given to another repository (`repo-replace`, `repo-remove` and a new registration) while a write is
/// under way, so a claim names the repository by its identity, as the place where the bytes were written or read tells
/// it. The claim counts only while the catalog has that identity under the number. For example: a segment is written to
/// the disk of repo1, the disk is lost, and an empty one takes its place; the claim, which arrives late, is passed
/// over, and the segment stays owed to repo1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The replica as the catalog names it.
    pub replica: Replica,
    /// The repository that was written to or read.
    pub identity: PlacedIdentity,
}

/// Content and whereabouts of an object that is no chunk.
///
/// After the catalog was rebuilt from a repository, a WAL file may be known by its name alone: it was archived, and its
/// content is not known. See [`StoredObject::unknown`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Digest of the plain content.
    pub digest: Digest,
    /// Length of the plain content in bytes.
    pub plain_length: u64,
    /// Length as stored (compressed, without envelope) in bytes.
    pub stored_length: u64,
    /// The good replicas, ordered by repository, at most one a repository.
    pub replicas: Vec<Replica>,
}

impl StoredObject {
    /// An object that was there, and of which no good content was found. It is no "not found" (invariant 7), it is owed
    /// to no repository, and the first content that its writer brings again takes its place.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            // No content has it.
            digest: Digest([0; 32]),
            plain_length: 0,
            stored_length: 0,
            replicas: Vec::new(),
        }
    }

    /// Whether it is known by name alone.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::unknown()
    }
}
