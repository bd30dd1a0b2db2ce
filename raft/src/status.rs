//! How a catalog is doing on this node.

use serde::{Deserialize, Serialize};

/// A node's part in the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It takes the writes.
    Leader,
    /// It follows a leader.
    Follower,
    /// It stands for election.
    Candidate,
    /// It receives the log and has no vote.
    Learner,
    /// It has stopped.
    Stopped,
}

/// How a catalog is doing on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogStatus {
    /// This node's identifier.
    pub node_id: u64,
    /// Its part.
    pub role: Role,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The last entry of the Raft log.
    pub last_log: Option<u64>,
    /// The last entry that was applied.
    pub last_applied: Option<u64>,
    /// The last entry that is in the snapshot.
    pub snapshot: Option<u64>,
    /// The last entry that was dropped from the log.
    pub purged: Option<u64>,
    /// The identifiers of the nodes that vote.
    pub voters: Vec<u64>,
    /// Why it has stopped, if it has.
    pub failure: Option<String>,
}
