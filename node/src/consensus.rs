//! The Raft group's messages over the mesh's connections.

use crate::links::{Lane, Links};
use futures::future::BoxFuture;
use pgmesh_protocol::CONSENSUS_LIMIT;
use pgmesh_protocol::failure::chain;
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
            let call = pgmesh_protocol::Consensus(wire::encode(&request).into());
            let answer = links.call(&whom, Lane::Consensus, &call, limit).await;
            let reply = answer.map_err(|error| error.to_string()).and_then(|answer| {
                wire::decode::<PeerReply>(&answer.0, CONSENSUS_LIMIT).map_err(|error| chain(&error))
            });
            reply.map_err(|reason| PeerError::Unreachable {
                node_id,
                address,
                reason,
            })
        })
    }
}
