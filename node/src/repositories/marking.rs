//! A node's knowledge of the marks in a repository, without asking it.

use pgmesh_storage::{Anchor, Mark};
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two marks of a repository.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// The same where marks cannot be deleted again: object lock, or `delete=n`.
pub(super) const INTERVAL_WHERE_KEPT: Duration = Duration::from_secs(3600);

/// How far the catalog had come, as a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) anchor: Anchor,
    /// When the mark was written, Unix seconds.
    pub(crate) written: i64,
}

/// A node's memory of the marks of a repository.
#[derive(Debug, Default)]
pub struct Marking {
    /// The newest mark's number, as this node has written it or seen it there.
    pub(super) newest: u64,
    /// Since when that is so.
    pub(super) since: Option<Instant>,
    /// How many objects this process had written before it.
    pub(super) written: u64,
    /// Whether marks cannot be deleted there.
    pub(super) are_kept: bool,
    /// The marks that are there as far as this node knows, and how many it has written since it listed them. Other
    /// nodes may write marks, too: the next listing finds them.
    pub(super) there: Option<(Vec<Mark>, u32)>,
}

impl Marking {
    /// Whether a mark should be written now.
    pub(super) fn is_due(&self, written: u64, now: Instant) -> bool {
        let interval = if self.are_kept { INTERVAL_WHERE_KEPT } else { INTERVAL };
        written > self.written && self.since.is_none_or(|since| now.duration_since(since) >= interval)
    }
}
