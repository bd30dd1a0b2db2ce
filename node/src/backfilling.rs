//! Owing a new repository what was known before it was registered.
//!
//! Until every step of that is done, nobody can tell what the repository lacks. So the leader takes the steps and repeats what
//! fails, also after a restart, and the next leader goes on where the last one was: the catalog has the cursor.
//!
//! The same holds for a replacement or a removal whose node was stopped before it came to its end: until then the repository
//! takes no replicas.

use crate::Node;
use pgmesh_raft::RepositoryChange;
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the leader looks.
const PERIOD: Duration = Duration::from_secs(2);

impl Node {
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
                // Whoever began a change goes on with it, and is told what it comes to, unless it is gone.
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
