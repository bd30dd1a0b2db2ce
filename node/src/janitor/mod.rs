//! The janitor: a node's work for the repositories that no client asks for. It pays debts, deletes objects without a
//! reference, looks for objects that the catalog does not know, fills new repositories and reports lost objects.
//!
//! - `repair` and `repair_parts` pay debts; `repair_lease` decides which and when, `pace` limits how fast.
//! - `release` withdraws the chunks that only expired backups needed, `sweep` finds chunks that no backup uses,
//!   `orphans` finds unknown objects, `garbage` deletes.
//! - `backfilling` owes a new repository the objects that are known already; `stock` compares repositories with the
//!   catalog after an era has begun.
//! - `lost` reports objects that no node can repair, and the backups that need them.

mod backfilling;
pub(crate) mod garbage;
mod listed;
mod lost;
mod orphans;
mod pace;
mod release;
pub(crate) mod repair;
mod repair_lease;
mod repair_parts;
mod stock;
mod stuck;
pub(crate) mod sweep;

use crate::archive::Archive;
use crate::core::Core;
use crate::reads::Reads;
use garbage::AskedKept;
use lost::LostSearch;
use pace::Pace;
use std::ops::Deref;
use std::sync::Arc;
pub(crate) use sweep::Part;

/// Keeps the repositories in order.
pub struct Janitor {
    core: Arc<Core>,
    reads: Arc<Reads>,
    archive: Arc<Archive>,
    /// When each repository was last asked to delete the objects that it keeps, and up to which object.
    asked_kept: AskedKept,
    /// Held while garbage is collected: one at a time.
    collecting: tokio::sync::Mutex<()>,
    /// Held while a repository is looked through for unknown objects: one at a time, as each holds a filter of the
    /// names of all known chunks.
    finding_orphans: tokio::sync::Mutex<()>,
    lost: LostSearch,
    listed: listed::Listed,
    stuck: stuck::Stuck,
    pace: Pace,
}

impl Deref for Janitor {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Janitor {
    pub(crate) fn new(core: Arc<Core>, reads: Arc<Reads>, archive: Arc<Archive>) -> Self {
        Self {
            pace: Pace::new(core.settings.repair_rate),
            core,
            reads,
            archive,
            asked_kept: AskedKept::default(),
            collecting: tokio::sync::Mutex::default(),
            finding_orphans: tokio::sync::Mutex::default(),
            lost: LostSearch::default(),
            listed: listed::Listed::default(),
            stuck: stuck::Stuck::default(),
        }
    }
}
