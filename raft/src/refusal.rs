//! Why the catalog does not accept a command. A refused command changes nothing.

mod authority;
mod expiry;
mod stale;
mod taken;
mod words;
mod writer;

pub use authority::AuthorityRefusal;
pub use expiry::ExpiryRefusal;
pub use stale::StaleGeneration;
use words::{and_others, for_stanzas, has, others_owe, shown, switch, wrong_token};
pub use writer::{OtherMachine, OtherWriter};

use pgmesh_postgres::{Lsn, PgVersion, SegmentName, SystemId, TimelineId, WalFileName};
use pgmesh_storage::{BackupLabel, Digest, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

use crate::model::{LogIndex, NodeName, ObjectRef, RequestId, SessionId, TokenId};

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Nothing but `FoundMesh` is possible yet.
    #[error("the mesh has not been founded yet")]
    NoMesh,
    /// The mesh was founded with another record.
    #[error("this catalog belongs to mesh {known}, not to {given}")]
    OtherMesh {
        /// The mesh that it belongs to.
        known: String,
        /// The mesh that was to be founded.
        given: String,
    },
    /// The catalog has another format than the program that founded it claims.
    #[error("the catalog has format {given}, this program knows {known}")]
    OtherFormat {
        /// This program's format.
        known: u32,
        /// The format that was given.
        given: u32,
    },
    /// The catalog does not know of this loss.
    #[error("the catalog has no recorded loss at position {0}")]
    NoSuchLoss(LogIndex),
    /// A node's program does not have the level that commands were to be applied at.
    #[error("apply level {level} cannot begin: the program of node {node} has {}", has(*known))]
    LevelTooNew {
        /// The level.
        level: u32,
        /// The node.
        node: NodeName,
        /// Its program's level; none where the node has not announced it.
        known: Option<u32>,
    },
    /// A part of the catalog is lost, or another catalog has taken its place: nothing is acknowledged in it.
    #[error(
        "the mesh serves nothing: its catalog has lost entries up to position {0}, or another catalog of the mesh has \
         taken over"
    )]
    CatalogLost(LogIndex),
    /// The loss cannot be given up: no generation would be left.
    #[error("the catalog has lost too much: the loss cannot be accepted")]
    LossTooLarge,
    /// The given era is not above the catalog's era.
    #[error("era {given} of the catalog cannot begin: the catalog is in era {known} already")]
    EraHasBegun {
        /// The era that was to begin.
        given: u32,
        /// The catalog's era.
        known: u32,
    },
    /// Two nodes with one name or one identifier.
    #[error("node {known} already has the name or the identifier that is given for node {given} (id {node_id})")]
    NodeTaken {
        /// The node that has it.
        known: NodeName,
        /// The node that was to be registered.
        given: NodeName,
        /// The identifier that was given.
        node_id: u64,
    },
    /// A node that is not registered.
    #[error("node {0} is not registered in the mesh")]
    UnknownNode(NodeName),

    /// A node whose program writes another catalog format.
    #[error(
        "node {node} runs a program with catalog format {given}, but the mesh has format {known}: run the same version \
         of pgmesh on all nodes"
    )]
    NodeFormat {
        /// The node.
        node: NodeName,
        /// The mesh's format.
        known: u32,
        /// The format that the node's program writes.
        given: u32,
    },
    /// A node that has another number now: its disk was replaced, or a copy of it runs.
    #[error(
        "node {node} has number {known} in the mesh, not {given}: the node that runs as number {given} is an old copy \
         of it"
    )]
    NodeReplaced {
        /// The node.
        node: NodeName,
        /// Its number.
        known: u64,
        /// The number that was given.
        given: u64,
    },
    /// A node that was removed from the mesh.
    #[error("node {0} was removed from the mesh; invite it again to bring it back")]
    NodeRemoved(NodeName),
    /// A key whose certificates are not accepted any more.
    #[error("the key of node {0} was revoked; invite the node again")]
    KeyRevoked(NodeName),
    /// A certificate of the node's name for a key that is not the node's.
    #[error("the mesh knows node {0} by another key: the node with this key was never admitted under this name")]
    OtherKey(NodeName),
    /// A mesh has at least one node.
    #[error("node {0} is the last one of the mesh and cannot be removed")]
    LastNode(NodeName),

    /// The repository is registered differently.
    #[error(
        "repo{repo} is registered in the mesh with {option}={}, but is given with {option}={}",
        shown(known),
        shown(given)
    )]
    RepositoryDiffers {
        /// The repository.
        repo: RepoKey,
        /// The first option that differs (`host` and `uuid` are not options but count as such).
        option: String,
        /// Its registered value.
        known: Option<String>,
        /// The given value.
        given: Option<String>,
    },
    /// One storage under two numbers would count one replica twice.
    #[error("the storage given as repo{given} is already registered as repo{known}")]
    RepositoryTaken {
        /// The number that it has.
        known: RepoKey,
        /// The number that was given.
        given: RepoKey,
    },
    /// A repository that is not registered.
    #[error("repo{0} is not registered in the mesh")]
    UnknownRepository(RepoKey),

    /// The repository is being forgotten, or made good after the loss of its disk.
    #[error("repo{repo} is being {doing}; wait until that is done")]
    RepositoryChanging {
        /// The repository.
        repo: RepoKey,
        /// `retired` or `replaced`.
        doing: String,
    },
    /// A mesh that has objects has at least one repository.
    #[error("repo{0} is the mesh's only repository")]
    LastRepository(RepoKey),
    /// Objects would have no other replica.
    #[error("repo{repo} has the only replica of {object}, and perhaps of more objects")]
    RepositoryNeeded {
        /// The repository that was to be forgotten.
        repo: RepoKey,
        /// An object that would lose its last replica.
        object: ObjectRef,
    },
    /// Too much is owed to the other repositories to know which objects would have no other replica.
    #[error("{}", others_owe(*repo, *other, *debts))]
    OthersOwe {
        /// The repository that was to be forgotten.
        repo: RepoKey,
        /// The other repository that owes least.
        other: RepoKey,
        /// Its debts; `None` while objects from before its registration have not all been owed to it yet.
        debts: Option<u64>,
    },
    /// No such stanza.
    #[error("stanza {0} does not exist")]
    UnknownStanza(StanzaName),
    /// The stanza was stopped.
    #[error("stanza {stanza} is stopped: {reason}")]
    StanzaStopped {
        /// The stanza.
        stanza: StanzaName,
        /// Why.
        reason: String,
    },
    /// The stanza is being deleted.
    #[error("stanza {0} is being deleted")]
    StanzaDeleting(StanzaName),
    /// Only a stopped stanza can be deleted.
    #[error("stanza {0} is not stopped; stop it before it is deleted")]
    StanzaNotStopped(StanzaName),
    /// Invariant 12: another cluster.
    #[error("stanza {stanza} belongs to the cluster with system identifier {known}, not {given}")]
    SystemIdDiffers {
        /// The stanza.
        stanza: StanzaName,
        /// The current database's.
        known: SystemId,
        /// The given identifier.
        given: SystemId,
    },
    /// The same system identifier with another version or segment size.
    #[error("stanza {stanza} is registered as PostgreSQL {known}, but the cluster is PostgreSQL {given}")]
    VersionDiffers {
        /// The stanza.
        stanza: StanzaName,
        /// The current database's.
        known: PgVersion,
        /// The given version.
        given: PgVersion,
    },
    /// A WAL file that has another length than the cluster's segments.
    #[error("{file} has {given} bytes, but segments of stanza {stanza} have {known}")]
    WrongLength {
        /// The stanza.
        stanza: StanzaName,
        /// The file.
        file: WalFileName,
        /// The segment size in bytes.
        known: u64,
        /// The file's length in bytes.
        given: u64,
    },
    /// Another segment size than the stanza's current database has.
    #[error("stanza {stanza} has WAL segments of {known} bytes, but the cluster has {given}")]
    SegmentSizeDiffers {
        /// The stanza.
        stanza: StanzaName,
        /// The current database's, in bytes.
        known: u32,
        /// The given size, in bytes.
        given: u32,
    },
    /// Invariant 3: other bytes under a known name.
    #[error("{file} of stanza {stanza} is already archived with digest {known}; the given file has digest {given}")]
    Duplicate {
        /// The stanza.
        stanza: StanzaName,
        /// The file.
        file: WalFileName,
        /// The archived digest.
        known: Digest,
        /// The given digest.
        given: Digest,
    },
    /// Invariant 12: the timeline has another writer.
    #[error(transparent)]
    OtherWriter(OtherWriter),
    /// Invariant 12: the timeline's writer pushes from another machine.
    #[error(transparent)]
    OtherMachine(OtherMachine),
    /// Invariant 12: a timeline whose history was not archived.
    #[error("timeline {timeline} of stanza {stanza} is not known: its history file must be archived first")]
    UnknownTimeline {
        /// The stanza.
        stanza: StanzaName,
        /// The timeline.
        timeline: TimelineId,
    },
    /// A change map of other content than the segment's.
    #[error(
        "the change map of {segment} of stanza {stanza} is stale: the archive now has other content under that name"
    )]
    StaleMap {
        /// The stanza.
        stanza: StanzaName,
        /// The segment.
        segment: SegmentName,
    },
    /// Some of the WAL that was to be forgotten is newer than the wish.
    #[error("{file} of stanza {stanza} was pushed after this command had listed the WAL to forget")]
    WalSince {
        /// The stanza.
        stanza: StanzaName,
        /// The file.
        file: WalFileName,
    },
    /// WAL that backups need is not forgotten.
    #[error(
        "{file} of stanza {stanza} and the WAL after it cannot be forgotten: backup {label} needs it{}",
        and_others(*more)
    )]
    BackupNeedsWal {
        /// The stanza.
        stanza: StanzaName,
        /// The first file.
        file: WalFileName,
        /// A backup that needs it.
        label: BackupLabel,
        /// How many others do.
        more: u32,
    },
    /// Invariant 12: a history that does not agree with a known one.
    #[error("the history of timeline {timeline} contradicts the archive of stanza {stanza}: for timeline {parent} it says {}, the archive {}", switch(*given), switch(*known))]
    HistoryContradicts {
        /// The stanza.
        stanza: StanzaName,
        /// The timeline of the given file.
        timeline: TimelineId,
        /// The known timeline whose history says otherwise.
        other: TimelineId,
        /// The line that differs.
        parent: TimelineId,
        /// Where the known history leaves that timeline, if it does.
        known: Option<Lsn>,
        /// Where the given one does.
        given: Option<Lsn>,
    },
    /// Invariant 12: a segment whose header is of a timeline that its name's timeline does not descend from.
    #[error("{file} of stanza {stanza} has a header of timeline {header}, which timeline {timeline} does not descend from", timeline = file.timeline())]
    ForeignHeader {
        /// The stanza.
        stanza: StanzaName,
        /// The file.
        file: WalFileName,
        /// The header's timeline.
        header: TimelineId,
    },
    /// Fewer good replicas than must be (invariants 1 and 4).
    #[error("only {have} repositories hold the object durably, {need} must")]
    TooFewReplicas {
        /// Good replicas.
        have: u16,
        /// The demanded number.
        need: u16,
    },
    /// Object names that must not be used: upload again under the given generations.
    #[error("{} objects were uploaded under names that are about to be deleted; upload them again", .0.len())]
    StaleGenerations(Vec<StaleGeneration>),
    /// The catalog has changed since the check that the command rests on, for example because an object was deleted,
    /// withdrawn or taken up: check again (invariants 4 and 5).
    #[error("the catalog changed at log position {since}, after it was checked; check again")]
    Recheck {
        /// When.
        since: LogIndex,
    },
    /// Not every object that the catalog knows is a replica or a debt of the repository, or the catalog itself is in
    /// doubt: nothing there is taken for unknown.
    #[error(
        "repo{0} is being filled, changed or compared with the catalog, or was moved: no orphan is deleted there \
         meanwhile"
    )]
    RepositoryUnsettled(RepoKey),
    /// A chunk with a known digest that is shorter than was known: one of the two lengths is wrong.
    #[error("chunk {digest} has {known} bytes, not {given}")]
    LengthDiffers {
        /// The chunk.
        digest: Digest,
        /// The known length.
        known: u32,
        /// The given one.
        given: u32,
    },

    /// Another backup of the stanza is running.
    #[error("a backup of stanza {stanza} ({label}) is running, held by session {session}")]
    BackupRunning {
        /// The stanza.
        stanza: StanzaName,
        /// The session that holds the lock.
        session: SessionId,
        /// The running backup.
        label: BackupLabel,
    },
    /// The session does not hold the stanza's backup lock for this label.
    #[error("session {session} does not hold the backup lock of stanza {stanza} for {label}")]
    BackupNotBegun {
        /// The stanza.
        stanza: StanzaName,
        /// The session.
        session: SessionId,
        /// The label.
        label: BackupLabel,
    },
    /// A label that is not greater than the last backup's.
    #[error(
        "backup label {given} is not later than {last}, the last backup of stanza {stanza}, which has ended meanwhile"
    )]
    LabelNotLater {
        /// The stanza.
        stanza: StanzaName,
        /// The last backup.
        last: BackupLabel,
        /// The label that was given.
        given: BackupLabel,
    },
    /// Invariant 4: WAL that the backup needs is not archived.
    #[error("WAL segment {segment} of stanza {stanza}, which the backup needs, is not archived")]
    WalMissing {
        /// The stanza.
        stanza: StanzaName,
        /// The first missing segment.
        segment: SegmentName,
    },
    /// The backup's first and last segment are not in order on its timeline.
    #[error("a backup cannot need WAL from {start} to {stop}")]
    WalRange {
        /// The first segment.
        start: SegmentName,
        /// The last segment.
        stop: SegmentName,
    },
    /// The stanza is being restored.
    #[error("stanza {stanza} is being restored, by session {session} of {holder}{}", and_others(*.others))]
    RestoreRunning {
        /// The stanza.
        stanza: StanzaName,
        /// The oldest session of a restore.
        session: SessionId,
        /// Its holder.
        holder: String,
        /// How many more there are.
        others: u32,
    },
    /// No such backup.
    #[error("stanza {stanza} has no backup {label}")]
    UnknownBackup {
        /// The stanza.
        stanza: StanzaName,
        /// The label.
        label: BackupLabel,
    },

    /// The session is not open (any more).
    #[error("session {0} has ended")]
    SessionEnded(SessionId),
    /// A client that wants to go on with a session does not have its key.
    #[error("session {0} belongs to another client: the key that was given is not the session's")]
    SessionKeyDiffers(SessionId),
    /// The holder has moved on since it asked this node to adopt the session.
    #[error("session {0} has moved to another connection meanwhile")]
    SessionMoved(SessionId),
    /// Invariant 5: a session may still use the object that is to be forgotten.
    #[error("session {session} began before log position {since}: objects that it may read are kept until it ends")]
    SessionOpen {
        /// The oldest open session.
        session: SessionId,
        /// When the object was condemned.
        since: LogIndex,
    },

    /// A token identifier that is already in use.
    #[error("token {0} exists already")]
    TokenTaken(TokenId),
    /// No such token, or another secret.
    #[error("the join token is not known to this mesh")]
    TokenUnknown,
    /// The token has expired.
    #[error("the join token has expired")]
    TokenExpired {
        /// When, in seconds since the Unix epoch.
        expires: i64,
    },
    /// A node's token is for one name.
    #[error("the join token is for node {invited}, and node-name is {given}")]
    TokenOfAnother {
        /// The name that the token is for.
        invited: NodeName,
        /// The name that was asked for.
        given: String,
    },
    /// A node's token makes no other member, and others make no node.
    #[error("{}", wrong_token(*is_for_node))]
    TokenOfOtherRole {
        /// Whether the token is for a node.
        is_for_node: bool,
    },
    /// A node of that name is a member of the mesh, and the token was not made to replace it.
    #[error("the mesh has a node {node} already, its number {node_id}")]
    NodeExists {
        /// Its name.
        node: NodeName,
        /// Its number.
        node_id: u64,
    },
    /// The token was used.
    #[error("the join token was already used, by {name}")]
    TokenUsed {
        /// When, in seconds since the Unix epoch.
        at: i64,
        /// The name of its bearer.
        name: String,
    },

    /// A field of the command is larger than may be.
    #[error("too large: {what}: {given}, at most {limit}")]
    BeyondLimit {
        /// The counted field, in words.
        what: String,
        /// How much was given.
        given: u64,
        /// How much may be.
        limit: u64,
    },
    /// A record would become too large to be kept.
    #[error("{record} would take {size} bytes in the catalog, at most {limit} are possible")]
    RecordTooLarge {
        /// The record, in words.
        record: String,
        /// Its size, in bytes.
        size: u64,
        /// The largest possible size, in bytes.
        limit: u64,
    },
    /// The command's entry of the log could not be applied and was left out, by an administrator's word.
    #[error("entry {entry} of the log, with this command, was skipped")]
    Skipped {
        /// The entry.
        entry: String,
    },
    /// Another command was applied under the same identifier.
    #[error("request id {0} was already used for another command")]
    OtherRequest(RequestId),

    /// A record that a repository describes while the catalog is rebuilt, and that the catalog has otherwise.
    #[error("the catalog has {0} already, with other content than the repository describes")]
    KnownOtherwise(String),

    /// The catalog is not at the level that knows the command.
    #[error("this needs apply level {level}, and the mesh is at level {current}: the program of some node is older")]
    NeedsLevel {
        /// The level that knows it.
        level: u32,
        /// The catalog's.
        current: u32,
    },
    /// Another key has a certificate of that name that counts.
    #[error("the mesh has a {role} {name} already{}, with another key ({key})", for_stanzas(.stanzas))]
    NameTaken {
        /// The name.
        name: String,
        /// The role's word.
        role: String,
        /// The stanzas that it is for, if it is for some.
        stanzas: Vec<StanzaName>,
        /// The first digits of the key's SHA-256.
        key: String,
    },
    /// The certificate's key was revoked.
    #[error("the certificate of {0} was revoked")]
    CertificateRevoked(String),
    /// A certificate of this key has another name or role.
    #[error("the certificate for this key is {known}'s, not {given}'s, or of another role")]
    OtherHolder {
        /// The name that it has.
        known: String,
        /// The name that was given.
        given: String,
    },
    /// Whoever asks would shut itself out, and no other administrator was invited.
    #[error("{0} is the last administrator who was invited, and would revoke its own certificate")]
    LastAdministrator(String),
    /// The token replaces a member, and is good for its name only: that name, and the name that was asked for.
    #[error("the join token is for the name {0}, and the name {1} was asked for")]
    TokenOfOtherName(String, String),
    /// There is no room for one more certificate that counts.
    #[error("the mesh has {0} certificates that count, and cannot have more")]
    TooManyCertificates(u64),
    /// Something does not expire, or is not released.
    #[error(transparent)]
    Expiry(ExpiryRefusal),
    /// A backup names a chunk that its stanza has no right to. Whether another stanza has the chunk is not said.
    #[error("the mesh does not have chunk {digest} of stanza {stanza}")]
    ChunkMissing {
        /// The stanza.
        stanza: StanzaName,
        /// The chunk.
        digest: Digest,
    },
    /// About a certificate and its authority.
    #[error(transparent)]
    Authority(#[from] AuthorityRefusal),
}
