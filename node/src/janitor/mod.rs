//! The janitor: what a node does by itself for the repositories. It pays debts, deletes what nothing refers to, looks
//! for objects that the catalog does not know, fills new repositories and says what is lost.
//!
//! - `repair` and `repair_parts` pay debts; `repair_lease` decides whose and when, `pace` limits how fast.
//! - `sweep` finds chunks that nothing refers to, `orphans` objects that the catalog does not know, `garbage` deletes.
//! - `backfilling` owes a new repository what is known already; `stock` compares repositories with the catalog after an
//!   era has begun.
//! - `lost` says what nobody can repair, and what that costs.

mod backfilling;
pub(crate) mod garbage;
mod lost;
mod orphans;
mod pace;
pub(crate) mod repair;
mod repair_lease;
mod repair_parts;
mod stock;
pub(crate) mod sweep;

use crate::archive::Archive;
use crate::core::Core;
use crate::reads::Reads;
use garbage::AskedKept;
use lost::LostSearch;
use pace::Pace;
use std::ops::Deref;
use std::sync::Arc;

/// Keeps the repositories in order.
pub struct Janitor {
    core: Arc<Core>,
    reads: Arc<Reads>,
    archive: Arc<Archive>,
    /// When what a repository keeps was last asked for, and how far.
    asked_kept: AskedKept,
    /// Held while garbage is collected: one at a time.
    collecting: tokio::sync::Mutex<()>,
    /// Held while a repository is looked through for unknown objects: one at a time, as each holds a filter of the
    /// names of all known chunks.
    finding_orphans: tokio::sync::Mutex<()>,
    lost: LostSearch,
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
        }
    }
}
