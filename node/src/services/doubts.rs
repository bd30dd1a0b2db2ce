//! Copies of long files that clients doubt: each is read to its end, one file at a time, and at most once at a time.

use crate::reads::Reads;
use crate::refs::Known;
use pgmesh_raft::ObjectRef;
use pgmesh_runtime::tasks;
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Files that are doubted at once. What a client says is only its word, and a file is long.
const MOST: usize = 16;

/// The files whose copies are being read, or wait for it.
#[derive(Default)]
pub(crate) struct Doubts {
    files: Mutex<BTreeMap<ObjectRef, watch::Receiver<()>>>,
    /// Held by the one that reads.
    turn: tokio::sync::Mutex<()>,
}

/// A doubt that has come to its end.
pub(crate) struct Doubted(watch::Receiver<()>);

impl Doubted {
    /// Waits for it.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        while self.0.changed().await.is_ok() {}
    }
}

impl Doubts {
    fn files(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, watch::Receiver<()>>> {
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

/// Takes a file from the list, however its doubt ends.
struct UnderWay {
    reads: Arc<Reads>,
    object: ObjectRef,
    /// Dropped when it is over.
    _sender: watch::Sender<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.reads.doubts.files().remove(&self.object);
    }
}

impl Reads {
    /// Has copies of a file [doubted](Self::doubt), beside whoever asked: whoever asks again, because the answer came
    /// too late, finds it under way. None when too many are.
    pub(crate) fn doubt_once(
        self: &Arc<Self>,
        object: &ObjectRef,
        known: &Known,
        repos: &[RepoKey],
    ) -> Option<Doubted> {
        let mut files = self.doubts.files();
        if let Some(under_way) = files.get(object) {
            return Some(Doubted(under_way.clone()));
        }
        if files.len() >= MOST {
            return None;
        }
        let (sender, receiver) = watch::channel(());
        files.insert(object.clone(), receiver.clone());
        drop(files);
        let under_way = UnderWay {
            reads: self.clone(),
            object: object.clone(),
            _sender: sender,
        };
        let (known, repos) = (known.clone(), repos.to_vec());
        tasks::spawn("looking into a doubt", async move {
            let reads = &under_way.reads;
            let _turn = reads.doubts.turn.lock().await;
            reads.doubt(&under_way.object, &known, &repos).await;
        });
        Some(Doubted(receiver))
    }
}
