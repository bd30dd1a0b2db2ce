//! Names that the catalog gives.

use pgmesh_runtime::random;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The position of a command in the sequence of all commands that the mesh has applied. (It is counted by `apply`: one
/// Raft entry holds several commands.) Everything that must be ordered in the catalog is ordered by it, never by a
/// clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

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
        random::fill(&mut bytes).expect("the operating system gives random numbers");
        Self(bytes)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Which repository, and at which of its places.
///
/// A repository may move: another node hosts it (its directory was copied), or its definition names another bucket. The
/// identifier in `pgmesh.repo` moves along. The old place may still be written to by a node that has not heard of the
/// move: the object is durable there, and the repository does not have it. So a claim also names the log position at
/// which the writing node was told of the place that it has open. For example: repo2 was registered at 40 and moved
/// from node n1 to n2 at 95; a claim that n1 makes afterwards says 40, and is passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlacedIdentity {
    /// The identifier in the `pgmesh.repo` object.
    pub uuid: String,
    /// The log position at which the repository was put at its place, as the node read it when it opened the
    /// repository.
    pub placed: LogIndex,
}
