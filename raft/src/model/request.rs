//! Which request a proposal belongs to, so that one that is repeated has one effect.

use pgmesh_storage::Digest;
use serde::{Deserialize, Serialize};

use super::LogIndex;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// What became of a request, kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The position at which it was applied.
    pub index: LogIndex,
    /// The digest of the command.
    pub command: Digest,
    /// What was answered.
    pub outcome: Result<Reply, Refusal>,
}
