//! The requests for a choice of a backup.

use super::Restoring;
use pgmesh_postgres::{SystemId, TimelineId};
use pgmesh_storage::{BackupType, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

/// Asks for the backup that a new one is to be compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoosePrior {
    /// The stanza.
    pub stanza: StanzaName,
    /// The type that the new one is to have.
    pub kind: BackupType,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The timeline that it is on.
    pub timeline: TimelineId,
}

/// Asks for the backup that a restore needs. Reply: [`Chosen`](super::Chosen).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChooseBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// Which backup, and where the restore is to lead.
    pub asked: Restoring,
    /// Only backups that this repository has.
    pub repo: Option<RepoKey>,
}
