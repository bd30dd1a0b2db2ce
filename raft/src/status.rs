//! How a catalog is doing on this node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::EntryId;

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
    /// The identifiers of the nodes that receive the log and have no vote.
    pub learners: Vec<u64>,
    /// The addresses of all members, as the Raft group knows them.
    pub addresses: BTreeMap<u64, String>,
    /// Whether it has become part of a group: not before the leader has contacted a node that joins.
    pub initialized: bool,
    /// On the leader: the last entry that each member is known to have.
    pub matched: BTreeMap<u64, Option<u64>>,
    /// On the leader: how long ago the last request was sent that a majority has answered. A transfer that takes long can
    /// make it a few seconds.
    pub quorum_age: Option<Duration>,
    /// The entries of the log that this node has left out.
    pub skipped: Vec<EntryId>,
    /// Why it has stopped, if it has.
    pub failure: Option<String>,
}
