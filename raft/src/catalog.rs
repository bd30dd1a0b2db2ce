//! The catalog as the rest of a node uses it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, ClientWriteError, ForwardToLeader, InitializeError, RaftError};
use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy};
use pgmesh_storage::wire;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Command, Proposal};
use crate::consensus::{Batch, TypeConfig};
use crate::error::CatalogError;
use crate::model::{MeshRecord, NodeName, NodeRecord};
use crate::options::CatalogOptions;
use crate::peers::{Network, NoPeers, PeerReply, PeerRequest, Peers};
use crate::reply::Reply;
use crate::status::{CatalogStatus, Role};
use crate::store::{Folder, LogStore, StateStore};
use crate::view::View;

#[cfg(test)]
mod tests;

/// The most proposals in one Raft entry.
const BATCH_PROPOSALS: usize = 256;
/// An entry takes no further proposal once it has this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The largest proposal in bytes.
const PROPOSAL_BYTES: usize = 4 << 20;
/// How many proposals may wait; whoever comes later waits to be let in (invariant 11).
const QUEUE: usize = 4096;
/// How long a group of one may take to make its only member the leader.
const ELECTION_LIMIT: Duration = Duration::from_secs(10);

/// The catalog on this node. Clones share it.
#[derive(Clone)]
pub struct Catalog {
    node_id: u64,
    clock: fn() -> i64,
    raft: Raft<TypeConfig>,
    state: StateStore,
    proposals: mpsc::Sender<Waiting>,
}

struct Waiting {
    proposal: Proposal,
    bytes: usize,
    answer: oneshot::Sender<Result<Reply, CatalogError>>,
}

impl Catalog {
    /// Founds a mesh: makes its catalog in `dir`, with this node as the only member of the Raft group. What an attempt
    /// that was interrupted left in `dir` is replaced.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when `dir` holds a catalog; errors of disk and database.
    pub async fn create(
        dir: &Path,
        mesh: MeshRecord,
        name: NodeName,
        node: NodeRecord,
        options: CatalogOptions,
    ) -> Result<Self, CatalogError> {
        Self::create_with_peers(dir, mesh, name, node, options, Arc::new(NoPeers)).await
    }

