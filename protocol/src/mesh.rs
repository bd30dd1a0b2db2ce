//! Nodes, their parts in the mesh, and how the mesh does.

use crate::EntryId;
use crate::alarms::{StuckArchiver, WorkerAlarm, merged};
use crate::bounded::{CertificateRequest, List};
use crate::{DebtInfo, HealthInfo, HolesReport, KeptInfo, LostReport};
use pgmesh_storage::RepoKey;
use serde::{Deserialize, Serialize};

/// The name, region and addresses of a node, as a client remembers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Its name.
    pub name: String,
    /// Its region; empty where none is set.
    pub region: String,
    /// The `host:port` addresses it is reached at, the best first.
    pub addresses: Vec<String>,
    /// Whether the node takes clients: a node that is being drained does not.
    pub serves: bool,
}

/// Asks for a new certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewCertificate {
    /// The new key's certificate signing request, DER.
    pub csr: List<u8, CertificateRequest>,
}

/// A change of a node's part in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeChange {
    /// Takes it out of the mesh for good, also when it is dead.
    Remove {
        /// Also when it hosts repositories, which are then away until another node takes them over; and when so many
        /// other voters do not answer that the group cannot decide without it.
        force: bool,
    },
    /// Sends its clients elsewhere and takes no new ones: before maintenance.
    Drain,
    /// Ends `Drain`.
    Resume,
    /// Gives it a vote.
    Promote,
    /// Takes its vote away.
    Demote,
}

/// A node's part in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// It takes the writes.
    Leader,
    /// It votes.
    Voter,
    /// It receives the log and has no vote.
    Learner,
    /// It has been admitted and is not in the group yet.
    Joining,
}

/// Whether a node takes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// The node takes clients.
    InService,
    /// The node is being drained.
    Draining,
}

/// A node as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its number in the Raft group.
    pub node_id: u64,
    /// Its region; empty where none is set.
    pub region: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Its part in consensus.
    pub role: NodeRole,
    /// Whether it takes clients.
    pub state: NodeState,
    /// The program it last started with.
    pub program: String,
    /// The highest apply level of its program, as the catalog knows it; none before the node has said it.
    pub level: Option<u32>,
    /// The repositories that it hosts.
    pub repositories: Vec<RepoKey>,
}

/// How one node does, by its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The program that runs.
    pub program: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Its clock, Unix seconds.
    pub clock: i64,
    /// The leader that it follows, by number.
    pub leader: Option<u64>,
    /// Its current term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: Option<u64>,
    /// The last entry that it has applied.
    pub last_applied: Option<u64>,
    /// The last entry in its snapshot.
    pub snapshot: Option<u64>,
    /// When its certificate ends, Unix seconds.
    pub certificate_expires: i64,
    /// Bytes that are free where its catalog is; none where that is not known.
    pub disk_free: Option<u64>,
    /// The health of the repositories that it declares.
    pub repositories: Vec<(RepoKey, HealthInfo)>,
    /// The entries of the log that it has left out, as `TERM.INDEX` (`node start --skip-entry`).
    pub skipped: Vec<EntryId>,
    /// Why its catalog has stopped, if it has.
    pub failure: Option<String>,
    /// Why the node, or the group, does not take part in consensus, and the remedy.
    pub trouble: Option<String>,
    /// If the node began anew with an empty catalog: the place where it keeps the catalog that it had before.
    pub began_anew: Option<String>,
    /// The sessions of clients that it keeps alive, each with the seconds that it has been without progress.
    pub sessions: Vec<(u64, u64)>,
    /// `session-timeout` in seconds.
    pub session_timeout: u64,
    /// The hosts whose WAL it refuses.
    pub stuck: Vec<StuckArchiver>,
    /// Its background workers that have ended unexpectedly since its start.
    pub workers: Vec<WorkerAlarm>,
    /// As the leader: why objects that have expired are not deleted, if they are not.
    pub release: Option<StuckRelease>,
}

/// Objects that have expired and are not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckRelease {
    /// Since when, Unix seconds.
    pub since: i64,
    /// The reason, as of the last look.
    pub why: String,
}

/// The backups that have expired and whose objects are not deleted yet, in [`MeshStatus`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// How many there are, of each repository that has some.
    pub backups: Vec<(RepoKey, u64)>,
    /// The first stanzas whose chunks are not known in full, since a manifest cannot be read. While there are some, no
    /// chunk is deleted, of any stanza.
    pub unlisted: Vec<String>,
    /// Why the objects are not deleted, as the leader says.
    pub stuck: Option<StuckRelease>,
}

/// An open session in [`MeshStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number.
    pub session: u64,
    /// `backup`, `restore`, `verify`, `repair`.
    pub kind: String,
    /// The stanza it is about, if any.
    pub stanza: Option<String>,
    /// The holder in words: process and host.
    pub holder: String,
    /// The node that keeps it alive.
    pub node: String,
    /// When it was opened, Unix seconds.
    pub opened_at: i64,
    /// For how many seconds the holder has been without progress; none where its node does not say.
    pub quiet: Option<u64>,
}

