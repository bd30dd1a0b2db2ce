//! The requests, and the limits of what they carry.

use crate::*;
use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest message (not body): bounds what a peer can make us allocate.
pub const MESSAGE_LIMIT: usize = 4 << 20;
/// Bytes of the one message that a peer without a certificate may send.
pub const JOIN_LIMIT: usize = 16 << 10;
/// The largest body: what does not compress is stored as it is, and longer WAL files come in parts.
pub const BODY_LIMIT: u64 = pgmesh_storage::MAX_PLAIN_LENGTH;
/// The largest body of a chunk; chunks are 1 MiB of plaintext, a margin is left for a larger chunk size.
pub const CHUNK_BODY_LIMIT: u64 = 8 << 20;
/// How many digests one [`QueryChunks`] may name.
pub const QUERY_LIMIT: usize = 4096;
/// How many pieces one [`GetPieces`] may name.
pub const PIECES_LIMIT: usize = 128;

/// A request: the first message on a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// What every flow needs to know first. Reply: [`MeshFacts`].
    Hello,
    /// Archives one WAL file; its payload follows as the body. Reply: [`Pushed`].
    PushSegment(PushSegment),
    /// Reads one WAL file. Reply: [`SegmentReply`], with a body when it was found.
    GetSegment(GetSegment),
    /// Opens a backup session and takes the stanza's backup lock. Reply: [`BackupBegun`].
    BeginBackup(BeginBackup),
    /// Which of these chunks does the mesh hold? Reply: `Vec<bool>` in the order asked.
    QueryChunks(QueryChunks),
    /// Stores one chunk; its payload follows. Reply: `u64`, the bytes stored in one repository.
    PutChunk(PutChunk),
    /// Writes the manifest and commits the backup; the manifest's payload follows. Reply: [`CommittedBackup`].
    CommitBackup(CommitBackup),
    /// Opens a restore session: while it is open, nothing is deleted that was not garbage before. Reply:
    /// [`RestoreBegun`].
    BeginRestore(BeginRestore),
    /// Goes on with a session that was begun through another connection, perhaps to another node, which is gone.
    /// Reply: `()`.
    ResumeSession(ResumeSession),
    /// The holder of a session works, though it has nothing else to ask for. Reply: `()`.
    KeepSession {
        /// The stanza.
        stanza: StanzaName,
        /// The session of [`BackupBegun`] or [`RestoreBegun`].
        session: u64,
    },
    /// Gives a session up, and with it a backup's lock. Reply: `()`.
    EndSession {
        /// The stanza.
        stanza: StanzaName,
        /// The session of [`BackupBegun`] or [`RestoreBegun`].
        session: u64,
    },
    /// Ends any session, whoever holds it. Reply: `String`, what it was.
    TerminateSession {
        /// The session.
        session: u64,
    },
    /// Gives up what the catalog has lost. Reply: `()`.
    AcceptLoss {
        /// The position up to which it had come, as `status` says it: [`CatalogLost::position`].
        position: u64,
    },
    /// Reads a backup's manifest. Reply: [`PayloadHead`] and a body.
    GetManifest(GetManifest),
    /// Reads one chunk. Reply: [`ChunkReply`] and a body.
    GetChunk(GetChunk),
    /// Reads pieces of one chunk, which is checked here. Reply: [`ChunkReply`] and a body.
    GetPieces(GetPieces),
    /// What is there. Reply: [`MeshInfo`].
    Info(GetInfo),
    /// Which backup would a new one be compared with? Reply: [`PriorChoice`](crate::choice::PriorChoice).
    ChoosePrior(ChoosePrior),
    /// Which backup does a restore need? Reply: [`BackupInfo`].
    ChooseBackup(ChooseBackup),
    /// Where the WAL from one position to another is. Reply: [`SegmentPresence`].
    ArchiveStatus(ArchiveStatus),
    /// Reads and checks everything. Replies: any number of [`VerifyEvent`], the last being `Done`.
    Verify(VerifyRequest),
    /// Creates a stanza, or says that it is as asked. Reply: [`NewStanza`].
    CreateStanza(CreateStanza),
    /// Starts a new database id after a major upgrade. Reply: [`NewStanza`].
    UpgradeStanza(CreateStanza),
    /// Makes a data directory the writer of its timeline (invariant 12). Reply: [`AdoptedStanza`].
    AdoptStanza {
        /// The cluster.
        cluster: CreateStanza,
        /// Although the writer before it has pushed a moment ago.
        force: bool,
    },
    /// Forgets the end of a timeline that another history of the cluster has otherwise (invariant 12). Reply:
    /// [`ForgottenWal`].
    ForgetWal(ForgetWal),
    /// Deletes a stanza with all its backups and WAL. Reply: [`DeletedStanza`].
    DeleteStanza {
        /// The stanza.
        stanza: StanzaName,
        /// Delete even when it has not been stopped.
        force: bool,
        /// Whoever asks has seen that its cluster does not run.
        is_down: bool,
    },
    /// Stops or starts a stanza, or all. Reply: `u64`, the number of sessions that were ended.
    SetStopped(SetStopped),
    /// Changes a backup's annotations. Reply: `()`.
    Annotate(AnnotateBackup),
    /// Lists objects. Reply: [`RepositoryListing`].
    ListRepository(ListRepository),
    /// Reads an object, checked and decrypted. Reply: [`PayloadHead`] and a body.
    ReadRepository(ReadRepository),
    /// Makes a join token. Reply: [`Invite`].
    Invite(CreateInvite),
    /// Redeems a join token; the only request served without a certificate. Reply: [`JoinAccepted`].
    Join(JoinRequest),
    /// Sets this node's definition of a repository in the catalog. Reply: `Vec<String>`, the options that changed.
    UpdateRepository {
        /// The repository.
        repo: pgmesh_storage::RepoKey,
        /// The definition in the asker's file, to be held against the node's.
        definition: BTreeMap<String, String>,
    },
    /// Puts an empty repository, at the place that the asked node's file declares, where one was lost with its disk.
    /// Reply: [`Replaced`]; what it has lost is owed to it from then on. An older copy of it that is there is taken up.
    ReplaceRepository {
        /// The repository.
        repo: pgmesh_storage::RepoKey,
    },
    /// Forgets a repository. What lies there is not deleted. Reply: `()`.
    RemoveRepository {
        /// The repository.
        repo: pgmesh_storage::RepoKey,
        /// Also when nothing else has some of what it holds.
        force: bool,
    },
    /// A new certificate for the one that the asker shows, of the same name and role. Reply: [`JoinAccepted`].
    Renew(RenewCertificate),
    /// The nodes of the mesh. Reply: `Vec<NodeInfo>`.
    ListNodes,
    /// Changes a node's part in the mesh. Reply: `()`, when it is so.
    ChangeNode {
        /// The node.
        name: String,
        /// What is asked.
        change: NodeChange,
    },
    /// How the whole mesh does, as the asked node can find out. Reply: [`MeshStatus`].
    Status,
    /// Owes a repository all that the others have, and tells how the debt goes down. Replies: any number of
    /// [`SyncEvent`], the last being `Done` or `Failed`.
    SyncRepository {
        /// The repository.
        repo: pgmesh_storage::RepoKey,
    },

    /// Between nodes: a message of the Raft group, encoded by whoever knows what it says. Reply: a message of the
    /// group too.
    Raft(bytes::Bytes),
    /// Between nodes: the asker has started, is reached there, runs that program. Reply: `()`.
    Announce(Announce),
    /// Between nodes: the mesh's certificate authority, key included. Reply: [`AuthorityKey`].
    Authority,
    /// Between nodes: how the asked node does. Reply: [`NodeStatus`].
    NodeStatus,
    /// Between nodes: writes an object to repositories that the asked node hosts or reaches; its payload follows.
    /// Replies: one
    /// [`Stored`] for each target, as each comes to its end.
    StoreObject(StoreObject),
    /// Between nodes: reads an object from a repository that the asked node hosts or reaches. Reply: [`ObjectAnswer`]
    /// and a body.
    ReadObject(ReadObject),
    /// Between nodes: deletes an object that nothing needs any more. Reply: `Result<(), RemoteError>`.
    DeleteObject(DeleteObject),
    /// Between nodes: deletes now what nothing needs any more, where the asked node leads. Reply: [`Collected`].
    CollectGarbage,

    /// Between nodes: the asker's disk lacks what it has promised; another number for it. Reply: `u64`.
    BeginAnew(BeginAnew),

    /// Between nodes: is this node a member of the mesh? Reply: [`Vouched`].
    Vouch(Vouch),
    /// Between nodes, to the leader: may this voter lose its vote, or would the others be stuck? Reply: `()`.
    MayLeave {
        /// Its number.
        node_id: u64,
    },

    /// Which blocks has the WAL changed? Reply: [`ChangeMapsReply`]. Last, so that the others keep their numbers on the
    /// wire.
    ChangeMaps(ChangeMaps),
}

