//! The WAL archive of a node: what is pushed and what is asked for, whose WAL is refused, what is missing.
//! `services/archive.rs` takes single files, `services/push_parts.rs` long ones, `services/get_segment.rs` hands out.

use crate::core::Core;
use crate::reads::Reads;
use crate::services::Mapping;
use crate::stuck::Refused;
use crate::wal_holes::WalRuns;
use std::ops::Deref;
use std::sync::Arc;

/// Takes WAL into the archive and out of it.
pub struct Archive {
    core: Arc<Core>,
    pub(crate) reads: Arc<Reads>,
    /// What bounds the making of change maps.
    pub(crate) mapping: Mapping,
    /// The hosts whose WAL is refused.
    pub(crate) refused: Refused,
    pub(crate) wal_runs: Arc<WalRuns>,
}

impl Deref for Archive {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Archive {
    pub(crate) fn new(core: Arc<Core>, reads: Arc<Reads>) -> Self {
        Self {
            core,
            reads,
            mapping: Mapping::default(),
            refused: Refused::default(),
            wal_runs: Arc::default(),
        }
    }
}
