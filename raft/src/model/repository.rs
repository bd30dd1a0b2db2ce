//! Repositories.

use std::collections::BTreeMap;

use pgmesh_storage::WrappedKey;
use serde::{Deserialize, Serialize};

use super::{LogIndex, NodeName, ObjectRef, PlacedIdentity};

/// One repository as registered in the mesh. It holds no secret: master keys are wrapped (invariant 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// Its options that are no secrets (`type`, `path`, `region`, `bucket`, `cipher-type`, …), without the `repoN-`
    /// prefix.
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
    /// The newest mark that was written there; see [`RepositoryMark`].
    pub mark: Option<RepositoryMark>,
    /// When it came to its place: its registration, or the last change of its host or definition. See
    /// [`PlacedIdentity`].
    pub placed: LogIndex,
    /// It belonged to the mesh before the catalog was rebuilt from another repository: its objects are found under the
    /// names that they have there, instead of being uploaded again (see decision 18).
    pub was_of_lost_catalog: bool,
}

impl RepositoryRecord {
    /// Whether a claim of a replica in the repository of this identity counts: it is the registered one, at its place,
    /// and no walk over the catalog withdraws its replicas at present.
    #[must_use]
    pub fn takes_replicas(&self, identity: &PlacedIdentity) -> bool {
        self.change.is_none() && self.is_at(identity)
    }

    /// Whether this is the repository, at the place where it is now.
    #[must_use]
    pub fn is_at(&self, identity: &PlacedIdentity) -> bool {
        self.uuid == identity.uuid && self.placed == identity.placed
    }

    /// The identity that a claim has if it is made now.
    #[must_use]
    pub fn identity(&self) -> PlacedIdentity {
        PlacedIdentity {
            uuid: self.uuid.clone(),
            placed: self.placed,
        }
    }

    /// Whether it is being forgotten.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.change
            .as_ref()
            .is_some_and(|change| change.kind == ChangeKind::Retiring)
    }
}

/// A small object that a node writes into a repository, under a new name each time, at most once a minute and only
/// after other objects were written there. An older copy of the repository (put back from a backup, or the wrong
/// snapshot of its volume) does not have the newest one, so it is told from the repository itself when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryMark {
    /// One more each time.
    pub number: u64,
    /// A random number: if two copies of the repository were both written to, they have different marks of one number.
    pub nonce: u64,
    /// When it was written, in seconds since the Unix epoch.
    pub at: i64,
}

/// A walk over the catalog that withdraws a repository's replicas. A step that is repeated goes on where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryChange {
    /// Its purpose.
    pub kind: ChangeKind,
    /// Which of the tables of the walk it has come to.
    pub table: u8,
    /// The key of the last row that was looked at there.
    pub after: Option<Vec<u8>>,
    /// How many objects have lost their last replica so far.
    pub orphans: u64,
    /// Whether an object's last replica may be withdrawn, too.
    pub forced: bool,
}

/// Why a repository's replicas are withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The repository is being forgotten.
    Retiring,
    /// Its disk was replaced by an empty one: the lost replicas are owed anew.
    Replacing,
}

/// How far [`Command::Backfill`](crate::Command::Backfill) has come in owing all known objects to a new repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backfill {
    /// The last object that was looked at; objects are walked in the order of [`ObjectRef`].
    pub after: Option<ObjectRef>,
}
