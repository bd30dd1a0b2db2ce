//! A PostgreSQL server, as its own files describe it.

use pgmesh_postgres::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

/// The server that a file comes from, as its own files describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The fingerprint of its data directory.
    pub instance: String,
    /// The fingerprint of the machine. Empty where it has none.
    pub machine: String,
    /// The address that its push came from. A node that is asked sets it.
    pub address: String,
    /// Whether it is in recovery (pg_control's state).
    pub in_recovery: bool,
    /// The timeline that it is on.
    pub timeline: TimelineId,
    /// How that came about: the lines of its history file, oldest first. Empty for timeline 1, and where the file is
    /// missing.
    pub branches: Vec<Branch>,
}

impl Server {
    /// So many seconds after a machine's last push the same data directory may push from another machine: at least, and
    /// at most.
    pub const MOVED_AFTER: (i64, i64) = (120, 900);

    /// Whether the server writes this timeline.
    #[must_use]
    pub fn writes(&self, timeline: TimelineId) -> bool {
        !self.in_recovery && self.timeline == timeline
    }
}

/// One line of a history file: the timeline left `parent` at `switch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The timeline that was left.
    pub parent: TimelineId,
    /// Where it was left.
    pub switch: Lsn,
}
