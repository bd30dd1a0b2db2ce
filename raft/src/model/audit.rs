//! The audit trail.

use serde::{Deserialize, Serialize};

/// One line of the audit trail; its key is the log position of the command that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it was proposed, in seconds since the Unix epoch.
    pub at: i64,
    /// Who asked for it.
    pub actor: String,
    /// What was done, in words.
    pub what: String,
}
