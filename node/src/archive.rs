//! The WAL archive of a node: files that are pushed and asked for, servers whose WAL is refused, missing segments.
//! `services/archive.rs` takes single files, `services/push_parts.rs` long ones, `services/get_segment.rs` hands out.

use crate::core::Core;
use crate::reads::Reads;
use crate::stuck::Refused;
use crate::wal_holes::WalRuns;
use pgmesh_protocol::StuckArchiver;
use pgmesh_raft::LastPush;
use pgmesh_storage::StanzaName;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Change maps that are made at once.
const MAPS_AT_ONCE: usize = 2;

/// Takes WAL into the archive and out of it.
pub struct Archive {
    core: Arc<Core>,
    pub(crate) reads: Arc<Reads>,
    /// Change maps that may be made at once.
    pub(crate) maps_at_once: Arc<Semaphore>,
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
            maps_at_once: Arc::new(Semaphore::new(MAPS_AT_ONCE)),
            refused: Refused::default(),
            wal_runs: Arc::default(),
        }
    }

    /// The hosts whose WAL this node refuses now, without hosts that have pushed to another node since.
    pub(crate) fn stuck_archivers(&self) -> Vec<StuckArchiver> {
        let view = self.catalog.view();
        let goes_on = |stuck: &StuckArchiver, position: u64| {
            let stanza: StanzaName = stuck.stanza.parse().ok()?;
            let record = view.stanza(&stanza).ok()??;
            let mut pushes = view.last_pushes(&stanza, record.current()?.id);
            let is_its = |push: &LastPush| (&push.instance, &push.machine) == (&stuck.instance, &stuck.machine);
            pushes
                .any(|push| push.is_ok_and(|push| is_its(&push) && push.pushed.0 > position))
                .then_some(())
        };
        let stuck = self.refused.list().into_iter();
        let stuck = stuck.filter(|(stuck, position)| goes_on(stuck, *position).is_none());
        stuck.map(|(stuck, _)| stuck).collect()
    }
}
