//! Copies of long files that clients doubt: each is read to its end, one file at a time, and at most once at a time.

use pgmesh_raft::ObjectRef;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Files that are doubted at once. A client's doubt needs no proof, and a file is long, so there is a limit.
pub(crate) const DOUBTED_AT_ONCE: usize = 16;

/// The files whose copies are being read, or wait for it.
#[derive(Default)]
pub(crate) struct Doubts {
    files: Mutex<BTreeMap<ObjectRef, watch::Receiver<()>>>,
    /// Held by the task that reads.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// A doubt that has come to its end.
pub(crate) struct Doubted(pub(crate) watch::Receiver<()>);

impl Doubted {
    /// Waits for it.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        while self.0.changed().await.is_ok() {}
    }
}

impl Doubts {
    pub(crate) fn files(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, watch::Receiver<()>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every doubt from its end.
    #[cfg(test)]
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        self.files().len()
    }
}
