//! The mesh itself.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_storage::{DigestSuite, Generation, RepoKey};
use serde::{Deserialize, Serialize};

use super::{LogIndex, NodeName};

/// The properties of the whole mesh; written once by [`Command::FoundMesh`](crate::Command::FoundMesh).
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
    pub const CATALOG_FORMAT: u32 = 8;
}

/// How commands are applied.
///
/// Two programs that apply a command differently must not be in one mesh: their catalogs would part. So a change of
/// `apply` is a new *level*. A program has all levels up to its own, and applies as the catalog's level says. The level
/// is raised by a command, when every node has said that its program has it; from that position of the log on, all
/// nodes apply as the new level does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The level that commands are applied at.
    pub current: u32,
    /// The highest level of each node's program, by the node's number.
    pub nodes: BTreeMap<u64, u32>,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            current: 1,
            nodes: BTreeMap::new(),
        }
    }
}

/// Which of several catalogs of one mesh this is, and whether a part of it is known to be lost.
///
/// A mesh has one catalog, until an administrator goes on without a majority of its nodes (`node rescue`), without all
/// of them (`catalog-rebuild`), or without the lost part of the catalog (`catalog-accept-loss`). Each of these begins
/// an *era*. Nodes of an earlier era that still run, or come back, must neither acknowledge nor delete anything beside
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogPast {
    /// The era. Positions of different eras cannot be compared.
    pub era: u32,
    /// A random number of the era, 0 in the first one: two nodes that were both rescued have begun the same era, and
    /// different ones.
    pub branch: u64,
    /// The loss that was found and is not given up yet.
    pub loss: Option<CatalogLoss>,
    /// Repositories whose objects have not been compared with the catalog since the era began: the lost part of the
    /// catalog may have deleted objects that the catalog believes to be there.
    pub uncompared: BTreeSet<RepoKey>,
    /// The repositories among them whose archives have not been looked through for WAL that the catalog does not know:
    /// until then of no WAL it is said that it was never archived.
    pub unlisted: BTreeSet<RepoKey>,
}

/// A repository holds the proof that the catalog has been farther than it is: all copies of it are old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogLoss {
    /// Where the proof was found.
    pub repo: RepoKey,
    /// The node that found it.
    pub node: NodeName,
    /// The node that has said that another catalog has taken over; then no repository has shown it.
    pub told_by: Option<NodeName>,
    /// The position that the catalog had when the proof was written.
    pub position: LogIndex,
    /// The era of that position.
    pub era: u32,
    /// The branch of that era.
    pub branch: u64,
    /// The lowest generation that the catalog assigned then.
    pub floor: Generation,
    /// When it was written, in seconds since the Unix epoch, by the clock of its writer.
    pub written: i64,
    /// The position of the catalog when the proof was found.
    pub found_at: LogIndex,
}
