//! What the leader could not delete, for `status` and `doctor`.

use pgmesh_protocol::{StuckRelease, now_unix};
use pgmesh_raft::limits::{self, shortened};
use std::sync::{Mutex, PoisonError};

/// Since when objects that have expired are not deleted, and why.
#[derive(Debug, Default)]
pub(super) struct Stuck(Mutex<Option<StuckRelease>>);

impl Stuck {
    /// The outcome of a round: none where nothing is left. The first round that left something says since when.
    pub(super) fn set(&self, why: Option<String>) {
        let mut stuck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = stuck.as_ref().map_or_else(now_unix, |stuck| stuck.since);
        *stuck = why.map(|why| StuckRelease {
            since,
            why: shortened(why, limits::REASON),
        });
    }

    pub(super) fn get(&self) -> Option<StuckRelease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
