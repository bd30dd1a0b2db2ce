//! How the catalog reaches its peers. The transport is the node's; the catalog hands it messages.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::consensus::TypeConfig;

/// What one node's catalog asks another's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PeerRequest {
    /// Append these entries.
    Append(AppendEntriesRequest<TypeConfig>),
    /// Vote for me.
    Vote(VoteRequest<u64>),
    /// Take this part of a snapshot.
    Snapshot(InstallSnapshotRequest<TypeConfig>),
}

/// What a node's catalog answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum PeerReply {
    /// To `Append`.
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    /// To `Vote`.
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    /// To `Snapshot`.
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
}

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It could not be reached, or not in time.
    #[error("node {node_id} at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        node_id: u64,
        /// Where it was looked for.
        address: String,
        /// Why, in words.
        reason: String,
    },
    /// It answered something else than was asked.
    #[error("node {node_id} at {address} gave an answer of the wrong kind")]
    WrongReply {
        /// The peer.
        node_id: u64,
        /// Its address.
        address: String,
    },
}

/// Carries messages to other nodes. Consensus has its own connection, so that a heartbeat never queues behind bulk data.
pub trait Peers: Send + Sync + 'static {
    /// Sends a request to a peer and waits for its answer, at most for `limit`.
    fn call(
        &self,
        node_id: u64,
        address: String,
        request: PeerRequest,
        limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>>;
}

/// No way to any peer: right for a group of one voter, which dials nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(
        &self,
        node_id: u64,
        address: String,
        _request: PeerRequest,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable {
            node_id,
            address,
            reason: "this program connects to no other nodes".to_owned(),
        })))
    }
}

/// openraft's network over [`Peers`].
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<dyn Peers>);

/// The way to one peer.
pub(crate) struct PeerClient {
    peers: Arc<dyn Peers>,
    node_id: u64,
    node: BasicNode,
}

type CallError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> PeerClient {
        PeerClient {
            peers: Arc::clone(&self.0),
            node_id: target,
            node: node.clone(),
        }
    }
}

impl PeerClient {
    async fn call(&self, request: PeerRequest, option: &RPCOption) -> Result<PeerReply, PeerError> {
        let address = self.node.addr.clone();
        self.peers.call(self.node_id, address, request, option.hard_ttl()).await
    }

    fn wrong_reply<E: std::error::Error>(&self) -> RPCError<u64, BasicNode, RaftError<u64, E>> {
        unreachable(&PeerError::WrongReply {
            node_id: self.node_id,
            address: self.node.addr.clone(),
        })
    }

    fn remote<E: std::error::Error>(&self, source: RaftError<u64, E>) -> RPCError<u64, BasicNode, RaftError<u64, E>> {
        let node = self.node.clone();
        RPCError::RemoteError(RemoteError::new_with_node(self.node_id, node, source))
    }
}

fn unreachable<E: std::error::Error>(error: &PeerError) -> RPCError<u64, BasicNode, RaftError<u64, E>> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetwork<TypeConfig> for PeerClient {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        match self.call(PeerRequest::Append(rpc), &option).await {
            Ok(PeerReply::Append(reply)) => reply.map_err(|source| self.remote(source)),
            Ok(_) => Err(self.wrong_reply()),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<InstallSnapshotError>> {
        match self.call(PeerRequest::Snapshot(rpc), &option).await {
            Ok(PeerReply::Snapshot(reply)) => reply.map_err(|source| self.remote(source)),
            Ok(_) => Err(self.wrong_reply()),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        match self.call(PeerRequest::Vote(rpc), &option).await {
            Ok(PeerReply::Vote(reply)) => reply.map_err(|source| self.remote(source)),
            Ok(_) => Err(self.wrong_reply()),
            Err(error) => Err(unreachable(&error)),
        }
    }
}
