//! The parts of a node share this core: its name and settings, the catalog, the repositories, the ways to other nodes,
//! and the bells that wake workers. No part reaches into another; state of more than one part is here.

use crate::budget::Budget;
use crate::committer::Committer;
use crate::links::{Lane, LinkError, Links, Recipient};
use crate::mesh_file::MeshFile;
use crate::repositories::Repositories;
use crate::sessions::{RunningTime, SharedSession};
use crate::settings::{Layout, NodeSettings};
use crate::supervisor::Supervisor;
use pgmesh_protocol::{GetNodeStatus, NodeStatus};
use pgmesh_raft::{Catalog, NodeName};
use pgmesh_storage::DigestSuite;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long another node may take to say how it does.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(2);

/// How often waits for memory are looked at.
const LOOK: Duration = Duration::from_secs(1);

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
}

impl Core {
    /// Ends transfers of clients who hold much memory while others wait for long.
    pub(crate) async fn keep_sharing_memory(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.budget.end_overdue();
        }
    }

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

    /// Asks another node how it does: the way to find out whether it is there.
    pub(crate) async fn ask_node(&self, name: &NodeName) -> Result<NodeStatus, LinkError> {
        self.ask_within(name, ASK_LIMIT).await
    }

    /// The same within another limit.
    pub(crate) async fn ask_within(&self, name: &NodeName, limit: Duration) -> Result<NodeStatus, LinkError> {
        let whom = Recipient::Named(name.clone());
        self.links.call(&whom, Lane::Data, &GetNodeStatus, limit).await
    }
}
