//! Requests of few fields, and the limits of all messages and bodies. `call.rs` has the table of the requests.

use crate::bounded::{NodeNameText, Text};
use crate::{CreateStanza, NodeAddress, NodeChange};
use pgmesh_storage::{RepoKey, StanzaName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest message of a member, without its body: bounds the memory that a peer can make us allocate.
pub const MESSAGE_LIMIT: usize = 4 << 20;
/// The longest message between nodes: as the largest log entry, with room for its envelope.
pub const CONSENSUS_LIMIT: usize = 24 << 20;
/// Bytes of the one message that a peer without a certificate may send.
pub const JOIN_LIMIT: usize = 16 << 10;
/// The largest body: incompressible content is stored as it is, and longer WAL files come in parts.
pub const BODY_LIMIT: u64 = pgmesh_storage::MAX_PLAIN_LENGTH;
/// The largest body of a chunk; chunks are 1 MiB of plaintext, a margin is left for a larger chunk size.
pub const CHUNK_BODY_LIMIT: u64 = 8 << 20;

/// Asks for the mesh's identity, digests and nodes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Hello;

/// The answer to [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshFacts {
    /// The mesh's identity.
    pub mesh_id: String,
    /// How digests are made in it.
    pub suite: pgmesh_storage::DigestSuite,
    /// The node that answers.
    pub node: String,
    /// All nodes of the mesh, to be remembered: the next connection may go to any of them.
    pub nodes: Vec<NodeAddress>,
}

/// Says that the holder of a session works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeepSession {
    /// The stanza.
    pub stanza: StanzaName,
    /// The session of [`BackupBegun`](crate::BackupBegun) or [`RestoreBegun`](crate::RestoreBegun).
    pub session: u64,
}

/// Gives a session up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndSession {
    /// The stanza.
    pub stanza: StanzaName,
    /// The session of [`BackupBegun`](crate::BackupBegun) or [`RestoreBegun`](crate::RestoreBegun).
    pub session: u64,
}

/// Ends any session.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TerminateSession {
    /// The session.
    pub session: u64,
}

/// Accepts that the end of the catalog is lost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AcceptLoss {
    /// The position that the lost catalog had reached, as `status` says it:
    /// [`CatalogLost::position`](crate::CatalogLost::position).
    pub position: u64,
}

/// Starts a new database id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpgradeStanza {
    /// The cluster.
    pub cluster: CreateStanza,
}

/// Makes a data directory the writer of its timeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdoptStanza {
    /// The cluster.
    pub cluster: CreateStanza,
    /// Also when the present writer has pushed a moment ago.
    pub force: bool,
}

/// Deletes a stanza.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteStanza {
    /// The stanza.
    pub stanza: StanzaName,
    /// Also when the stanza has not been stopped.
    pub force: bool,
    /// The client has seen that the stanza's cluster does not run.
    pub is_down: bool,
}

/// Sets a node's definition of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateRepository {
    /// The repository.
    pub repo: RepoKey,
    /// The definition in the client's file, which the node compares with its own.
    pub definition: BTreeMap<String, String>,
}

/// Puts an empty repository where one was lost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReplaceRepository {
    /// The repository.
    pub repo: RepoKey,
}

/// Forgets a repository.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RemoveRepository {
    /// The repository.
    pub repo: RepoKey,
    /// Also when some of its objects are in no other repository.
    pub force: bool,
}

/// Asks for the nodes of the mesh.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ListNodes;

/// Changes a node's part in the mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeNode {
    /// The node.
    pub name: Text<NodeNameText>,
    /// The change.
    pub change: NodeChange,
}

/// Asks how the whole mesh does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GetStatus;

/// Owes a repository all objects that the others have.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SyncRepository {
    /// The repository.
    pub repo: RepoKey,
}

/// A message of the Raft group, encoded by its own types.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Consensus(pub bytes::Bytes);

/// Asks for the mesh's certificate authority.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GetAuthority;

/// Asks how a node does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GetNodeStatus;

/// Asks the leader to delete all garbage now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CollectGarbage;

/// Asks whether a voter may lose its vote.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct MayLeave {
    /// Its number.
    pub node_id: u64,
}
