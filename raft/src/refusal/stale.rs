//! Objects under names that are given up.

use pgmesh_storage::{Digest, Generation};
use serde::{Deserialize, Serialize};

/// An object uploaded under a generation that is condemned or garbage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleGeneration {
    /// The object's digest.
    pub digest: Digest,
    /// The lowest generation that may be used.
    pub generation: Generation,
}
