//! The audit trail.

use serde::{Deserialize, Serialize};

/// One line of the audit trail; its key is the log position of the command that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it was proposed, in seconds since the Unix epoch.
    pub at: i64,
    /// The actor.
    pub actor: String,
    /// The event, in words.
    pub what: String,
}
