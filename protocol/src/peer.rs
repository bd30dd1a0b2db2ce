//! The messages between nodes.

use crate::PayloadHead;
use crate::bounded::{Address, Addresses, List, NodeNameText, Program, Reason, Region, RepositoryId, Targets, Text};
use crate::{PlacedIdentity, RequestId};
use pgmesh_storage::{Generation, ObjectName, RepoKey};
use serde::{Deserialize, Serialize};

/// A new node's description, for the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Its region; empty where none is set.
    pub region: Text<Region>,
    /// Where it will be reached.
    pub advertise: List<Text<Address>, Addresses>,
    /// SHA-256 of the public key of the administrator's certificate that will lie in its node-path.
    pub administrator: [u8; 32],
    /// Its program's version.
    pub program: Text<Program>,
    /// The catalog format that its program writes.
    pub catalog_format: u32,
}

/// The mesh's answer to a new node, which the node must keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNode {
    /// Its number in the Raft group: a name that comes back with an empty disk gets a new one.
    pub node_id: u64,
    /// How digests are made in the mesh.
    pub suite: pgmesh_storage::DigestSuite,
    /// The members of the mesh: the new node takes the log from these only.
    pub members: Vec<KnownMember>,
}

/// Asks a member whether a node that the asking node's catalog does not have is a member, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouch {
    /// The name in the node's certificate.
    pub name: Text<NodeNameText>,
    /// SHA-256 of the certificate's public key.
    pub key: [u8; 32],
}

/// The answer to [`Vouch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vouched {
    /// The node is a member.
    Member,
    /// The catalog of the asked node does not have it, either.
    Unknown,
    /// It was removed or replaced.
    ShutOut,
}

/// A node has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// Its number in the Raft group.
    pub node_id: u64,
    /// Its region; empty where none is set.
    pub region: Text<Region>,
    /// Where it is reached from now on.
    pub advertise: List<Text<Address>, Addresses>,
    /// Its program's version.
    pub program: Text<Program>,
    /// The catalog format that its program writes.
    pub catalog_format: u32,
}

/// One repository to write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreTarget {
    /// The repository.
    pub repo: RepoKey,
    /// The repository's UUID, as the asking node's catalog has it. The asked node refuses the request if it has another
    /// repository open under that number.
    pub uuid: Text<RepositoryId>,
    /// The first generation to try.
    pub generation: Generation,
}

/// Writes one object to repositories of the asked node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreObject {
    /// Its name at rest.
    pub object: ObjectName,
    /// The payload that follows.
    pub payload: PayloadHead,
    /// Where to.
    pub targets: List<StoreTarget, Targets>,
}

/// The outcome for one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetOutcome {
    /// The repository.
    pub repo: RepoKey,
    /// Where it is, or why it is not written.
    pub outcome: Result<StoredAt, RemoteError>,
}

/// An object that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAt {
    /// The repository that it was written to.
    pub identity: PlacedIdentity,
    /// The generation that it was written under.
    pub generation: Generation,
    /// The bytes at rest.
    pub bytes: u64,
}

/// Reads one object of a repository of the asked node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadObject {
    /// The repository.
    pub repo: RepoKey,
    /// The repository's UUID, as the asking node's catalog has it.
    pub uuid: Text<RepositoryId>,
    /// Its name at rest.
    pub object: ObjectName,
    /// The generation; without it, any good writing of the object.
    pub generation: Option<Generation>,
    /// Whether the digest is checked too; if it differs, the object is damaged.
    pub checked: bool,
}

/// The answer to [`ReadObject`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ObjectAnswer {
    /// The object follows, its tag checked.
    Found {
        /// The generation that it was read under.
        generation: Generation,
        /// The payload that follows.
        payload: PayloadHead,
    },
    /// The object could not be read.
    Failed(RemoteError),
}

/// Deletes one object of a repository of the asked node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteObject {
    /// The repository.
    pub repo: RepoKey,
    /// The repository's UUID, as the asking node's catalog has it.
    pub uuid: Text<RepositoryId>,
    /// Its name at rest.
    pub object: ObjectName,
    /// The generation of the writing to delete.
    pub generation: Generation,
    /// The term in which the asking node leads: only the leader deletes.
    pub term: u64,
}

/// The outcome of a garbage collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that their repository does not let go, and that the catalog did not know to be so.
    pub kept: u64,
}

/// Why a hosting node could not read, write or delete an object in one of its repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    /// The kind of failure.
    pub kind: RemoteErrorKind,
    /// The repository that answered, if one did.
    pub identity: Option<PlacedIdentity>,
    /// In words.
    pub what: String,
}

/// The kinds of failure that the asking node treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteErrorKind {
    /// The object is not there.
    Missing,
    /// The object is there and damaged.
    Damaged,
    /// The object is there and the repository does not let it go: object lock, or no right to delete.
    Retained,
    /// The repository is not open, silent or failing: nothing is said about the object.
    Unavailable,
}

/// A node whose disk lacks entries that it has acknowledged asks for another number, under which it begins with an
/// empty catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginAnew {
    /// The identifier of this request, by which a repeated one is known.
    pub id: RequestId,
    /// The number that is to be replaced.
    pub number: u64,
    /// The entries that it lacks, for the audit trail.
    pub reason: Text<Reason>,
}

/// The answer to [`BeginAnew`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewNumber {
    /// The node has got this number.
    Given(u64),
    /// The number in the request is not the node's any more: this one is.
    Is(u64),
}

/// The mesh's certificate authority, as one node hands it to another.
#[derive(Clone, Serialize, Deserialize)]
pub struct AuthorityKey {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 DER. A secret (invariant 9).
    pub key: Vec<u8>,
}

impl std::fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityKey").finish_non_exhaustive()
    }
}

/// A node of the mesh, as others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Its name.
    pub name: String,
    /// SHA-256 of the public key of its certificates, in hexadecimal digits.
    pub key: String,
    /// The `host:port` addresses that it is reached at.
    pub addresses: Vec<String>,
}
