//! Which chunks a commit that is under way must look at again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LogIndex;

/// When replicas of chunks were last withdrawn, and how many digests table `Withdrawn` has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawnMarks {
    /// Number of good replicas that a withdrawal has left → the position of the last such withdrawal. A chunk that is
    /// condemned or suspected is left with none. The map has at most one entry more than there are repositories.
    pub left: BTreeMap<u16, LogIndex>,
    /// Digests in table `Withdrawn`.
    pub digests: u64,
    /// Withdrawals up to this position are not in table `Withdrawn` any more.
    pub dropped: LogIndex,
}

impl WithdrawnMarks {
    /// The last withdrawal that has left a chunk with fewer than `ack` good replicas.
    #[must_use]
    pub fn below(&self, ack: u16) -> LogIndex {
        let below = self.left.range(..ack.max(1)).map(|(_, last)| *last);
        below.max().unwrap_or_default()
    }
}
