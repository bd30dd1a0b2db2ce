//! Paying debts: if a repository should have a replica and has none, it is made from a replica elsewhere.
//!
//! A debt is in the catalog from the moment its object is committed, so a crash forgets none. Each node pays the debts
//! of the repositories that it hosts: no other node can, so hosting is the lease. The debts of shared repositories are
//! paid by the Raft leader, by itself or through a node that reaches the repository: leading is the lease. This worker
//! goes through the debts of every repository that is well, each for itself. It reads each object elsewhere, checks it,
//! and writes it to the repository that owes it, no faster than `repair-rate` allows.
//!
//! When the leader changes, the old one and the new one may pay the same debt: both put the same content under the same
//! name, where the second finds what the first has written (invariant 2), and the catalog settles the debt once.

use super::repair_lease::{Hosting, has_lease, is_due, looked_at};
use crate::janitor::Janitor;
use crate::refs;
use crate::repositories::RepositoryRoute;
use futures::stream::{self, StreamExt};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix};
use pgmesh_raft::apply::Base;
use pgmesh_raft::command::NewReplica;
use pgmesh_raft::{Debt, ObjectRef, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Payload, RepoKey};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often the worker looks without being woken: repositories come back by themselves.
const PERIOD: Duration = Duration::from_secs(2);
/// Debts looked at between two looks at the repository's health.
const PAGE: usize = 256;
/// Debts of one repository that are paid at once, where all repositories are directories.
const AT_ONCE: usize = 4;
/// The same where a bucket takes part: at 100 ms for each request, 16 at once are 80 objects a second.
const AT_ONCE_WITH_BUCKETS: usize = 16;

/// Repositories that are worked on: a silent repository holds up no other.
type Busy = Arc<Mutex<BTreeSet<RepoKey>>>;

/// Marks a repository as worked on, for as long as it lives.
struct Work {
    busy: Busy,
    repo: RepoKey,
}

impl Work {
    /// None if a task already works on it.
    fn begin(busy: &Busy, repo: RepoKey) -> Option<Self> {
        let mut keys = busy.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(repo).then(|| Self {
            busy: busy.clone(),
            repo,
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut keys = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.repo);
    }
}

impl Janitor {
    /// Pays debts until the node stops.
    pub async fn keep_repairing(self: Arc<Self>) {
        let busy = Busy::default();
        // When this worker ends, the tasks are dropped, and the copies under way with them.
        let mut tasks = JoinSet::new();
        loop {
            let woken = self.repair.rung();
            if tokio::time::timeout(PERIOD, woken).await.is_ok() {
                // Let the writes that woke us come to their own end.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    // The log has its text.
                    self.supervisor.note_panic("repair", "a repair or a deletion panicked");
                }
            }
            for repo in self.debtors() {
                if let Some(work) = Work::begin(&busy, repo) {
                    let node = self.clone();
                    tasks.spawn(tasks::named("repairing", async move {
                        // All of it, not its number alone.
                        let work = work;
                        if let Err(failure) = node.pay_all(work.repo).await {
                            tracing::warn!(repo = %work.repo, error = %failure, "debts stay");
                        }
                    }));
                }
            }
            // The leader decides which objects are deleted, and any node deletes them: see `garbage`.
            if self.catalog.is_leader() {
                let node = self.clone();
                tasks.spawn(tasks::named("repairing", async move {
                    if let Err(failure) = node.collect_garbage().await {
                        tracing::warn!(error = %failure, "garbage stays");
                    }
                }));
            }
        }
    }

    /// The repositories whose debts this node pays now and that owe something.
    fn debtors(&self) -> Vec<RepoKey> {
        let view = self.catalog.view();
        let all = || {
            view.repositories()
                .unwrap_or_default()
                .into_iter()
                .map(|(key, _)| key)
                .collect()
        };
        let keys = looked_at(self.repositories.keys(), all, self.catalog.is_leader());
        let owes = |key: &RepoKey| view.debts(*key, None).next().is_some();
        keys.into_iter()
            .filter(|key| self.payer(*key).is_some() && owes(key))
            .collect()
    }

    /// The way to a repository whose debts are this node's to pay, if it should be written to now.
    fn payer(&self, repo: RepoKey) -> Option<RepositoryRoute> {
        let record = self.catalog.view().repository(repo).ok().flatten()?;
        let place = self.repositories.place(repo).ok()?;
        let hosting = match (record.host, &place) {
            (Some(_), RepositoryRoute::Here(_)) => Hosting::Here,
            (Some(_), RepositoryRoute::There(_)) => Hosting::Elsewhere,
            (None, _) => Hosting::Shared,
        };
        (has_lease(hosting, self.catalog.is_leader()) && place.admits()).then_some(place)
    }

