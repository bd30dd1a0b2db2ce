//! A node that speaks to a peer says its number and its address, so that a node that has been away learns of the
//! present leader. It also says how far its state goes and which entries of the log it has left out, so that nodes
//! whose states differ do not work together.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::BasicNode;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;

use crate::peers::{PeerError, PeerReply, PeerRequest, Peers};
use crate::store::StateStore;

/// A way to peers that marks each message.
pub(super) struct Marked {
    peers: Arc<dyn Peers>,
    state: StateStore,
    node_id: u64,
    /// The members of the group, once consensus runs.
    group: OnceLock<watch::Receiver<RaftServerMetrics<u64, BasicNode>>>,
}

impl Marked {
    pub(super) fn new(peers: Arc<dyn Peers>, state: StateStore, node_id: u64) -> Self {
        Self {
            peers,
            state,
            node_id,
            group: OnceLock::new(),
        }
    }

    /// Consensus runs, and knows the members of the group.
    pub(super) fn follow(&self, group: watch::Receiver<RaftServerMetrics<u64, BasicNode>>) {
        let _ = self.group.set(group);
    }

    fn address(&self) -> Option<String> {
        let metrics = self.group.get()?.borrow();
        let node = metrics.membership_config.membership().get_node(&self.node_id);
        node.map(|node| node.addr.clone())
    }
}

impl Peers for Marked {
    fn call(
        &self,
        node_id: u64,
        address: String,
        mut request: PeerRequest,
        limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        request.from = self.node_id;
        request.address = self.address().unwrap_or_default();
        request.mark = self.state.mark();
        self.peers.call(node_id, address, request, limit)
    }
}
