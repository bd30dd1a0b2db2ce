//! The catalog as the rest of a node uses it.

mod answer;
mod ask;
mod asking;
mod batcher;
mod clearance;
mod config;
mod election;
mod leader;
mod leadership;
mod marked;
mod members;
mod regroup;

pub use self::ask::Lead;
pub use self::regroup::Regrouped;

use pgmesh_runtime::tasks;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InitializeError, RaftError};
use openraft::{BasicNode, Raft, ServerState};
use tokio::sync::watch;
use tokio::time::timeout;

use self::batcher::{Batcher, Limits};
use self::clearance::Clearance;
use self::config::raft_config;
use self::election::Signs;
use self::leader::Way;
use self::leadership::watch_leader;
use self::marked::Marked;
use crate::command::{Command, Proposal};
use crate::disk_pace::AppendTimes;
use crate::error::CatalogError;
use crate::model::{LogIndex, MeshRecord, NodeName, NodeRecord};
use crate::network::Network;
use crate::options::CatalogOptions;
use crate::peers::{Applied, NoPeers, Peers, Setback};
use crate::status::{CatalogStatus, Role, Standing};
use crate::store::{Folder, LogStore, StateStore};
use crate::view::View;

#[cfg(test)]
mod tests;

/// How proposals are grouped into Raft entries, and into messages to the leader. An entry has at most 1 MiB, or one
/// proposal.
const PROPOSALS: Limits = Limits {
    members: 256,
    weight: 1 << 20,
    in_flight: 4,
};
/// How linearizable reads share rounds.
const READS: Limits = Limits {
    members: 4096,
    weight: usize::MAX,
    in_flight: 2,
};
/// How long a group of one may take to make its only member the leader.
const ELECTION_LIMIT: Duration = Duration::from_secs(10);
/// The catalog on this node. Clones share it.
#[derive(Clone)]
pub struct Catalog {
    node_id: u64,
    clock: fn() -> i64,
    way: Way,
    signs: Signs,
    clearance: Arc<Clearance>,
    /// The background tasks of the catalog end with the last clone.
    _alive: Arc<()>,
    state: StateStore,
    own_proposals: Batcher<Proposal, Applied>,
    forwarded_proposals: Batcher<Proposal, Applied>,
    own_reads: Batcher<(), u64>,
    forwarded_reads: Batcher<(), u64>,
}

impl Catalog {
    /// Founds a mesh: makes its catalog in `dir`, with this node as the only member of the Raft group. The remains of
    /// an interrupted attempt in `dir` are replaced.
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
        // No other node can know anything of it.
        catalog.clearance.clear(clearance::Pledge::default());
        let members = BTreeMap::from([(node_id, BasicNode::new(address))]);
        catalog
            .way
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

    /// Opens the catalog in `dir`. Waits until this node leads if it is the only voter, and for nothing else. Where
    /// others vote, it takes part when a majority has said what they know of it: [`Self::standing`].
    ///
    /// # Errors
    /// As [`Self::open`]; [`CatalogError::LostEnd`] and [`CatalogError::LostState`] when the disk has lost something
    /// that the node cannot make anew by itself; [`CatalogError::Behind`] when the only voter lacks entries that a
    /// learner has.
    pub async fn open_with_peers(
        dir: &Path,
        options: CatalogOptions,
        peers: Arc<dyn Peers>,
    ) -> Result<Self, CatalogError> {
        let folder = Folder::open(dir).await?;
        let catalog = Self::start(&folder, None, peers, &options).await?;
        if catalog.is_sole_voter().await? {
            tokio::select! {
                led = catalog.wait_for_leadership() => led?,
                error = catalog.fallen_behind() => return Err(error),
            }
        }
        Ok(catalog)
    }

    /// Returns when this node lacks entries that it has acknowledged.
    async fn fallen_behind(&self) -> CatalogError {
        let mut standing = self.clearance.standing();
        match standing
            .wait_for(|standing| matches!(standing, Standing::Behind(_)))
            .await
        {
            Ok(standing) => match &*standing {
                Standing::Behind(shortfall) => CatalogError::Behind(shortfall.clone()),
                _ => CatalogError::Stopped("it was shut down".to_owned()),
            },
            Err(_) => CatalogError::Stopped("it was shut down".to_owned()),
        }
    }