/// A repository in [`MeshStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryStatus {
    /// Its number.
    pub key: RepoKey,
    /// `posix`, …
    pub kind: String,
    /// The node that hosts it; none for a shared one.
    pub host: Option<String>,
    /// Where it lies: `/backup/repo1`, `s3://bucket/path`.
    pub place: String,
    /// The nodes that reach it or declare it, where it is shared.
    pub nodes: Vec<ReachInfo>,
    /// How it does, as the answering node sees it; of a shared repository, as the best of its nodes says.
    pub health: HealthInfo,
    /// Objects that it has.
    pub objects: u64,
    /// Bytes that they take, about.
    pub bytes: u64,
    /// The replicas that it owes.
    pub debt: DebtInfo,
    /// The garbage that it does not let go.
    pub kept: KeptInfo,
    /// The objects in it that the catalog does not know.
    pub orphans: OrphanInfo,
}

/// Objects that scans of a repository have found and the catalog does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanInfo {
    /// When the last complete scan ended, Unix seconds; none before the first one.
    pub scanned: Option<i64>,
    /// Whether a scan is under way.
    pub scanning: bool,
    /// All such objects that the last complete scan has seen.
    pub seen: AmountInfo,
    /// Of these, the objects that an earlier era of the catalog has named: they stay.
    pub earlier: AmountInfo,
    /// Of these, objects of unknown identity, because they are damaged or parts of a WAL file: they stay.
    pub unreadable: u64,
    /// Entries that are no objects of a repository: they stay.
    pub foreign: u64,
    /// Objects that are deleted if a scan sees them again.
    pub waiting: AmountInfo,
    /// Objects that scans have made garbage, to be deleted, since the repository was registered.
    pub deleted: AmountInfo,
}

/// A number of objects, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmountInfo {
    /// Objects.
    pub objects: u64,
    /// Their bytes in the repository.
    pub bytes: u64,
}

/// One node's way to a shared repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachInfo {
    /// The node.
    pub node: String,
    /// Whether the node has had the repository open, so that others may go through it.
    pub reaches: bool,
    /// How the repository does there, by the node's own account.
    pub health: HealthInfo,
}

/// How the mesh does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// The mesh's identity.
    pub mesh_id: String,
    /// The node that answers.
    pub node: String,
    /// The leader's name, where one is known.
    pub leader: Option<String>,
    /// Whether a majority answered the linearizable read that this status began with; why not, if it did not.
    pub quorum: Result<(), String>,
    /// The catalog's format.
    pub catalog_format: u32,
    /// The level at which commands are applied: the highest that the programs of all nodes had at once.
    pub level: u32,
    /// While the voters change: the voters after the change. Until it is done, each decision needs a majority of these
    /// and a majority of the former voters.
    pub next_voters: Option<Vec<String>>,
    /// Each node with its own account, or why it could not be asked.
    pub nodes: Vec<(NodeInfo, Result<NodeStatus, String>)>,
    /// The measured round trip to each node, in microseconds, in the order of `nodes`; none where it was not reached.
    pub round_trips: Vec<Option<u64>>,
    /// All repositories.
    pub repositories: Vec<RepositoryStatus>,
    /// Lost objects, and their cost.
    pub lost: LostReport,
    /// Holes in the WAL archives, and their cost.
    pub holes: HolesReport,
    /// The oldest open sessions.
    pub sessions: Vec<SessionStatus>,
    /// How many are open.
    pub sessions_open: u64,
    /// The backups that have expired and are not deleted yet.
    pub release: ReleaseStatus,
    /// The rotation of the mesh's authority that is under way.
    pub rotation: Option<crate::AuthorityRotation>,
}

/// The progress of a synchronization.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum SyncEvent {
    /// The repository still owes objects.
    Progress {
        /// The debt now.
        debt: DebtInfo,
    },
    /// Nothing is owed any more.
    Done {
        /// Objects that were made during the synchronization.
        objects: u64,
    },
    /// It cannot go on.
    Failed(crate::Failure),
}

impl MeshStatus {
    /// The background workers that have ended unexpectedly, of all nodes that answer.
    pub fn worker_alarms(&self) -> impl Iterator<Item = &WorkerAlarm> {
        let told = self.nodes.iter().filter_map(|(_, own)| own.as_ref().ok());
        told.flat_map(|own| &own.workers)
    }

    /// The hosts whose WAL is refused, each once.
    #[must_use]
    pub fn stuck(&self) -> Vec<StuckArchiver> {
        let told = self.nodes.iter().filter_map(|(_, own)| own.as_ref().ok());
        merged(told.flat_map(|own| &own.stuck))
    }
}