    /// Founds a mesh that other nodes can join.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_with_peers(
        dir: &Path,
        mesh: MeshRecord,
        name: NodeName,
        node: NodeRecord,
        options: CatalogOptions,
        peers: Arc<dyn Peers>,
    ) -> Result<Self, CatalogError> {
        let folder = Folder::create(dir).await?;
        let node_id = node.node_id;
        let address = node.advertise.first().cloned().unwrap_or_default();
        let catalog = Self::start(&folder, Some(node_id), peers, &options).await?;
        let members = BTreeMap::from([(node_id, BasicNode::new(address))]);
        catalog
            .raft
            .initialize(members)
            .await
            .map_err(|error| initialize_error(&error))?;
        catalog.wait_for_leadership().await?;
        let actor = format!("node {name}");
        catalog.propose(&actor, Command::FoundMesh(mesh)).await?;
        let register = Command::RegisterNode { name, record: node };
        catalog.propose(&actor, register).await?;
        folder.complete()?;
        Ok(catalog)
    }

    /// Opens the catalog in `dir`, with no way to other nodes.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::InUse`], [`CatalogError::Format`]; errors of disk and database.
    pub async fn open(dir: &Path, options: CatalogOptions) -> Result<Self, CatalogError> {
        Self::open_with_peers(dir, options, Arc::new(NoPeers)).await
    }

    /// Opens the catalog in `dir`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with_peers(
        dir: &Path,
        options: CatalogOptions,
        peers: Arc<dyn Peers>,
    ) -> Result<Self, CatalogError> {
        let folder = Folder::open(dir).await?;
        let catalog = Self::start(&folder, None, peers, &options).await?;
        if catalog.status().voters == [catalog.node_id] {
            catalog.wait_for_leadership().await?;
        }
        Ok(catalog)
    }

    async fn start(
        folder: &Folder,
        new_node_id: Option<u64>,
        peers: Arc<dyn Peers>,
        options: &CatalogOptions,
    ) -> Result<Self, CatalogError> {
        let log = LogStore::open(folder, options)?;
        let node_id = log.node_id(new_node_id).await?;
        let state = StateStore::open(folder, options)?;
        let config = Arc::new(raft_config(options)?);
        let raft = Raft::new(node_id, config, Network(peers), log, state.clone())
            .await
            .map_err(|fatal| CatalogError::Stopped(fatal.to_string()))?;
        let (proposals, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(propose_in_batches(raft.clone(), waiting));
        Ok(Self {
            node_id,
            clock: options.clock,
            raft,
            state,
            proposals,
        })
    }

    async fn wait_for_leadership(&self) -> Result<(), CatalogError> {
        self.raft
            .wait(Some(ELECTION_LIMIT))
            .state(ServerState::Leader, "the only member becomes the leader")
            .await
            .map_err(|error| CatalogError::NoQuorum(error.to_string()))?;
        Ok(())
    }

    /// Asks for a change, stamped with the time of this node's clock. Returns when it is applied: committed by a
    /// majority, durable, and visible in views of this node.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] when the catalog refuses it. After [`CatalogError::NoQuorum`] and
    /// [`CatalogError::Stopped`] it is not known whether it was or will be applied; commands may be repeated.
    pub async fn propose(&self, actor: &str, command: Command) -> Result<Reply, CatalogError> {
        self.propose_stamped(Proposal {
            at: (self.clock)(),
            actor: actor.to_owned(),
            command,
        })
        .await
    }

    /// Asks for a change that another node has stamped.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_stamped(&self, proposal: Proposal) -> Result<Reply, CatalogError> {
        let bytes = wire::encode(&proposal).len();
        if bytes > PROPOSAL_BYTES {
            return Err(CatalogError::TooLarge {
                given: bytes,
                limit: PROPOSAL_BYTES,
            });
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            proposal,
            bytes,
            answer,
        };
        let stopped = || CatalogError::Stopped("it was shut down".to_owned());
        self.proposals.send(waiting).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// A view that shows everything that was committed when this was called.
    ///
    /// # Errors
    /// [`CatalogError::NotLeader`], [`CatalogError::NoQuorum`], [`CatalogError::Stopped`].
    pub async fn view_linearizable(&self) -> Result<View, CatalogError> {
        self.raft.ensure_linearizable().await.map_err(|error| match error {
            RaftError::APIError(CheckIsLeaderError::ForwardToLeader(leader)) => not_leader(leader),
            RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(quorum)) => {
                CatalogError::NoQuorum(quorum.to_string())
            }
            RaftError::Fatal(fatal) => CatalogError::Stopped(fatal.to_string()),
        })?;
        Ok(self.view())
    }

    /// A view of what this node has applied, which may be older than what the mesh has committed.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.state.current())
    }

    /// How the catalog is doing on this node.
    #[must_use]
    pub fn status(&self) -> CatalogStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        CatalogStatus {
            node_id: self.node_id,
            role: match metrics.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            last_applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            voters: metrics.membership_config.membership().voter_ids().collect(),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Answers a peer's request.
    pub async fn answer(&self, request: PeerRequest) -> PeerReply {
        match request {
            PeerRequest::Append(request) => PeerReply::Append(self.raft.append_entries(request).await),
            PeerRequest::Vote(request) => PeerReply::Vote(self.raft.vote(request).await),
            PeerRequest::Snapshot(request) => PeerReply::Snapshot(self.raft.install_snapshot(request).await),
        }
    }

    /// Makes a snapshot now and drops the entries that it holds from the log. Returns when it has begun.
    ///
    /// # Errors
    /// [`CatalogError::Stopped`].
    pub async fn begin_snapshot(&self) -> Result<(), CatalogError> {
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|fatal| CatalogError::Stopped(fatal.to_string()))
    }

    /// Stops taking part. Proposals that wait fail; the databases close when the last clone and view are dropped.
    ///
    /// # Errors
    /// [`CatalogError::Stopped`] when the Raft task has failed.
    pub async fn shutdown(&self) -> Result<(), CatalogError> {
        self.raft
            .shutdown()
            .await
            .map_err(|error| CatalogError::Stopped(error.to_string()))
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

/// Group commit: whatever came in while one entry was being written goes into the next, so that many proposals cost
/// one synced write.
async fn propose_in_batches(raft: Raft<TypeConfig>, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut bytes = first.bytes;
        let mut answers = vec![first.answer];
        let mut batch = vec![first.proposal];
        while batch.len() < BATCH_PROPOSALS && bytes < BATCH_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.bytes;
            answers.push(next.answer);
            batch.push(next.proposal);
        }
        match raft.client_write(Batch(batch)).await {
            Ok(written) => {
                for (answer, outcome) in std::iter::zip(answers, written.data.0) {
                    // Whoever asked may have gone; the outcome stands.
                    let _ = answer.send(outcome.map_err(CatalogError::Refused));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(write_error(&error)));
                }
            }
        }
    }
}

fn write_error(error: &RaftError<u64, ClientWriteError<u64, BasicNode>>) -> CatalogError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(leader)) => not_leader(leader.clone()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => CatalogError::Stopped(error.to_string()),
        RaftError::Fatal(fatal) => CatalogError::Stopped(fatal.to_string()),
    }
}

fn not_leader(leader: ForwardToLeader<u64, BasicNode>) -> CatalogError {
    CatalogError::NotLeader {
        leader_id: leader.leader_id,
        address: leader.leader_node.map(|node| node.addr),
    }
}

fn initialize_error(error: &RaftError<u64, InitializeError<u64, BasicNode>>) -> CatalogError {
    CatalogError::Stopped(error.to_string())
}

fn raft_config(options: &CatalogOptions) -> Result<Config, CatalogError> {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election = milliseconds(options.election);
    Config {
        cluster_name: "pgmesh".to_owned(),
        heartbeat_interval: milliseconds(options.heartbeat),
        election_timeout_min: election,
        election_timeout_max: election.saturating_mul(2),
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.entries_per_snapshot),
        max_in_snapshot_log_to_keep: options.entries_kept,
        replication_lag_threshold: options.entries_per_snapshot.saturating_mul(2),
        snapshot_max_chunk_size: 1 << 20,
        purge_batch_size: (options.entries_per_snapshot / 4).max(1),
        ..Config::default()
    }
    .validate()
    .map_err(|error| CatalogError::Stopped(error.to_string()))
}
