//! Repositories.

use std::collections::BTreeMap;

use pgmesh_storage::WrappedKey;
use serde::{Deserialize, Serialize};

use super::{LogIndex, NodeName, ObjectRef};

/// One repository as registered in the mesh. It holds no secret: master keys are wrapped (invariant 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// Its options that are no secrets (`type`, `path`, `region`, `bucket`, `cipher-type`, …), without the `repoN-` prefix.
    pub definition: BTreeMap<String, String>,
    /// The one node that reaches it; `None` for a shared repository.
    pub host: Option<NodeName>,
    /// The identifier in its `pgmesh.repo` object.
    pub uuid: String,
    /// Its master keys, wrapped by its passphrase; empty without encryption.
    pub wrapped_keys: Vec<WrappedKey>,
    /// The node that registered it.
    pub registered_by: NodeName,
    /// Set until every object that was known before it was registered has been owed to it.
    pub backfill: Option<Backfill>,
    /// Set while its replicas are being withdrawn.
    pub change: Option<RepositoryChange>,
    /// When it was last replaced by an empty one: what was begun before may have been written to the one that was lost.
    pub replaced: LogIndex,
}

impl RepositoryRecord {
    /// Whether replicas in it count at present that were made by something that began then.
    #[must_use]
    pub fn takes_replicas(&self, begun: LogIndex) -> bool {
        self.change.is_none() && begun >= self.replaced
    }

    /// Whether it is being forgotten.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.change
            .as_ref()
            .is_some_and(|change| change.kind == ChangeKind::Retiring)
    }
}

/// A walk over the catalog that withdraws a repository's replicas. A step that is repeated goes on where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryChange {
    /// What it is for.
    pub kind: ChangeKind,
    /// Which of the tables of the walk it has come to.
    pub table: u8,
    /// The key of the last row that was looked at there.
    pub after: Option<Vec<u8>>,
    /// How many objects have lost their last replica so far.
    pub orphans: u64,
}

/// Why a repository's replicas are withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The repository is being forgotten.
    Retiring,
    /// Its disk was replaced by an empty one: what lay there is owed anew.
    Replacing,
}

/// How far [`Command::Backfill`](crate::Command::Backfill) has come in owing all known objects to a new repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backfill {
    /// The last object that was looked at; objects are walked in the order of [`ObjectRef`].
    pub after: Option<ObjectRef>,
}