/// The answer to [`Request::Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshFacts {
    /// The mesh's identity.
    pub mesh_id: String,
    /// How digests are made in it.
    pub suite: pgmesh_storage::DigestSuite,
    /// The node that answers.
    pub node: String,
    /// All nodes of the mesh, to be remembered: the next connection may go to any of them.
    pub nodes: Vec<NodeAddress>,
}

impl Request {
    /// The stanza that the request is about, where it is about one.
    pub fn stanza(&self) -> Option<&StanzaName> {
        match self {
            Self::PushSegment(r) => Some(&r.stanza),
            Self::GetSegment(r) => Some(&r.stanza),
            Self::ChangeMaps(r) => Some(&r.stanza),
            Self::BeginBackup(r) => Some(&r.stanza),
            Self::QueryChunks(r) => Some(&r.stanza),
            Self::PutChunk(r) => Some(&r.stanza),
            Self::CommitBackup(r) => Some(&r.stanza),
            Self::BeginRestore(r) => Some(&r.stanza),
            Self::ResumeSession(r) => Some(&r.stanza),
            Self::KeepSession { stanza, .. } | Self::EndSession { stanza, .. } | Self::DeleteStanza { stanza, .. } => {
                Some(stanza)
            }
            Self::GetManifest(r) => Some(&r.stanza),
            Self::GetChunk(r) => Some(&r.stanza),
            Self::GetPieces(r) => Some(&r.stanza),
            Self::Info(r) => r.stanza.as_ref(),
            Self::ChoosePrior(r) => Some(&r.stanza),
            Self::ChooseBackup(r) => Some(&r.stanza),
            Self::ArchiveStatus(r) => Some(&r.stanza),
            Self::Verify(r) => r.stanza.as_ref(),
            Self::CreateStanza(r) | Self::UpgradeStanza(r) | Self::AdoptStanza { cluster: r, .. } => Some(&r.stanza),
            Self::ForgetWal(r) => Some(&r.stanza),
            Self::SetStopped(r) => r.stanza.as_ref(),
            Self::Annotate(r) => Some(&r.stanza),
            Self::Hello
            | Self::TerminateSession { .. }
            | Self::AcceptLoss { .. }
            | Self::ListRepository(_)
            | Self::ReadRepository(_)
            | Self::Invite(_)
            | Self::Join(_)
            | Self::UpdateRepository { .. }
            | Self::ReplaceRepository { .. }
            | Self::RemoveRepository { .. }
            | Self::Renew(_)
            | Self::ListNodes
            | Self::ChangeNode { .. }
            | Self::Status
            | Self::SyncRepository { .. }
            | Self::Raft(_)
            | Self::Announce(_)
            | Self::Authority
            | Self::NodeStatus
            | Self::BeginAnew(_)
            | Self::Vouch(_)
            | Self::MayLeave { .. }
            | Self::StoreObject(_)
            | Self::ReadObject(_)
            | Self::DeleteObject(_)
            | Self::CollectGarbage => None,
        }
    }