    /// Whether this node takes part in consensus, and when that changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.clearance.standing()
    }

    /// Prepares `dir` for a node that has been admitted with this number. [`Self::open_with_peers`] then starts it with
    /// an empty catalog, and the leader, once it has made it a learner, fills it.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when `dir` holds a catalog; errors of disk and database.
    pub async fn create_joining(dir: &Path, node_id: u64, options: &CatalogOptions) -> Result<(), CatalogError> {
        let folder = Folder::create(dir).await?;
        let log = LogStore::open(&folder, options)?;
        log.node_id(Some(node_id)).await?;
        StateStore::open(&folder, options)?;
        folder.complete()
    }

    async fn start(
        folder: &Folder,
        new_node_id: Option<u64>,
        peers: Arc<dyn Peers>,
        options: &CatalogOptions,
    ) -> Result<Self, CatalogError> {
        let log = LogStore::open(folder, options)?;
        let node_id = log.node_id(new_node_id).await?;
        let state = StateStore::open_after(folder, options, log.purged()?)?;
        if let Some(applied) = state.current().raft_state()?.last_applied {
            log.hold(applied);
        }
        log.belongs_to(state.clone());
        state.refuse_applied(&options.skip_entries)?;
        state.skip(log.skip(&options.skip_entries).await?);
        let marked = Arc::new(Marked::new(peers, state.clone(), node_id));
        let peers: Arc<dyn Peers> = Arc::clone(&marked) as _;
        let config = Arc::new(raft_config(options)?);
        let network = Network {
            peers: Arc::clone(&peers),
            log: log.clone(),
            heartbeat: options.heartbeat,
        };
        let raft = Raft::new(node_id, config, network, log.clone(), state.clone())
            .await
            .map_err(|fatal| CatalogError::Stopped(fatal.to_string()))?;
        marked.follow(raft.server_metrics());
        let leader = watch_leader(node_id, &raft);
        let silent = std::collections::BTreeSet::new();
        let clearance = Arc::new(Clearance::new(node_id, Standing::Asking { silent }));
        let way = Way {
            node_id,
            raft,
            log: log.clone(),
            peers,
            leader,
            patience: options.patience,
            aside: Arc::default(),
            clearance: Arc::clone(&clearance),
        };
        let signs = Signs::new(options.election);
        let alive = Arc::new(());
        let nodes = View::new(state.current())
            .nodes()?
            .into_iter()
            .filter(|(_, record)| record.is_member());
        let admitted = nodes.filter_map(|(_, record)| Some((record.node_id, record.advertise.into_iter().next()?)));
        let admitted: BTreeMap<u64, String> = admitted.collect();
        tasks::spawn(
            "asking the group",
            asking::run(way.clone(), Arc::clone(&clearance), admitted, Arc::downgrade(&alive)),
        );
        tasks::spawn(
            "stopping when behind",
            asking::stop_when_behind(way.raft.clone(), clearance.standing()),
        );
        tasks::spawn(
            "keeping the ledger",
            log.keep_ledger(way.raft.clone(), Arc::downgrade(&alive)),
        );
        let elections = election::run(
            way.clone(),
            signs.clone(),
            Arc::clone(&clearance),
            options.clone(),
            Arc::downgrade(&alive),
        );
        tasks::spawn("elections", elections);
        Ok(Self {
            node_id,
            clock: options.clock,
            signs,
            clearance,
            _alive: alive,
            state,
            own_proposals: grouped(&way, PROPOSALS, |way, group| async move { way.write(group).await }),
            forwarded_proposals: grouped(&way, PROPOSALS, |way, group| async move { way.forward(group).await }),
            own_reads: grouped(&way, READS, |way, group| async move {
                Ok(vec![way.own_read_index().await?; group.len()])
            }),
            forwarded_reads: grouped(&way, READS, |way, group| async move {
                Ok(vec![way.remote_read_index().await?; group.len()])
            }),
            way,
        })
    }

    /// Whether this program does not have the level that the catalog has come to while it ran.
    #[must_use]
    pub fn too_old(&self) -> Option<CatalogError> {
        let (found, known) = self.state.newer_level()?;
        Some(CatalogError::Level { found, known })
    }

    /// Whether consensus works on this node at all: it ends with its disk, or with a state that contradicts what the
    /// others say, and does not come back in this process.
    ///
    /// # Errors
    /// [`CatalogError::Stopped`] when it has ended.
    pub async fn check_alive(&self) -> Result<(), CatalogError> {
        self.is_sole_voter().await.map(drop)
    }

    async fn is_sole_voter(&self) -> Result<bool, CatalogError> {
        let node_id = self.node_id;
        let is_sole = self.way.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            membership.voter_ids().eq([node_id])
        });
        is_sole.await.map_err(|fatal| CatalogError::Stopped(fatal.to_string()))
    }

    async fn wait_for_leadership(&self) -> Result<(), CatalogError> {
        let mut leader = self.way.leader.clone();
        let leads = leader.wait_for(|leader| *leader == Some(self.node_id));
        match timeout(ELECTION_LIMIT, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CatalogError::Stopped("it was shut down".to_owned())),
            Err(_) => Err(CatalogError::NoQuorum("this node did not become the leader".to_owned())),
        }
    }

    /// Whether this node leads the mesh, as far as it knows: it was elected, and a majority of the voters has answered
    /// it in the last two leases. For work that must not be done beside another leader see [`Self::confirm_lead`].
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.node_id)
    }

    /// The number of the node that leads the mesh, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        let elected = *self.way.leader.borrow();
        elected.filter(|leader| *leader != self.node_id || self.signs.has_majority())
    }

    /// Whether proposals and reads are this node's to decide: it was elected. Without a majority they wait for it.
    fn is_elected(&self) -> bool {
        *self.way.leader.borrow() == Some(self.node_id)
    }

    /// Tells when another node leads the mesh.
    #[must_use]
    pub fn leader_changes(&self) -> watch::Receiver<Option<u64>> {
        self.way.leader.clone()
    }

    /// This node's number.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// A view of the commands that this node has applied; the mesh may have committed more.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.state.current())
    }

    /// Waits until this node has applied more than `seen`.
    pub async fn applied_after(&self, seen: LogIndex) {
        let mut changes = self.state.changes();
        while self.view().applied().is_ok_and(|applied| applied <= seen) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// How the catalog is doing on this node.
    #[must_use]
    pub fn status(&self) -> CatalogStatus {
        let metrics = self.way.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let matched = metrics.replication.iter().flatten();
        CatalogStatus {
            node_id: self.node_id,
            role: match metrics.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                // It leads again as soon as a majority answers, unless that has elected another.
                ServerState::Leader if !self.signs.has_majority() => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            leader: metrics
                .current_leader
                .filter(|leader| *leader != self.node_id || self.signs.has_majority()),
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            last_applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            voters: membership.voter_ids().collect(),
            next_voters: configs.last().filter(|_| configs.len() > 1).cloned(),
            learners: membership.learner_ids().collect(),
            addresses: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
            initialized: membership.voter_ids().next().is_some(),
            matched: matched.map(|(id, matched)| (*id, matched.map(|id| id.index))).collect(),
            quorum_age: metrics.millis_since_quorum_ack.map(Duration::from_millis),
            skipped: self.state.mark().skipped,
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
            standing: self.clearance.standing().borrow().clone(),
            behind: self.clearance.behind(),
            parted: {
                let mut parted = self.clearance.parted();
                parted.retain(|node_id, _| membership.get_node(node_id).is_some());
                parted
            },
            contradiction: self
                .clearance
                .contradiction()
                .map(|(vote, entry)| (vote.leader_id.node_id, entry)),
        }
    }

    /// How long synced appends to the log take at the moment, here and, on the leader, on the followers.
    #[must_use]
    pub fn append_times(&self) -> AppendTimes {
        self.way.log.pace().times()
    }

    /// Makes a snapshot now and drops the entries that it holds from the log. Returns when it has begun.
    ///
    /// # Errors
    /// [`CatalogError::Stopped`].
    pub async fn begin_snapshot(&self) -> Result<(), CatalogError> {
        self.way
            .raft
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
        self.way
            .raft
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

/// A queue whose groups are done by way of `work`.
fn grouped<T, R, F>(way: &Way, limits: Limits, work: fn(Way, Vec<T>) -> F) -> Batcher<T, R>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Future<Output = Result<Vec<R>, Setback>> + Send + 'static,
{
    let way = way.clone();
    Batcher::new(limits, move |group| work(way.clone(), group))
}

fn initialize_error(error: &RaftError<u64, InitializeError<u64, BasicNode>>) -> CatalogError {
    CatalogError::Stopped(error.to_string())
}
