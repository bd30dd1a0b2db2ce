//! The mesh itself.

use std::fmt;

use pgmesh_storage::{DigestSuite, Generation, RepoKey};
use serde::{Deserialize, Serialize};

use super::NodeName;

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
    pub const CATALOG_FORMAT: u32 = 5;
}

/// How often what the catalog had lost was given up, and whether it is known to have lost something now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogPast {
    /// How often it was given up. Positions of one era cannot be compared with those of another.
    pub era: u32,
    /// What is lost and not given up.
    pub loss: Option<CatalogLoss>,
}

/// A repository holds the proof that the catalog has been farther than it is: all copies of it are old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogLoss {
    /// Where the proof was found.
    pub repo: RepoKey,
    /// Who found it.
    pub node: NodeName,
    /// The position that the catalog had when the proof was written.
    pub position: LogIndex,
    /// The era of that position.
    pub era: u32,
    /// The lowest generation that the catalog assigned then.
    pub floor: Generation,
    /// When it was written, in seconds since the Unix epoch, by the clock of its writer.
    pub written: i64,
    /// The position of the catalog when the proof was found.
    pub found_at: LogIndex,
}
