//! Taking stock: after an era of the catalog has begun, each repository is compared with the catalog.
//!
//! The lost part of the catalog may have deleted objects that this catalog believes to be there. A backup that counted
//! on one of them would not be whole (invariant 4). And it may have acknowledged WAL that this catalog has never heard
//! of: "never archived" would end a recovery early (invariant 7). So until the archives of every repository have been
//! looked through, no WAL is said to be never archived, and unknown WAL is taken up. And until all objects have been
//! looked for, no backup is taken and no object is deleted; a missing object is withdrawn, and owed. WAL is pushed and
//! read meanwhile: a push writes an object of its own, and each object that is read is checked.
//!
//! A node of an earlier era may still be about to delete an object when it sees the mark of this era. So the look
//! begins when that node can delete no more, twice `fence-timeout` after the mark is durable: once until the node must
//! have looked, and once for the requests that it has sent before.

use crate::awake::Awake;
use crate::janitor::Janitor;
use crate::rebuild::adopt_unknown_wal;
use crate::repositories::{Slot, Walk};
use pgmesh_protocol::Failure;
use pgmesh_raft::{CatalogPast, Command};
use std::sync::Arc;
use std::time::Duration;

/// How often a node checks whether a repository is to be looked through, and the first pause after a failure.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the other ways to a shared repository leave it to the leader.
const LEAVE_TO_LEADER: Duration = Duration::from_secs(600);

/// How far a repository is.
struct Progress {
    era: (u32, u64),
    /// When its mark was durable.
    marked: Awake,
    /// Where the comparison is: it goes on there when a request has failed.
    walk: Walk,
    missing: u64,
    there: u64,
    /// How often in a row a step has failed.
    failed: u32,
}

/// After so many attempts, objects that the repository does not hand out count as lost, if it answers at all.
const TOLERATED: u32 = 6;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Janitor {
    /// Looks repositories through until the node stops. A repository that hangs holds up no other.
    pub async fn keep_taking_stock(self: Arc<Self>) {
        self.repositories
            .keep_with_each(&self.supervisor, "stock", |slot| self.keep_taking_stock_of(slot))
            .await;
    }

    async fn keep_taking_stock_of(&self, slot: &Slot) {
        let mut progress: Option<Progress> = None;
        loop {
            let failed = progress.as_ref().map_or(0, |progress| progress.failed);
            tokio::time::sleep((PERIOD * 2_u32.pow(failed.min(5))).min(LONGEST_PAUSE)).await;
            let Ok(past) = self.catalog.view().past() else { continue };
            if past.loss.is_some() || !past.uncompared.contains(&slot.key) {
                progress = None;
                continue;
            }
            progress = progress.filter(|progress| progress.era == (past.era, past.branch));
            let taken = self.take_stock(slot, &past, &mut progress).await;
            if let Some(progress) = &mut progress {
                progress.failed = if taken.is_ok() {
                    0
                } else {
                    progress.failed.saturating_add(1)
                };
            }
            if let Err(failure) = taken {
                tracing::warn!(repo = %slot.key, error = %failure, "this repository cannot be looked through, and is tried again");
            }
        }
    }

    /// A step: the mark of the era, or the comparison when it is time.
    async fn take_stock(
        &self,
        slot: &Slot,
        past: &CatalogPast,
        progress: &mut Option<Progress>,
    ) -> Result<(), Failure> {
        let (repo, Some(repository)) = (slot.key, slot.repository()) else {
            return Ok(());
        };
        let Some(progress) = progress else {
            self.mark_now(slot, &repository).await?;
            tracing::info!(%repo, era = past.era, "an era has begun: this repository is looked through soon");
            *progress = Some(Progress {
                era: (past.era, past.branch),
                marked: Awake::now(),
                walk: Walk::default(),
                missing: 0,
                there: 0,
                failed: 0,
            });
            return Ok(());
        };
        let mut patience = 2 * self.settings.fence_timeout;
        if slot.settings.is_shared() && !self.catalog.is_leader() {
            patience += LEAVE_TO_LEADER;
        }
        if progress.marked.elapsed() < patience {
            return Ok(());
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        // A repository that is being removed, or whose disk was lost, takes nothing up.
        if view.repository(repo)?.is_none_or(|record| record.change.is_some()) {
            return Ok(());
        }
        let (era, tolerate) = (past.era, progress.failed >= TOLERATED);
        let compared = |all| Command::Compared { repo, era, all };
        // First, and soon done: recoveries wait for it.
        if past.unlisted.contains(&repo) {
            let adopted = adopt_unknown_wal(self, slot, &repository, tolerate).await?;
            tracing::info!(%repo, adopted, "this repository was looked through for WAL that the catalog did not know");
            self.catalog.propose(self.actor(), compared(false)).await?;
        }
        loop {
            let page = self.compare_page(&view, slot, &repository, &mut progress.walk, tolerate);
            let Some((missing, there)) = page.await? else { break };
            progress.failed = 0;
            progress.missing += missing;
            progress.there += there;
        }
        let (missing, there) = (progress.missing, progress.there);
        tracing::info!(%repo, missing, there, "this repository was compared with the catalog");
        self.catalog.propose(self.actor(), compared(true)).await?;
        self.repair.wake();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_storage::{Generation, RepoKey};
    use std::collections::BTreeSet;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_lost_part_of_the_catalog_has_deleted_is_found_before_a_backup_counts_on_it() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let repo = RepoKey::new(1).unwrap();
        let folder = site.repository().join("stanza/main");
        assert!(folder.exists());
        let begin = Command::BeginEra {
            era: 1,
            branch: 7,
            floor: Generation(100),
            last_number: 0,
            compare: BTreeSet::from([repo]),
            reason: "test".to_owned(),
        };
        site.propose(begin).await;
        let refused = client.begin_backup("20260101-000000F").await.err().unwrap();
        assert!(
            refused.to_string().contains("not compared with the catalog yet"),
            "{refused}"
        );
        assert!(!site.node.may_forget());
        // It is deleted late, by a node of the old mesh that has not looked yet.
        tokio::time::sleep(site.node.settings.fence_timeout).await;
        std::fs::remove_dir_all(&folder).unwrap();
        let past = |node: &crate::Node| node.catalog.view().past().unwrap();
        site.wait("the comparison", |node| past(node).uncompared.is_empty())
            .await;
        assert!(
            site.node.catalog.view().lost(None).count() > 0,
            "it is known that they are missing"
        );
        client.begin_backup("20260101-000000F").await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_has_not_looked_for_long_neither_acknowledges_nor_deletes() {
        let site = TestNode::start(SessionTimes::default()).await;
        let slot = site.node.own_slot(RepoKey::new(1).unwrap()).unwrap().clone();
        site.wait("it to be open", |_| slot.repository().is_some()).await;
        assert!(site.node.is_ours(&slot) && site.node.has_looked_lately());
        let before = Awake::before(site.node.settings.fence_timeout);
        slot.set_looked(before, Vec::new());
        assert!(!site.node.is_ours(&slot) && !site.node.has_looked_lately());
        assert!(site.node.refuse_if_taken_over().is_err());
        // It looks again by itself.
        site.wait("it to have looked", |node| node.has_looked_lately()).await;
    }
}
