//! Owing a new repository what was known before it was registered.
//!
//! Until every step of that is done, nobody can tell what the repository lacks. So the leader takes the steps and repeats what
//! fails, also after a restart, and the next leader goes on where the last one was: the catalog has the cursor.

use crate::Node;
use std::sync::Arc;
use std::time::Duration;

/// How often the leader looks.
const PERIOD: Duration = Duration::from_secs(2);

impl Node {
    /// Takes the steps while this node leads, until it stops.
    pub async fn keep_backfilling(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.catalog.is_leader() {
                continue;
            }
            let repositories = self.catalog.view().repositories().unwrap_or_default();
            for (repo, record) in repositories {
                if record.backfill.is_none() {
                    continue;
                }
                match self.finish_backfill(repo).await {
                    Ok(()) => self.repair.wake(),
                    Err(failure) => {
                        tracing::warn!(%repo, error = %failure, "what this repository owes of older objects is not known yet");
                    }
                }
            }
        }
    }
}
