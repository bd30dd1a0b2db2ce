//! Paying debts: replicas that should exist and do not are made from one that does.
//!
//! A debt is in the catalog from the moment its object is committed, so a crash forgets none. Each node pays the debts of
//! the repositories that it hosts: nobody else can, so hosting is the lease. This worker goes through the debts of every
//! repository that is well, reads each object elsewhere, checks it, and writes it where it is owed, no faster than
//! `repair-rate` allows.

use crate::failure::chain;
use crate::refs;
use crate::repositories::{Slot, write_one};
use crate::{Failure, Node, code};
use pgmesh_raft::command::NewReplica;
use pgmesh_raft::{Debt, ObjectRef};
use pgmesh_storage::Payload;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the worker looks without being woken: repositories come back by themselves.
const PERIOD: Duration = Duration::from_secs(2);
/// Debts looked at between two looks at the repository's health.
const PAGE: usize = 64;
/// Debts younger than this are left to the write that is probably still under way.
const YOUNG_SECONDS: i64 = 2;

/// Wakes the worker.
#[derive(Clone, Default)]
pub struct Repair {
    notify: Arc<Notify>,
}

impl Repair {
    /// There may be something to do.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

impl Node {
    /// Pays debts until the node stops.
    pub async fn keep_repairing(self: Arc<Self>) {
        loop {
            let woken = self.repair.notify.notified();
            if tokio::time::timeout(PERIOD, woken).await.is_ok() {
                // Let the writes that woke us come to their own end.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            for slot in self.repositories.slots() {
                if slot.admits()
                    && let Err(failure) = self.pay_all(slot).await
                {
                    tracing::warn!(repo = %slot.key, error = %failure, "debts stay");
                }
            }
            // One node decides what is deleted, and any node deletes: see `garbage`.
            if self.catalog.is_leader()
                && let Err(failure) = self.collect_garbage().await
            {
                tracing::warn!(error = %failure, "garbage stays");
            }
        }
    }

    /// One pass over a repository's debts; ends early when the repository fails.
    async fn pay_all(&self, slot: &Slot) -> Result<(), Failure> {
        let mut after: Option<ObjectRef> = None;
        loop {
            let page = self
                .catalog
                .view()
                .debts(slot.key, after.as_ref())
                .take(PAGE)
                .collect::<Result<Vec<(ObjectRef, Debt)>, _>>()?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (object, debt) in page {
                // A clock that was set back makes no debt young for ever.
                if (0..YOUNG_SECONDS).contains(&(crate::now_unix() - debt.since)) {
                    continue;
                }
                if !slot.admits() {
                    return Ok(());
                }
                if let Err(failure) = self.pay(slot, &object, &debt).await {
                    tracing::debug!(repo = %slot.key, %object, error = %failure, "a debt stays");
                }
            }
        }
    }

    /// Where no good replica is left: a withdrawn one may be readable after all (a bad cable, a file put back by hand).
    async fn read_withdrawn(&self, known: &refs::Known) -> Option<Payload> {
        for (repo, _) in self.catalog.view().repositories().ok()? {
            let Ok(place) = self.repositories.place(repo) else {
                continue;
            };
            if place.admits()
                && let Ok(payload) = place.get_any_generation(&known.name).await
            {
                return Some(payload);
            }
        }
        None
    }

    /// Makes one replica.
    async fn pay(&self, slot: &Slot, object: &ObjectRef, debt: &Debt) -> Result<(), Failure> {
        // Before anything is held that others may wait for.
        let Some(known) = refs::known(&self.catalog.view(), object)? else {
            return Ok(());
        };
        self.pace.wait(slot.key, known.stored_length).await;
        // Under a session, so that nothing it reads or writes is deleted meanwhile (invariant 5).
        let session = self.sessions.get().await?;
        let view = self.catalog.view();
        let Some(known) = refs::known(&view, object)? else {
            return Ok(());
        };
        let _held = self.budget.hold(known.stored_length * 2).await;
        let payload = match self.read_known(object, &known, &[slot.key]).await {
            Ok(source) => source.payload,
            Err(failure) => self.read_withdrawn(&known).await.ok_or(failure)?,
        };
        let suite = self.suite();
        // Invariant 6: a replica is made only of bytes that have been checked to the digest.
        let (payload, checked) = tokio::task::spawn_blocking(move || {
            let checked = payload.open(suite).map(drop);
            (payload, checked)
        })
        .await
        .map_err(|error| Failure::new(code::ASSERT, "checking an object").because(error))?;
        checked.map_err(|error| Failure::new(code::CHECKSUM, format!("{object} is damaged")).because(error))?;
        let written = write_one(slot, &known.name, debt.generation, &payload)
            .await
            .map_err(|error| {
                Failure::new(code::REPO_INVALID, format!("{object} cannot be written")).because(chain(&error))
            })?;
        tracing::info!(repo = %slot.key, %object, reason = ?debt.reason, "replica made");
        let replica = NewReplica {
            object: object.clone(),
            digest: known.digest,
            replica: written.replica,
        };
        self.committer.replica(session, replica).await;
        Ok(())
    }
}