    /// One pass over a repository's debts; ends early when the repository fails, or is not this node's to pay any more.
    async fn pay_all(&self, repo: RepoKey) -> Result<(), Failure> {
        let mut after: Option<ObjectRef> = None;
        let repositories = self.catalog.view().repositories()?;
        let has_bucket = repositories.iter().any(|(_, record)| record.host.is_none());
        let at_once = if has_bucket { AT_ONCE_WITH_BUCKETS } else { AT_ONCE };
        loop {
            let page = self
                .catalog
                .view()
                .debts(repo, after.as_ref())
                .take(PAGE)
                .collect::<Result<Vec<(ObjectRef, Debt)>, _>>()?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let due = page.into_iter().filter(|(_, debt)| is_due(debt.since, now_unix()));
            stream::iter(due)
                .for_each_concurrent(at_once, |(object, _)| async move {
                    let Some(place) = self.payer(repo) else { return };
                    if let Err(failure) = self.pay(&place, &object).await {
                        tracing::debug!(%repo, %object, error = %failure, "a debt stays");
                    }
                })
                .await;
            if self.payer(repo).is_none() {
                return Ok(());
            }
        }
    }

    /// Where no good replica is left of a change map: it follows from the segment that it is of.
    async fn map_anew(&self, object: &ObjectRef, known: &refs::Known) -> Option<Payload> {
        let map = self.archive.map_of_archived(object).await?;
        (map.digest == known.digest).then_some(map)
    }

    /// Makes one replica.
    async fn pay(&self, place: &RepositoryRoute, object: &ObjectRef) -> Result<(), Failure> {
        // Before anything is held that others may wait for.
        let Some(known) = refs::known(&self.catalog.view(), object)? else {
            return Ok(());
        };
        let repo = place.key();
        self.pace.wait(repo, known.stored_length).await;
        // Under a session, so that nothing it reads or writes is deleted meanwhile (invariant 5).
        let session = self.sessions.get().await?;
        let view = self.catalog.view();
        // Others may have paid it while this one waited for its turn.
        let Some((known, debt)) = owed(&view.snapshot(), repo, object)? else {
            return Ok(());
        };
        if let Some(of) = known.parts() {
            let claim = self.copy_file(place, object, &known, of, debt.generation).await?;
            tracing::info!(%repo, %object, reason = ?debt.reason, "replica made, part by part");
            let (object, digest) = (object.clone(), known.digest);
            let replica = NewReplica { object, digest, claim };
            self.committer.replica(session, replica).await;
            return Ok(());
        }
        let held = self.budget.hold(known.stored_length * 2).await;
        let (payload, from) = match self.reads.read_known(object, &known, &[repo]).await {
            Ok(source) => (source.payload, Some(source.repo)),
            Err(failure) => match self.reads.read_withdrawn(&known).await {
                Some((payload, _)) => (payload, None),
                None => {
                    // Making a map takes more memory; a task that waits for memory must not hold some.
                    drop(held);
                    (self.map_anew(object, &known).await.ok_or(failure)?, None)
                }
            },
        };
        let suite = self.suite();
        // Invariant 6: a replica is made only of bytes that have been checked to the digest.
        let (payload, checked) = tasks::blocking("checking an object", move || {
            let checked = payload.open(suite).map(drop);
            (payload, checked)
        })
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, "checking an object").because(error))?;
        if let Err(error) = checked {
            // It is withdrawn, so that the next attempt reads another one.
            self.reads.doubt(object, &known, from.as_slice()).await;
            return Err(Failure::new(ExitCode::Checksum, format!("{object} is damaged")).because(error));
        }
        let written = place
            .put(&known.name, debt.generation, &payload)
            .await
            .map_err(|error| {
                Failure::new(ExitCode::RepoInvalid, format!("{object} cannot be written")).because(chain(&error))
            })?;
        tracing::info!(%repo, %object, reason = ?debt.reason, "replica made");
        let replica = NewReplica {
            object: object.clone(),
            digest: known.digest,
            claim: written.claim,
        };
        self.committer.replica(session, replica).await;
        Ok(())
    }
}

/// The object to write and its debt, if it is still owed. Ask under a session: the name that an older look at the debt
/// has shown may be deleted by now (decision 18).
pub(crate) fn owed<B: Base>(
    view: &View<B>,
    repo: RepoKey,
    object: &ObjectRef,
) -> Result<Option<(refs::Known, Debt)>, Failure> {
    Ok(refs::known(view, object)?.zip(view.debt(repo, object)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_at_a_time_over_a_repository() {
        let (busy, repo) = (Busy::default(), RepoKey::new(2).unwrap());
        let work = Work::begin(&busy, repo);
        assert!(work.is_some());
        assert!(Work::begin(&busy, repo).is_none());
        assert!(Work::begin(&busy, RepoKey::new(3).unwrap()).is_some());
        drop(work);
        assert!(Work::begin(&busy, repo).is_some());
    }
}
