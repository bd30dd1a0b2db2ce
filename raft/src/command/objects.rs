//! Objects that were made durable, as the commands name them.

use pgmesh_storage::Digest;
use serde::{Deserialize, Serialize};

use crate::model::{Claim, ObjectRef, Replica, StoredObject};

/// An object that is no chunk, and where it was made durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedObject {
    /// Digest of the plain content.
    pub digest: Digest,
    /// Length of the plain content in bytes.
    pub plain_length: u64,
    /// Length as stored (compressed, without envelope) in bytes.
    pub stored_length: u64,
    /// Where it is, at most one claim a repository.
    pub claims: Vec<Claim>,
}

impl ClaimedObject {
    /// An object of which the name alone is known; see [`StoredObject::unknown`].
    #[must_use]
    pub fn unknown() -> Self {
        let StoredObject {
            digest,
            plain_length,
            stored_length,
            replicas: _,
        } = StoredObject::unknown();
        Self {
            digest,
            plain_length,
            stored_length,
            claims: Vec::new(),
        }
    }

    /// The record of it, with these of the claimed replicas.
    #[must_use]
    pub fn stored(&self, replicas: Vec<Replica>) -> StoredObject {
        StoredObject {
            digest: self.digest,
            plain_length: self.plain_length,
            stored_length: self.stored_length,
            replicas,
        }
    }
}

/// A chunk that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewChunk {
    /// Its digest.
    pub digest: Digest,
    /// Length of the plaintext in bytes.
    pub length: u32,
    /// Length as stored (compressed, without envelope) in bytes.
    pub stored_length: u32,
    /// Where it is durable.
    pub claims: Vec<Claim>,
}

/// A replica that was made good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewReplica {
    /// The object.
    pub object: ObjectRef,
    /// The digest of the written content.
    pub digest: Digest,
    /// Where it is durable.
    pub claim: Claim,
}
