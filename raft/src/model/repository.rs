//! Repositories.

use std::collections::BTreeMap;

use pgmesh_storage::WrappedKey;
use serde::{Deserialize, Serialize};

use super::{NodeName, ObjectRef};

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
}

/// How far [`Command::Backfill`](crate::Command::Backfill) has come in owing all known objects to a new repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backfill {
    /// The last object that was looked at; objects are walked in the order of [`ObjectRef`].
    pub after: Option<ObjectRef>,
}
