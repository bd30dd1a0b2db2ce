//! How the tasks of a write tell its plan that they have come to an end.

use super::slot::SlotError;
use super::written::Written;
use pgmesh_storage::RepoKey;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// The outcome of a write to one repository.
pub(super) type End = (RepoKey, Result<Written, SlotError>);

/// Tells the plan how each write of a task has ended. A write that does not say so itself, because its task has
/// panicked, has failed: else the plan would wait for it for ever.
pub(super) struct Ends {
    ends: mpsc::UnboundedSender<End>,
    under_way: BTreeSet<RepoKey>,
}

impl Ends {
    /// A task under way that writes to these repositories.
    pub(super) fn new(ends: mpsc::UnboundedSender<End>, under_way: impl IntoIterator<Item = RepoKey>) -> Self {
        let under_way = under_way.into_iter().collect();
        Self { ends, under_way }
    }

    /// The write to this repository has ended.
    pub(super) fn end(&mut self, repo: RepoKey, result: Result<Written, SlotError>) {
        if self.under_way.remove(&repo) {
            // The caller may have gone: the debt tells the repair.
            let _ = self.ends.send((repo, result));
        }
    }

    /// Whether the plan has gone: nobody waits for an end any more.
    pub(super) fn is_closed(&self) -> bool {
        self.ends.is_closed()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        while let Some(repo) = self.under_way.first().copied() {
            let why = "the write was given up".to_owned();
            self.end(repo, Err(SlotError::Away { repo, why }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(repo: RepoKey) -> Result<Written, SlotError> {
        let limit = std::time::Duration::from_secs(1);
        Err(SlotError::Silent { repo, limit })
    }

    #[tokio::test]
    async fn a_write_whose_task_panics_has_failed() {
        let [first, second] = [1, 2].map(|number| RepoKey::new(number).unwrap());
        let (sender, mut ends) = mpsc::unbounded_channel();
        let mut task = Ends::new(sender.clone(), [first, second]);
        let ended = tokio::spawn(async move {
            task.end(first, silent(first));
            panic!("a defect");
        });
        assert!(ended.await.unwrap_err().is_panic());
        let told = [ends.recv().await.unwrap(), ends.recv().await.unwrap()];
        assert!(matches!(&told[0], (repo, Err(SlotError::Silent { .. })) if *repo == first));
        assert!(matches!(&told[1], (repo, Err(SlotError::Away { .. })) if *repo == second));
        assert!(ends.try_recv().is_err(), "each end is told once");
    }
}
