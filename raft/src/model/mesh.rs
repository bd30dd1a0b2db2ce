//! The mesh itself.

use std::fmt;

use pgmesh_storage::DigestSuite;
use serde::{Deserialize, Serialize};

/// The position of a command in the sequence of all commands that the mesh has applied. (It is counted by `apply`: one
/// Raft entry holds several commands.) Everything that must be ordered in the catalog is ordered by it, never by a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What holds for the whole mesh; written once by [`Command::FoundMesh`](crate::Command::FoundMesh).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRecord {
    /// The mesh's identifier: also the common name of its certificate authority.
    pub mesh_id: String,
    /// The digest suite of all objects of the mesh.
    pub suite: DigestSuite,
    /// When the mesh was founded, in seconds since the Unix epoch.
    pub created: i64,
    /// The format of the catalog's tables; [`MeshRecord::CATALOG_FORMAT`] in this program.
    pub catalog_format: u32,
}

impl MeshRecord {
    /// The table format that this program reads and writes. Format 1 was never released.
    pub const CATALOG_FORMAT: u32 = 3;
}
