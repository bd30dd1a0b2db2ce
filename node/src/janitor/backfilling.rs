//! Owing a new repository the objects that were known before it was registered.
//!
//! Until every step of that is done, no node can tell which objects the repository lacks. So the leader takes the steps
//! and repeats a step that fails, also after a restart. The next leader goes on at the cursor, which is in the catalog.
//!
//! The same holds for a replacement or a removal whose node was stopped before it came to its end: until then the
//! repository takes no replicas.

use crate::janitor::Janitor;
use pgmesh_raft::RepositoryChange;
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the leader looks.
const PERIOD: Duration = Duration::from_secs(2);

impl Janitor {
    /// Takes the steps while this node leads, until it stops.
    pub async fn keep_backfilling(self: Arc<Self>) {
        let mut changes: BTreeMap<RepoKey, RepositoryChange> = BTreeMap::new();
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.catalog.is_leader() {
                continue;
            }
            let repositories = self.catalog.view().repositories().unwrap_or_default();
            for (repo, record) in repositories {
                // The node that began a change goes on with it, and tells the client its outcome, unless the node is
                // gone.
                let is_stuck = record.change.is_some() && record.change.as_ref() == changes.get(&repo);
                let is_changing = record.change.is_some();
                match record.change {
                    Some(change) => changes.insert(repo, change),
                    None => changes.remove(&repo),
                };
                if !is_stuck && (is_changing || record.backfill.is_none()) {
                    continue;
                }
                match self.finish_backfill(repo).await {
                    Ok(()) => self.repair.wake(),
                    Err(failure) => {
                        tracing::warn!(%repo, error = %failure, "the walk over the catalog for this repository is not finished");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::TestNode;
    use pgmesh_raft::Command;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_leader_owes_what_a_repository_lacks_whose_node_is_away() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let repo = RepoKey::new(2).unwrap();
        site.propose(Command::RegisterRepository {
            repo,
            definition: BTreeMap::new(),
            host: Some("beta".parse().unwrap()),
            uuid: "elsewhere".to_owned(),
            wrapped_keys: Vec::new(),
            node: "beta".parse().unwrap(),
        })
        .await;
        site.wait("the backfill", |node| {
            let view = node.catalog.view();
            let record = view.repository(repo).unwrap().unwrap();
            record.backfill.is_none() && view.counters(repo).unwrap().debts >= 2
        })
        .await;
    }
}
