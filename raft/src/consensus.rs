//! The types that openraft is set up with.

use openraft::BasicNode;
use serde::{Deserialize, Serialize};

use crate::command::Proposal;
use crate::refusal::Refusal;
use crate::reply::Reply;

openraft::declare_raft_types!(
    /// openraft's view of the catalog.
    pub TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = crate::store::SnapshotStream,
);

/// The content of one Raft entry: the proposals that came in while the entry before it was being written (group
/// commit).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Vec<Proposal>);

/// One outcome for each proposal of an entry; none for entries that are Raft's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Result<Reply, Refusal>>);
