//! The Raft group's messages over the mesh's connections.

use crate::links::{CONSENSUS_LIMIT, Lane, Links, receive_at_most};
use futures::future::BoxFuture;
use pgmesh_protocol::Request;
use pgmesh_raft::peers::{PeerError, PeerReply, PeerRequest, Peers};
use pgmesh_storage::wire;
use std::sync::Arc;
use std::time::Duration;

/// Carries consensus, on connections of its own.
pub struct Consensus(pub Arc<Links>);

impl Peers for Consensus {
    fn call(
        &self,
        node_id: u64,
        address: String,
        request: PeerRequest,
        limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let links = self.0.clone();
        Box::pin(async move {
            let whom = links.whom(node_id, &address);
            let request = Request::Raft(wire::encode(&request).into());
            let work = async {
                let mut stream = links.ask(&whom, Lane::Consensus, &request, None).await?;
                receive_at_most(&mut stream, &whom, CONSENSUS_LIMIT).await
            };
            links
                .within(&whom, limit, work)
                .await
                .map_err(|error| PeerError::Unreachable {
                    node_id,
                    address,
                    reason: error.to_string(),
                })
        })
    }
}
