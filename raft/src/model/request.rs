//! Which request a proposal belongs to, so that one that is repeated has one effect.

use std::fmt;

use pgmesh_storage::Digest;
use serde::{Deserialize, Serialize};

use super::LogIndex;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// A request's identifier: the same for every repetition of it, and for no other request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// A new identifier.
    ///
    /// # Panics
    /// The operating system has no random numbers.
    #[must_use]
    #[expect(clippy::expect_used, reason = "without randomness nothing here may go on")]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
        Self(bytes)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

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
