//! `repo-sync`: a repository gets all objects that the others have, and the client is told the progress.

use crate::Node;
use crate::core::Core;
use crate::repositories::RepositoryRoute;
use crate::services::info::debt_info;
use pgmesh_protocol::{ExitCode, Failure, SyncEvent};
use pgmesh_raft::{Command, Reply};
use pgmesh_storage::RepoKey;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often the client is told the remaining debt.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a repository may take to be registered.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(5);
/// If the debt does not shrink for so many reports (a minute), the client is told why.
const STUCK_AFTER: u32 = 120;

impl Node {
    /// Tells how the debt of a repository goes down until none is left. The repair itself is its host's, and goes on
    /// whether anybody listens or not.
    pub(crate) async fn sync_repository(&self, repo: RepoKey, sink: mpsc::Sender<SyncEvent>) {
        if let Err(failure) = self.follow_debt(repo, &sink).await {
            // The client may have gone.
            let _ = sink.send(SyncEvent::Failed(failure)).await;
        }
    }

    async fn follow_debt(&self, repo: RepoKey, sink: &mpsc::Sender<SyncEvent>) -> Result<(), Failure> {
        self.wait_for_registration(repo).await?;
        self.finish_backfill(repo).await?;
        let before = self.catalog.view().counters(repo)?.objects;
        self.repair.wake();
        let mut last = u64::MAX;
        let mut stuck = 0;
        loop {
            let view = self.catalog.view();
            let debt = debt_info(&view, repo)?;
            if debt.objects == 0 {
                let objects = view.counters(repo)?.objects.saturating_sub(before);
                let _ = sink.send(SyncEvent::Done { objects }).await;
                return Ok(());
            }
            stuck = if debt.objects == last { stuck + 1 } else { 0 };
            last = debt.objects;
            if stuck > STUCK_AFTER {
                return Err(self.why_stuck(repo).await);
            }
            if sink.send(SyncEvent::Progress { debt }).await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// A node that has just been started with a new repository registers it a moment later.
    async fn wait_for_registration(&self, repo: RepoKey) -> Result<(), Failure> {
        let deadline = Instant::now() + REGISTRATION_LIMIT;
        loop {
            let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
            if view.repository(repo)?.is_some() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::from(pgmesh_raft::Refusal::UnknownRepository(repo)));
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn why_stuck(&self, repo: RepoKey) -> Failure {
        let failure = Failure::new(
            ExitCode::RepoInvalid,
            format!("what repo{repo} owes has not become less for a minute"),
        )
        .remedy("'pgmesh status' says what is wrong with it, or with those that it would be filled from; the repair goes on by itself");
        match self.repositories.place(repo) {
            Ok(RepositoryRoute::There(slot)) => match self.ask_node(&slot.host).await {
                Ok(_) => failure,
                Err(error) => failure.because(error),
            },
            Ok(RepositoryRoute::Here(_)) => failure,
            Err(why) => failure.because(why),
        }
    }
}

impl Core {
    /// Takes the steps of a backfill, by which the objects that were known before the repository was registered are
    /// owed to it, or the steps of a replacement or removal that is under way. Any node may take a step.
    pub(crate) async fn finish_backfill(&self, repo: RepoKey) -> Result<(), Failure> {
        while self
            .catalog
            .view()
            .repository(repo)?
            .is_some_and(|record| record.backfill.is_some() || record.change.is_some())
        {
            match self.catalog.propose(self.actor(), Command::Backfill { repo }).await? {
                Reply::Backfilled { more: true, .. } | Reply::Replacing { .. } | Reply::Retiring { more: true } => {}
                Reply::StillNeeded { object } => {
                    tracing::warn!(%repo, %object, "the repository is not removed: the object is nowhere else");
                }
                _ => break,
            }
        }
        Ok(())
    }
}
