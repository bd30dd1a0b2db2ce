//! The memory of a request: if it is repeated, it has one effect.

use pgmesh_storage::Digest;
use serde::{Deserialize, Serialize};

use super::LogIndex;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// The outcome of a request, kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The position at which it was applied.
    pub index: LogIndex,
    /// The digest of the command.
    pub command: Digest,
    /// The answer.
    pub outcome: Result<Reply, Refusal>,
}