    /// The request's name, for logs and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::PushSegment(_) => "archive-push",
            Self::GetSegment(_) => "archive-get",
            Self::ChangeMaps(_) => "change map read",
            Self::BeginBackup(_) => "backup begin",
            Self::QueryChunks(_) => "chunk query",
            Self::PutChunk(_) => "chunk put",
            Self::CommitBackup(_) => "backup commit",
            Self::BeginRestore(_) => "restore begin",
            Self::ResumeSession(_) => "session resume",
            Self::KeepSession { .. } => "session keep-alive",
            Self::EndSession { .. } => "session end",
            Self::TerminateSession { .. } => "session-end",
            Self::AcceptLoss { .. } => "catalog-accept-loss",
            Self::GetManifest(_) => "manifest read",
            Self::GetChunk(_) => "chunk read",
            Self::GetPieces(_) => "chunk pieces read",
            Self::Info(_) => "info",
            Self::ChoosePrior(_) => "choice of a prior backup",
            Self::ChooseBackup(_) => "choice of a backup",
            Self::ArchiveStatus(_) => "archive status",
            Self::Verify(_) => "verify",
            Self::AdoptStanza { .. } => "stanza-adopt",
            Self::ForgetWal(_) => "archive-forget",
            Self::CreateStanza(_) => "stanza-create",
            Self::UpgradeStanza(_) => "stanza-upgrade",
            Self::DeleteStanza { .. } => "stanza-delete",
            Self::SetStopped(_) => "stop/start",
            Self::Annotate(_) => "annotate",
            Self::ListRepository(_) => "repo-ls",
            Self::ReadRepository(_) => "repo-get",
            Self::Invite(_) => "invite",
            Self::Join(_) => "join",
            Self::UpdateRepository { .. } => "repo-update",
            Self::ReplaceRepository { .. } => "repo-replace",
            Self::RemoveRepository { .. } => "repo-remove",
            Self::Renew(_) => "certificate renewal",
            Self::ListNodes => "node list",
            Self::ChangeNode { .. } => "node change",
            Self::Status => "status",
            Self::SyncRepository { .. } => "repo-sync",
            Self::Raft(_) => "consensus",
            Self::Announce(_) => "announcement",
            Self::Authority => "authority",
            Self::NodeStatus => "node status",
            Self::BeginAnew(_) => "new beginning",
            Self::Vouch(_) => "word for a node",
            Self::MayLeave { .. } => "question whether a voter may leave",
            Self::StoreObject(_) => "object store",
            Self::ReadObject(_) => "object read",
            Self::DeleteObject(_) => "object delete",
            Self::CollectGarbage => "garbage collection",
        }
    }
}
