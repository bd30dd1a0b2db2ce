//! The commands of a scan for orphans.

use pgmesh_storage::RepoKey;
use serde::{Deserialize, Serialize};

use crate::model::{LogIndex, Orphan, OrphanTally, PlacedIdentity};

/// The findings of a scan of a repository since its last command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteOrphans {
    /// The repository.
    pub repo: RepoKey,
    /// The repository that was listed.
    pub identity: PlacedIdentity,
    /// [`View::applied`](crate::View::applied) of a linearizable view from before the scan.
    pub began: LogIndex,
    /// The folder that it goes on with; none when it has come to its end.
    pub next: Option<u16>,
    /// All that it has found so far.
    pub found: OrphanTally,
    /// Objects that the catalog does not know, each with its bytes.
    pub sighted: Vec<(String, u64)>,
    /// Paths that were noted before, and that are known by now, or not there any more.
    pub gone: Vec<String>,
}

/// Objects that two scans have seen and that the catalog does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardOrphans {
    /// The repository.
    pub repo: RepoKey,
    /// The repository that was listed.
    pub identity: PlacedIdentity,
    /// [`View::applied`](crate::View::applied) of a linearizable view from before the second scan.
    pub began: LogIndex,
    /// The objects. The node that has listed them vouches for the names in their paths.
    pub orphans: Vec<Orphan>,
}
