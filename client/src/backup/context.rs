//! The facts that are fixed when a backup begins; all its stages read them.

use super::settings::BackupSettings;
use super::standby::Standby;
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::pg::{OpenCluster, timeline};
use pgmesh_postgres::TimelineId;
use pgmesh_protocol::BackupBegun;
use pgmesh_storage::BackupType;
use std::sync::Arc;

/// The facts that are fixed when a backup begins.
pub struct Context {
    /// The way to the mesh.
    pub mesh: Arc<Mesh>,
    /// The options.
    pub settings: BackupSettings,
    /// The cluster; the primary.
    pub cluster: OpenCluster,
    /// The standby whose files are read, if not the primary's are.
    pub standby: Option<Arc<Standby>>,
    /// The mesh's answer to the request for a session.
    pub begun: BackupBegun,
    /// The backup's label.
    pub label: pgmesh_storage::BackupLabel,
    /// The backup's type.
    pub kind: BackupType,
    /// The backup that it is compared with.
    pub prior: Option<pgmesh_storage::BackupLabel>,
    /// The program that shows the progress.
    pub caller: Arc<dyn Caller>,
}

impl Context {
    /// The timeline that the cluster is on.
    pub fn timeline(&self) -> TimelineId {
        timeline(&self.cluster.control)
    }

    /// Whether the primary's data directory is on this host.
    pub fn primary_is_here(&self) -> bool {
        self.standby.as_ref().is_none_or(|standby| standby.primary_is_here())
    }
}
