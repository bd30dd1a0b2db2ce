//! The parts of a node share this core: its name and settings, the catalog, the repositories, the ways to other nodes,
//! and the bells that wake workers. No part reaches into another; state of more than one part is here.

use crate::budget::Budget;
use crate::committer::Committer;
use crate::failed_joins::FailedJoins;
use crate::links::Links;
use crate::mesh_file::MeshFile;
use crate::read_log::ReadLog;
use crate::repositories::Repositories;
use crate::sessions::{RunningTime, SharedSession};
use crate::settings::{Layout, NodeSettings};
use crate::supervisor::Supervisor;
use pgmesh_raft::{Catalog, LogIndex, NodeName};
use pgmesh_storage::DigestSuite;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Wakes the repair.
#[derive(Clone, Default)]
pub struct RepairBell(Arc<Notify>);

impl RepairBell {
    /// Wakes the repair: there may be a debt to pay.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Returns when there is.
    pub(crate) async fn rung(&self) {
        self.0.notified().await;
    }
}

/// The state that all parts of a node share. The parts dereference to it, so that they use it as their own.
pub struct Core {
    pub(crate) settings: NodeSettings,
    pub(crate) layout: Layout,
    pub(crate) name: NodeName,
    pub(crate) mesh: MeshFile,
    /// This node in the audit trail.
    pub(crate) actor: String,
    pub(crate) catalog: Catalog,
    pub(crate) repositories: Repositories,
    pub(crate) links: Arc<Links>,
    pub(crate) budget: Budget,
    /// How facts get into the catalog together.
    pub(crate) committer: Committer,
    /// The session of this node's own work.
    pub(crate) sessions: Arc<SharedSession>,
    /// The clock of sessions.
    pub(crate) running: RunningTime,
    /// Wakes the repair.
    pub(crate) repair: RepairBell,
    /// Wakes the worker that tells the catalog where this node is and which repositories it reaches.
    pub(crate) announcing: Notify,
    pub(crate) started: Instant,
    /// Keeps the workers running, and counts their unexpected ends.
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) failed_joins: FailedJoins,
    /// The reads of clients, for the audit trail.
    pub(crate) read_log: Arc<ReadLog>,
    /// The position of the last revocation that this node has applied.
    pub(crate) revocations: watch::Sender<LogIndex>,
}

impl Core {
    /// Whether this node alone is the whole Raft group.
    pub(crate) fn is_alone(&self) -> bool {
        self.catalog.status().voters == [self.mesh.node_id]
    }

    /// How digests are made in this mesh.
    pub fn suite(&self) -> DigestSuite {
        self.mesh.suite
    }

    /// The mesh's identity.
    pub fn mesh_id(&self) -> &str {
        &self.mesh.mesh_id
    }

    /// This node in the audit trail.
    pub(crate) fn actor(&self) -> &str {
        &self.actor
    }
}
