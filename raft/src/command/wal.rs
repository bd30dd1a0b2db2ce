//! The command that archives a WAL file.

use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_storage::{Digest, StanzaName};
use serde::{Deserialize, Serialize};

use super::ClaimedObject;
use crate::model::{Branch, LogIndex, Server};

/// Why a file is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The name that PostgreSQL gave it.
    pub of: WalFileName,
    /// The content that is archived under that name, and with which the file agrees as far as it must.
    pub compared: Option<Digest>,
}

/// A WAL file that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSegment {
    /// The stanza; the file belongs to its current database.
    pub stanza: StanzaName,
    /// The file.
    pub file: WalFileName,
    /// Its content, and where it was made durable.
    pub object: ClaimedObject,
    /// `archive-ack`: how many good replicas there must be (invariant 1).
    pub ack: u16,
    /// [`View::applied`](crate::View::applied) before the upload began.
    pub checked_at: LogIndex,
    /// The system identifier of the pushing cluster.
    pub system_id: SystemId,
    /// The server that pushes.
    pub server: Server,
    /// Why the file is set aside; `None` for files of the archive.
    pub aside: Option<Aside>,
    /// Of which content of its segment a change map was made; `None` for other files.
    pub mapped: Option<Digest>,
    /// The timeline in the segment's first page header; `None` for files that have none.
    pub header_timeline: Option<TimelineId>,
    /// The lines of a history file; empty for other files.
    pub branches: Vec<Branch>,
}
