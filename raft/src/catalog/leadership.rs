//! The leader, as this node sees it.

use openraft::{Raft, ServerState};
use pgmesh_runtime::tasks;
use tokio::sync::watch;

use crate::consensus::TypeConfig;

/// A watch on the leader's number. The task behind it ends with the catalog.
pub(super) fn watch_leader(node_id: u64, raft: &Raft<TypeConfig>) -> watch::Receiver<Option<u64>> {
    let mut metrics = raft.server_metrics();
    let (sender, leader) = watch::channel(known_leader(&metrics.borrow_and_update(), node_id));
    tasks::spawn("watching the leader", async move {
        let mut term = 0;
        loop {
            let (new, new_term, is_learner) = {
                let metrics = metrics.borrow_and_update();
                let term = metrics.vote.leader_id().term;
                (
                    known_leader(&metrics, node_id),
                    term,
                    metrics.state == ServerState::Learner,
                )
            };
            let old = *sender.borrow();
            if new != old || (new.is_some() && new_term != term) {
                match new {
                    Some(leader) if leader == node_id => {
                        tracing::info!(term = new_term, "this node leads the mesh");
                    }
                    Some(leader) => tracing::info!(leader, term = new_term, "the mesh has a leader"),
                    None if is_learner => tracing::debug!("no leader is known"),
                    None => tracing::warn!(before = old, "the mesh has no leader"),
                }
                term = new_term;
                sender.send_replace(new);
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    leader
}

/// A node that has won an election leads when it acts as the leader, not before.
fn known_leader(metrics: &openraft::metrics::RaftServerMetrics<u64, openraft::BasicNode>, node_id: u64) -> Option<u64> {
    metrics
        .current_leader
        .filter(|leader| *leader != node_id || metrics.state == ServerState::Leader)
}
