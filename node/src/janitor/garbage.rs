//! Deletes objects without a reference: objects of deleted stanzas, replaced generations, condemned chunks.
//!
//! Invariant 5: the catalog decides by log position which object is deleted: an object goes only when every session
//! that began before it became garbage has ended. It is deleted first and forgotten afterwards; after a crash between
//! the two it is only deleted again. Only the leader deletes, page by page, each after a majority has confirmed that it
//! leads. The steps of a page are in [`collector`]; this module has a node's deletions.
//!
//! If a repository does not let an object go (object lock; `delete=n`), the object is set aside in the catalog as a
//! mark: its name is not used again, `info` counts it, and it is not tried all the time. Where the credentials may
//! delete, the leader tries again every hour, since locks run out.

pub(crate) mod collector;

use crate::janitor::Janitor;
use crate::links::{Lane, Recipient};
use crate::repositories::RepositoryRoute;
use collector::{Deletion, Ground, ask_for_kept_of, collect};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{CollectGarbage, Collected, Failure};
use pgmesh_raft::store::StateDb;
use pgmesh_raft::{CatalogError, Command, GarbageKey, Lead, NodeName, View};
use pgmesh_storage::{ObjectName, RepoKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often the leader asks a repository to delete the objects that it keeps.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// How long a caller waits for the leader to collect; the leader goes on in the background.
const COLLECTION_LIMIT: Duration = Duration::from_secs(60);

/// When each repository was last asked to delete the objects that it keeps, and up to which object.
#[derive(Default)]
pub struct AskedKept(Mutex<BTreeMap<RepoKey, (Instant, Option<GarbageKey>)>>);

impl AskedKept {
    /// Where to go on with a repository that may be asked now; none where it was asked a while ago.
    fn due(&self, repo: RepoKey, now: Instant) -> Option<Option<GarbageKey>> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get(&repo) {
            None => Some(None),
            Some((at, after)) => (now.saturating_duration_since(*at) >= ASK_AGAIN_AFTER).then(|| after.clone()),
        }
    }

    fn asked(&self, repo: RepoKey, now: Instant, after: Option<GarbageKey>) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(repo, (now, after));
    }

    /// The repository has just refused a deletion: there is no hurry.
    fn refused(&self, repo: RepoKey, now: Instant) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.entry(repo).or_insert((now, None));
    }
}

impl Janitor {
    /// Deletes the garbage that may be deleted now, if this node leads; else nothing.
    pub async fn collect_garbage(&self) -> Result<Collected, Failure> {
        let Ok(_one_at_a_time) = self.collecting.try_lock() else {
            return Ok(Collected::default());
        };
        let collected = collect(self).await?;
        if self.catalog.is_leader() {
            self.ask_for_kept().await?;
        }
        Ok(collected)
    }

    /// Has the leader delete the garbage that may be deleted now, for a caller who waits for it. If the leader does not
    /// answer, nothing is lost: it collects by itself all the time.
    pub(crate) async fn collect_garbage_anywhere(&self) -> Collected {
        let outcome = match self.leader_name() {
            Some(leader) if leader != self.name => {
                let leader = Recipient::Named(leader);
                let asked = self.links.call(&leader, Lane::Data, &CollectGarbage, COLLECTION_LIMIT);
                asked.await.map_err(|error| chain(&error))
            }
            _ => self.collect_garbage().await.map_err(|failure| failure.to_string()),
        };
        outcome.unwrap_or_else(|error| {
            tracing::info!(error, "garbage is left to the leader");
            Collected::default()
        })
    }

    fn leader_name(&self) -> Option<NodeName> {
        let leader = self.catalog.leader()?;
        let nodes = self.catalog.view().nodes().ok()?;
        let found = nodes.into_iter().find(|(_, record)| record.node_id == leader);
        found.map(|(name, _)| name)
    }

    /// Whether it is of use to ask a repository to delete an object.
    fn may_delete(&self, place: &RepositoryRoute) -> bool {
        let record = self.catalog.view().repository(place.key()).ok().flatten();
        let says_no = record.is_some_and(|record| never_deletes(&record.definition));
        let finds_no = matches!(place, RepositoryRoute::Here(slot) if !slot.may_delete());
        !says_no && !finds_no
    }

    /// Asks repositories to delete the objects that they have kept so far.
    async fn ask_for_kept(&self) -> Result<(), Failure> {
        let view = self.catalog.view();
        for (repo, _) in view.repositories()? {
            if view.counters(repo)?.kept == 0 {
                continue;
            }
            let may = self
                .repositories
                .place(repo)
                .is_ok_and(|place| self.may_delete(&place) && place.admits());
            let now = Instant::now();
            if let Some(after) = self.asked_kept.due(repo, now).filter(|_| may) {
                let asked = ask_for_kept_of(self, repo, after).await?;
                // If an object failed for the moment, the repository is asked again with the next collection, not in an
                // hour.
                if !asked.is_open {
                    self.asked_kept.asked(repo, now, asked.after);
                }
            }
        }
        Ok(())
    }
}

impl Ground for Janitor {
    type Tables = Arc<StateDb>;
    type Lead = Lead;

    fn view(&self) -> View {
        self.catalog.view()
    }

