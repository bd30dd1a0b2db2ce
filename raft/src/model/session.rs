//! Sessions: a client or a node holds references that the catalog does not see yet.

use std::fmt;

use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};

use super::{LogIndex, NodeName, RequestId};

/// A session's identifier: the log position at which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub LogIndex);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionKind {
    /// Takes a backup.
    Backup,
    /// Restores one.
    Restore,
    /// Reads and checks repositories.
    Verify,
    /// Makes replicas that are owed.
    Repair,
}

/// An open session. While it is open nothing that was condemned after it began is deleted (invariant 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its purpose.
    pub kind: SessionKind,
    /// The stanza it is about, if any.
    pub stanza: Option<StanzaName>,
    /// The holder, in words for the user.
    pub holder: String,
    /// The node that keeps it alive and ends it when its holder is gone.
    pub node: NodeName,
    /// When it was opened, in seconds since the Unix epoch.
    pub opened_at: i64,
    /// The secret by which the holder goes on with the session by way of another node; `None` where it cannot.
    pub resume_key: Option<[u8; 16]>,
    /// The request that opened it. A node that waits for the answer to a request knows by it that the session is its
    /// own.
    pub request: RequestId,
    /// The log position at which its node took it over: the session's opening, or its last adoption. A node ends a
    /// session under the lease that it found; if the session has been adopted since, the ending has no effect.
    pub lease: LogIndex,
    /// How often its holder has moved, by the holder's own count: moves that arrive in another order are told apart by
    /// it.
    pub turn: u64,
}
