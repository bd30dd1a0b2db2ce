//! The command that commits a backup.

use pgmesh_storage::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::model::{BackupRecord, Claim, LogIndex, SessionId};

/// A backup to commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The session that holds the stanza's backup lock.
    pub session: SessionId,
    /// The label that it was begun with.
    pub label: BackupLabel,
    /// The backup. Where its manifest is, the claims say; replicas that are given here do not count.
    pub record: BackupRecord,
    /// Where its manifest is durable.
    pub claims: Vec<Claim>,
    /// `backup-ack`: how many good replicas of the manifest there must be.
    pub ack: u16,
    /// [`View::applied`](crate::View::applied) of the linearizable view that all chunks were checked in.
    pub checked_at: LogIndex,
}