    async fn confirm_lead(&self) -> Result<Option<Lead>, Failure> {
        match self.catalog.confirm_lead().await {
            // In a doubted catalog, objects that it does not know any more may be needed.
            Ok(_) if !self.may_forget() => Ok(None),
            Ok(lead) => Ok(Some(lead)),
            Err(CatalogError::NotLeader { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, lead: &Lead, key: &GarbageKey, name: &ObjectName) -> Deletion {
        // The parts of a file from the last one down, each with a patience of its own: together they may take longer
        // than one request may, and would never come to an end.
        for object in name.objects().into_iter().rev() {
            match self.delete_one(lead, key, &object).await {
                Deletion::Deleted => {}
                fate => return fate,
            }
        }
        Deletion::Deleted
    }

    async fn propose(&self, command: Command) -> Result<(), Failure> {
        self.catalog.propose(self.actor(), command).await?;
        Ok(())
    }
}

impl Janitor {
    /// Deletes one object of garbage, unless this node does not lead any more.
    async fn delete_one(&self, lead: &Lead, key: &GarbageKey, name: &ObjectName) -> Deletion {
        let repo = key.repo;
        let Ok(place) = self.repositories.place(repo) else {
            return Deletion::Stays;
        };
        if !self.may_delete(&place) {
            return Deletion::Kept;
        }
        if !lead.holds() || !place.admits() {
            return Deletion::Stays;
        }
        if let RepositoryRoute::Here(slot) = &place
            && !self.is_ours(slot)
        {
            return Deletion::Stays;
        }
        // A request to delete has ended, or is given up, before a rescued node counts on the object (`stock.rs`).
        let deleting = place.delete(lead, name, key.generation);
        let Ok(deleted) = tokio::time::timeout(self.settings.fence_timeout, deleting).await else {
            return Deletion::Stays;
        };
        match deleted {
            Ok(()) => Deletion::Deleted,
            Err(error) if error.is_retained() => {
                tracing::debug!(%repo, why = %chain(&error), "an object that is not needed any more is kept");
                self.asked_kept.refused(repo, Instant::now());
                Deletion::Kept
            }
            Err(error) => {
                tracing::warn!(%repo, error = %chain(&error), "an object that is not needed any more cannot be deleted");
                Deletion::Stays
            }
        }
    }
}

/// `delete=n`: the credentials cannot delete, and no node tries.
pub(crate) fn never_deletes(definition: &BTreeMap<String, String>) -> bool {
    definition.get("delete").is_some_and(|value| value == "n")
}

#[cfg(test)]
mod race;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_raft::ObjectRef;
    use pgmesh_storage::{Digest, Generation};

    /// Many objects are deleted under one confirmation, and another node may lead before the last of them.
    #[tokio::test(flavor = "multi_thread")]
    #[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    async fn a_node_that_has_lost_the_lead_deletes_nothing_more() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup("20260101-000000F").await.unwrap();
        let first = client.put_chunk(begun.session, &[7; 900]).await.unwrap();
        let second = client.put_chunk(begun.session, &[8; 900]).await.unwrap();
        let lead = site.node.catalog.confirm_lead().await.unwrap();
        let delete = async |digest| {
            let key = GarbageKey {
                object: ObjectRef::Chunk(digest),
                repo: RepoKey::new(1).unwrap(),
                generation: Generation::FIRST,
            };
            let name = ObjectName::Chunk(digest);
            Ground::delete(&*site.node.janitor, &lead, &key, &name).await
        };
        assert!(matches!(delete(first).await, Deletion::Deleted));
        assert!(!site.has_file(first));
        site.node.catalog.shutdown().await.unwrap();
        site.wait("the end of its lead", |_| !lead.holds()).await;
        assert!(matches!(delete(second).await, Deletion::Stays));
        assert!(site.has_file(second));
    }

    #[test]
    fn a_repository_that_keeps_things_is_asked_at_most_once_an_hour_and_from_where_it_was_left() {
        let (kept, repo, start) = (AskedKept::default(), RepoKey::new(3).unwrap(), Instant::now());
        assert_eq!(kept.due(repo, start), Some(None));
        kept.refused(repo, start);
        assert_eq!(kept.due(repo, start + ASK_AGAIN_AFTER / 2), None);
        let later = start + ASK_AGAIN_AFTER;
        assert_eq!(kept.due(repo, later), Some(None));
        let last = GarbageKey {
            object: ObjectRef::Chunk(Digest([7; 32])),
            repo,
            generation: Generation::FIRST,
        };
        kept.asked(repo, later, Some(last.clone()));
        kept.refused(repo, later);
        assert_eq!(kept.due(repo, later + ASK_AGAIN_AFTER / 2), None);
        assert_eq!(kept.due(repo, later + ASK_AGAIN_AFTER), Some(Some(last)));
        assert_eq!(
            kept.due(RepoKey::new(4).unwrap(), later),
            Some(None),
            "others are not concerned"
        );
    }

    #[test]
    fn only_what_says_so_never_deletes() {
        let says = |value: &str| never_deletes(&BTreeMap::from([("delete".to_owned(), value.to_owned())]));
        assert_eq!(
            (says("n"), says("y"), never_deletes(&BTreeMap::new())),
            (true, false, false)
        );
    }
}
