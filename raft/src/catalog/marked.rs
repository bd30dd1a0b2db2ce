//! Whoever speaks to a peer says how far its state goes and what of the log it has left out, so that nodes whose states
//! differ do not work together.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::peers::{PeerError, PeerReply, PeerRequest, Peers};
use crate::store::StateStore;

/// A way to peers that marks what it carries.
pub(super) struct Marked {
    peers: Arc<dyn Peers>,
    state: StateStore,
}

impl Marked {
    pub(super) fn new(peers: Arc<dyn Peers>, state: StateStore) -> Self {
        Self { peers, state }
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
        request.mark = self.state.mark();
        self.peers.call(node_id, address, request, limit)
    }
}
