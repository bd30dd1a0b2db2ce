//! Sums of the pages that a backup read and stored.

use super::job::Known;
use crate::activity::Activity;
use pgmesh_postgres::{Entry, Lsn, page};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many pages a warning of missed ones names.
const NAMED: u64 = 20;

/// Sums over all readers.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes read.
    read: AtomicU64,
    /// Pages stored because they are new or changed.
    changed: AtomicU64,
    /// Pages stored though they did not change, so that restores stay quick.
    rewritten: AtomicU64,
    /// Changed pages that the change map missed, although their last change is in the map's WAL.
    missed: AtomicU64,
    /// The WAL that the change map is of, where it is put to the test.
    tested: Option<Range<Lsn>>,
    /// Each read is a sign of life.
    activity: Arc<Activity>,
}

/// The sums in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Bytes read.
    pub read: u64,
    /// Pages stored because they are new or changed.
    pub changed: u64,
    /// Pages stored though they did not change.
    pub rewritten: u64,
    /// Pages that a change map has missed.
    pub missed: u64,
}

impl Tally {
    /// All sums are 0. `tested`: the WAL whose change map is to be compared with the changed pages.
    pub fn new(tested: Option<Range<Lsn>>, activity: Arc<Activity>) -> Self {
        Self {
            tested,
            activity,
            ..Self::default()
        }
    }

    /// Counts bytes that were read.
    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.activity.mark();
    }

    /// Counts pages that were stored.
    pub fn stored(&self, changed: u64, rewritten: u64) {
        self.changed.fetch_add(changed, Ordering::Relaxed);
        self.rewritten.fetch_add(rewritten, Ordering::Relaxed);
    }

    /// Checks whether the change map should have named a changed page: its position lies in the map's WAL. Other pages
    /// changed later, or by hint bits alone.
    pub fn compare(&self, entry: &Entry, known: &Known, page: u32, content: &[u8]) {
        let (Some(tested), Some(named)) = (&self.tested, &known.named) else {
            return;
        };
        let Ok(content) = content.try_into() else { return };
        let is_old = known.table.pages.len() > page as usize;
        if is_old && !named.contains(page) && tested.contains(&page::lsn(content)) {
            let before = self.missed.fetch_add(1, Ordering::Relaxed);
            if before < NAMED {
                tracing::warn!(
                    "page {page} of {} changed, and the change map does not name it",
                    entry.path
                );
            }
        }
    }

    /// The sums.
    pub fn sums(&self) -> Sums {
        Sums {
            read: self.read.load(Ordering::Relaxed),
            changed: self.changed.load(Ordering::Relaxed),
            rewritten: self.rewritten.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }
}
