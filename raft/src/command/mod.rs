//! The commands of the catalog.
//!
//! Commands are facts that the proposer vouches for ("these replicas are durable"); whether they may become part of
//! the catalog is decided by [`apply`](mod@crate::apply) alone.

mod adopt;
mod authorities;
mod backup;
mod cluster;
mod expiry;
mod members;
mod name;
mod objects;
mod orphans;
mod wal;

pub use adopt::{Adopt, AdoptedDatabase, AdoptedFile};
pub use authorities::{AdmitUnder, AuthorityCommand, BeginRotation, IssueUnder, NoteAuthority, NoteIssued};
pub use backup::CommitBackup;
pub use cluster::Cluster;
pub use expiry::{DropUses, EndListing, ExpireBackups, ExpireWal, HoldBackup, NoteUses, Release, ShareRights};
pub use members::{AdmitNode, HandOutToken, IssueCertificate, NoteCertificate, RevokeCertificates};
pub use objects::{ClaimedObject, NewChunk, NewReplica};
pub use orphans::{DiscardOrphans, NoteOrphans};
pub use wal::{Aside, PushSegment};

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_storage::{BackupLabel, Digest, Generation, RepoKey, StanzaName, WrappedKey};
use serde::{Deserialize, Serialize};

use crate::model::{
    CatalogLoss, Claim, CondemnedChunk, DebtReason, GarbageKey, GarbageObject, LogIndex, MeshRecord, NodeName,
    NodeRecord, NodeService, ObjectRef, PlacedIdentity, Redemption, RequestId, SessionId, SessionKind, TokenId,
    TokenRole, VotePolicy,
};

/// A command, its actor and its time: one entry of the Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request that it belongs to: a proposal with an identifier that was applied before changes nothing and gets
    /// the same answer.
    pub id: RequestId,
    /// When it was proposed, in seconds since the Unix epoch. Invariant 10: `apply` knows no other clock.
    pub at: i64,
    /// The actor, in words for the audit trail (`admin alice`, `node n1`, `client pg1`).
    pub actor: String,
    /// The command.
    pub command: Command,
}

/// One change of the catalog. Each either happens as a whole or is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a mesh. Repeated with the same record it changes nothing. Reply: `Done`.
    FoundMesh(MeshRecord),
    /// A repository holds the proof that the catalog has been farther than it is. Reply: `Done`.
    ReportLoss(CatalogLoss),
    /// An administrator gives up the lost part of the catalog: the mesh serves again. Reply: `Done`.
    AcceptLoss {
        /// The position up to which it had come.
        position: LogIndex,
        /// The branch of the era that begins: a random number.
        branch: u64,
    },
    /// Another era begins: this catalog is the mesh's from now on, whatever other catalogs of it exist. Reply: `Done`.
    BeginEra {
        /// The era; above all that are known.
        era: u32,
        /// Its branch: a random number.
        branch: u64,
        /// No generation below is assigned: the lost part of the catalog may have.
        floor: Generation,
        /// The next node gets a number above: the lost part of the catalog may have given out some.
        last_number: u64,
        /// Repositories whose objects are to be compared with the catalog.
        compare: BTreeSet<RepoKey>,
        /// Why it begins, for the audit trail.
        reason: String,
    },
    /// Notes the highest apply level of a node's program. Reply: `Done`.
    NoteLevel {
        /// The node's number.
        node_id: u64,
        /// The level.
        level: u32,
    },
    /// Commands are applied at this level from now on; refused while the program of some node does not have it. Reply:
    /// `Done`.
    RaiseLevel {
        /// The level.
        level: u32,
    },
    /// A repository was compared with the catalog: WAL that the catalog did not know is taken up, and missing objects
    /// were reported. Reply: `Done`.
    Compared {
        /// The repository.
        repo: RepoKey,
        /// The era in which it was done.
        era: u32,
        /// Whether all was compared; otherwise only its archives were looked through.
        all: bool,
    },
    /// Adds a node or changes its record. Reply: `Done`.
    RegisterNode {
        /// Its name.
        name: NodeName,
        /// Its record.
        record: NodeRecord,
    },
    /// Takes a node in, or back, and uses its token up. The node gets a number that no node had before. If the token
    /// was made to replace a lost disk, the keys of that disk are revoked. The same request again changes nothing and
    /// gets the same answer, as long as the token's record is kept and the node still has the key and the number of
    /// that admission. Reply: `Joined`.
    AdmitNode(Box<AdmitNode>),
    /// Gives a node another number and an empty catalog, since its disk lacks entries that it has acknowledged under
    /// its present number. Each request gets a new number. Reply: `Renumbered`.
    RenumberNode {
        /// Its name.
        name: NodeName,
        /// The number to replace. A number that is not the node's any more is refused, so that a late request does not
        /// take a healthy node's number away.
        number: u64,
        /// SHA-256 of the public key of its certificate.
        key: [u8; 32],
        /// Why, for the audit trail.
        reason: String,
    },
    /// Announces a node's addresses, key, program and repositories. Reply: `Done`.
    AnnounceNode {
        /// Its name.
        name: NodeName,
        /// Its number, which must be the registered one.
        node_id: u64,
        /// Its region; empty where none is set.
        region: String,
        /// The `host:port` addresses that it is reached at.
        advertise: Vec<String>,
        /// SHA-256 of the public key of its certificate.
        key: [u8; 32],
        /// Its program's version.
        program: String,
        /// The shared repositories that it declares as the mesh defines them.
        reaches: BTreeSet<RepoKey>,
    },
    /// Drains a node, ends that, or removes it from the mesh for good. Reply: `Done`.
    SetNodeService {
        /// The node.
        name: NodeName,
        /// Its service from now on.
        service: NodeService,
    },
    /// Says whether a node may vote. Reply: `Done`.
    SetNodeVote {
        /// The node.
        name: NodeName,
        /// Whether.
        vote: VotePolicy,
    },

    /// Declares a repository. The same again changes nothing but adds keys that were not known; a different declaration
    /// is refused with [`Refusal::RepositoryDiffers`](crate::Refusal::RepositoryDiffers). Reply: `Done`.
    RegisterRepository {
        /// Its number.
        repo: RepoKey,
        /// Its options that are no secrets, without the `repoN-` prefix.
        definition: BTreeMap<String, String>,
        /// The one node that reaches it; `None` for a shared repository.
        host: Option<NodeName>,
        /// The identifier in its `pgmesh.repo` object.
        uuid: String,
        /// Its wrapped master keys.
        wrapped_keys: Vec<WrappedKey>,
        /// The node that declares it.
        node: NodeName,
    },
    /// Changes the given parts of a repository's definition; a part that is `None` stays. Reply: `Done`.
    UpdateRepository {
        /// Its number.
        repo: RepoKey,
        /// The new definition.
        definition: Option<BTreeMap<String, String>>,
        /// The new host (`Some(None)`: shared from now on).
        host: Option<Option<NodeName>>,
        /// The new list of wrapped keys.
        wrapped_keys: Option<Vec<WrappedKey>>,
    },
    /// Forgets a repository: repeat it while the reply is `Retiring { more: true }`; each step withdraws a bounded
    /// number of replicas and debts. The objects in the repository are not deleted. Refused while objects would lose
    /// their last replica, or while the catalog cannot tell whether they would. A walk that meets such an object later
    /// gives up with the reply `StillNeeded`: the repository stays, and the withdrawn replicas are owed to it again.
    RetireRepository {
        /// Its number.
        repo: RepoKey,
        /// Also when objects lose their last replica. From the first step on there is no way back then.
        force: bool,
    },
    /// Says that a mark was written to a repository and is durable there (see
    /// [`RepositoryMark`](crate::RepositoryMark)). A mark that is not newer than the known mark, or that was written to
    /// another repository than the registered one, changes nothing. Reply: `Done`.
    MarkRepository {
        /// Its number.
        repo: RepoKey,
        /// The repository that it was written to.
        identity: PlacedIdentity,
        /// The mark's number.
        number: u64,
        /// The mark's random number.
        nonce: u64,
    },
    /// Registers an empty repository in place of a repository whose disk was lost: repeat it while the reply is
    /// `Replacing { more: true }`; each step withdraws a bounded number of replicas and owes them anew.
    ReplaceRepository {
        /// Its number.
        repo: RepoKey,
        /// The identifier in the new `pgmesh.repo` object.
        uuid: String,
        /// The new wrapped master keys.
        wrapped_keys: Vec<WrappedKey>,
        /// The node that found the empty repository.
        node: NodeName,
    },
    /// Owes the next few thousand of the objects that were known before the repository was registered to it. Propose it
    /// while [`RepositoryRecord::backfill`](crate::RepositoryRecord::backfill) is set. Reply: `Backfilled`. While a
    /// [change](crate::RepositoryRecord::change) is under way, the command takes the next step of that change and has
    /// its reply: the node that began the change may be gone.
    Backfill {
        /// The repository.
        repo: RepoKey,
    },

    /// Creates a stanza. The same cluster again changes nothing. Reply: `Database`.
    CreateStanza {
        /// Its name.
        stanza: StanzaName,
        /// The cluster.
        cluster: Cluster,
        /// The stanza information object for the database identifier 1.
        info: ClaimedObject,
        /// [`View::applied`](crate::View::applied) of the view in which the object's name was assigned.
        checked_at: LogIndex,
    },
    /// Gives a stanza a new current database after `pg_upgrade`. The current cluster again changes nothing.
    /// Reply: `Database`.
    UpgradeStanza {
        /// The stanza.
        stanza: StanzaName,
        /// The new cluster.
        cluster: Cluster,
        /// The stanza information object for the next database identifier (number of databases + 1).
        info: ClaimedObject,
        /// [`View::applied`](crate::View::applied) of the view in which the object's name was assigned.
        checked_at: LogIndex,
    },
    /// Removes a stanza: repeat it while the reply is `Deleting { more: true }`; each step removes a bounded number of
    /// rows and leaves their objects as garbage. From the first step on there is no way back. Refused while a backup or
    /// a restore runs; then nothing has changed, and the stanza goes on taking WAL.
    DeleteStanza {
        /// The stanza.
        stanza: StanzaName,
        /// Also when it is not stopped, and when it is being restored: the sessions of the restores end.
        force: bool,
    },
    /// Makes a stanza refuse WAL and backups. Reply: `Done`.
    StopStanza {
        /// The stanza.
        stanza: StanzaName,
        /// The reason that clients of the stanza are shown.
        reason: String,
    },
    /// Ends `StopStanza`. Reply: `Done`.
    StartStanza {
        /// The stanza.
        stanza: StanzaName,
    },
    /// Makes another instance the writer of a timeline, by an administrator's word. Reply: `Done`.
    AdoptWriter {
        /// The stanza.
        stanza: StanzaName,
        /// The timeline.
        timeline: TimelineId,
        /// The instance that writes it from now on.
        instance: String,
        /// The machine that it is on. Empty where that is not known.
        machine: String,
    },
    /// Removes the last WAL files of a timeline, by an administrator's word: another history of the cluster has these
    /// files with other content. All files named `from` or later are removed, but if `from` is a segment, its row stays
    /// without content: a recovery that needs the segment must not hear that it was never archived. If all of these
    /// files are newer than `upto`, the command was carried out before and changes nothing. Refused with `Recheck`
    /// where there are more than [`FORGOTTEN_FILES`](crate::limits::FORGOTTEN_FILES) files, or where a known timeline
    /// needs them. Reply: `Done`.
    ForgetWal {
        /// The stanza; its current database.
        stanza: StanzaName,
        /// The first file. The timeline's history file: all that is known of the timeline.
        from: WalFileName,
        /// The administrator has seen the files that were pushed up to here. If some of the files are newer, the
        /// command is refused.
        upto: LogIndex,
        /// Also with the backups that need it: they are removed.
        with_backups: bool,
        /// Also while the stanza is being restored: the sessions of the restores end.
        force: bool,
    },

    /// Archives a WAL file. Every registered repository that is not among its replicas owes it from this step on.
    /// Reply: `Pushed` or `AlreadyThere`.
    PushSegment(Box<PushSegment>),

    /// Records chunks that were uploaded. Repositories that are not among a chunk's replicas owe it. All or nothing:
    /// refused with [`Refusal::StaleGenerations`](crate::Refusal::StaleGenerations), which names the chunks to upload
    /// again, where the claims that count do not make `ack` replicas. Reply: `Done`.
    AddChunks {
        /// The session under which they were uploaded.
        session: SessionId,
        /// `backup-ack`: how many good replicas each must have.
        ack: u16,
        /// The chunks.
        chunks: Vec<NewChunk>,
    },

    /// Opens a session. Reply: `Session`.
    OpenSession {
        /// Its purpose.
        kind: SessionKind,
        /// The stanza it is about.
        stanza: Option<StanzaName>,
        /// The holder, in words.
        holder: String,
        /// The node that keeps it alive.
        node: NodeName,
        /// The secret by which the holder goes on with the session by way of another node.
        resume_key: Option<[u8; 16]>,
    },
    /// Makes a node keep a session alive, for a holder that lost its node or its connection. Reply: `Adopted`.
    AdoptSession {
        /// The session.
        session: SessionId,
        /// The holder's count of its own moves, from 1: an adoption that arrives after a later one is refused.
        turn: u64,
        /// The node that keeps it alive from now on.
        node: NodeName,
        /// Its resume key.
        key: [u8; 16],
    },
    /// Ends a session. If the session is not open, nothing changes. Reply: `Done`.
    CloseSession {
        /// The session.
        session: SessionId,
    },
    /// Ends a session whose holder is gone. Reply: `Done`.
    ExpireSession {
        /// The session.
        session: SessionId,
        /// The lease under which it was found without a holder: if it was adopted since, it goes on. `None` ends it
        /// anyway.
        lease: Option<LogIndex>,
        /// Why, for the audit trail.
        reason: String,
    },

    /// Takes the stanza's backup lock for a session and reserves the label. Reply: `Done`.
    BeginBackup {
        /// The stanza.
        stanza: StanzaName,
        /// The session, of kind `Backup` and for this stanza.
        session: SessionId,
        /// The label that the backup will have: greater than that of any backup of the stanza.
        label: BackupLabel,
        /// The instance that is backed up.
        system_id: SystemId,
    },
    /// Makes a backup part of the catalog (invariant 4) and frees the lock. Reply: `Done`.
    CommitBackup(Box<CommitBackup>),
    /// Sets annotations of a backup; an empty value removes one. Reply: `Done`.
    Annotate {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// Annotations by key.
        annotations: BTreeMap<String, String>,
    },
    /// Removes a backup that no other backup refers to; its manifest becomes garbage. Reply: `Done`.
    RemoveBackup {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
    },

    /// Records replicas that were made good. Replicas of objects that are no longer known are passed over.
    /// Reply: `Added`.
    AddReplicas {
        /// The session under which they were written.
        session: SessionId,
        /// The replicas.
        replicas: Vec<NewReplica>,
    },
    /// Withdraws a replica that was found bad and owes a new generation of it (invariant 6). If the catalog does not
    /// count the replica as good, or the replica is in another repository than the registered one, nothing changes.
    /// Reply: `Withdrawn`.
    ReportBad {
        /// The object.
        object: ObjectRef,
        /// The replica that was read, and in which repository.
        bad: Claim,
        /// `Damaged` or `Missing`.
        reason: DebtReason,
        /// The damage, in words for the audit trail.
        what: String,
    },

    /// Suspects chunks: no backup seems to refer to them. They count as before. A backup that names a suspected chunk
    /// takes the suspicion back (`Reprieve`) before its commit, and a commit whose check of the chunks is older than
    /// the suspicion is refused. Unknown and condemned chunks are passed over. Reply: `Suspected`.
    Suspect {
        /// The chunks.
        chunks: Vec<Digest>,
    },
    /// Condemns chunks that no backup refers to: from now on they count as absent (invariant 5). A chunk is passed over
    /// if it is not suspected since `suspected` any more, or if it was added after the oldest running backup began: it
    /// may belong to that backup. Refused with [`Refusal::Recheck`](crate::Refusal::Recheck) when a backup was taken up
    /// from a repository since. Reply: `Condemned`.
    Condemn {
        /// The chunks.
        chunks: Vec<Digest>,
        /// Since when they are suspected. All backups of a linearizable view that shows it were looked through.
        suspected: LogIndex,
    },
    /// Takes chunks back that a session refers to: suspected chunks, and chunks that were condemned after the session
    /// began. The collector deletes no object of the latter while the session is open. A chunk is passed over if it is
    /// not suspected or condemned as of the given position, or if none of its repositories is left. Reply: `Reprieved`.
    Reprieve {
        /// The session that refers to them.
        session: SessionId,
        /// The chunks.
        chunks: Vec<CondemnedChunk>,
    },
    /// Drops condemned chunks whose objects were deleted. A chunk that is not condemned any more, or was condemned
    /// again since, is passed over. Refused while a session is open that began before one of the chunks was condemned
    /// (invariant 5). Their names are not assigned again. Reply: `Done`.
    Forget {
        /// The chunks.
        chunks: Vec<CondemnedChunk>,
        /// The objects of these chunks that the repositories do not let go: they stay as marks, as by `KeepGarbage`.
        kept: Vec<GarbageKey>,
    },
    /// Drops garbage whose objects were deleted, kept or not; passed over and refused like `Forget`. Its names are not
    /// assigned again. Reply: `Done`.
    ForgetGarbage {
        /// The garbage.
        garbage: Vec<GarbageObject>,
    },
    /// Sets garbage aside that its repository does not let go (object lock, no right to delete): it stays as a mark, so
    /// that no other object gets its name. An object that is not garbage is passed over. Refused like `Forget`. Reply:
    /// `Done`.
    KeepGarbage {
        /// The garbage.
        garbage: Vec<GarbageObject>,
    },
    /// Reports a scan's progress and the objects of the repository that the catalog does not know. Refused with
    /// [`Refusal::RepositoryUnsettled`](crate::Refusal::RepositoryUnsettled) while the repository is being filled,
    /// changed or compared, as is `DiscardOrphans`. Reply: `Done`.
    NoteOrphans(Box<NoteOrphans>),
    /// Makes objects garbage that two scans have seen and that the catalog does not know. An object is passed over if
    /// the catalog knows it or owes it; if it was noted after `began`, or while a session was open that is still open;
    /// or if its name is from an earlier era. Reply: `Discarded`.
    DiscardOrphans(Box<DiscardOrphans>),
    /// Makes this the lowest generation that names are assigned with, unless it is higher already: names below it may
    /// have been used by a catalog that is lost. Reply: `Done`.
    RaiseFloor {
        /// The generation.
        generation: Generation,
    },

    /// Hands out a join token. Where the number of tokens has reached its limit, the records of expired tokens are
    /// forgotten; if none has expired, the record of the token that was used first. Reply: `Done`.
    CreateToken {
        /// Its identifier.
        id: TokenId,
        /// Hash of its secret.
        secret_hash: [u8; 32],
        /// The bearer's role.
        role: TokenRole,
        /// When it expires, in seconds since the Unix epoch.
        expires: i64,
    },
    /// Uses the token of a client or an administrator up. The same request again gets the same answer, for as long as
    /// the token's record is kept. Reply: `Joined`.
    RedeemToken {
        /// The token, and the request that uses it up.
        redemption: Redemption,
        /// The name that the bearer will have.
        name: String,
    },

    /// Writes a line to the audit trail, for an event that changes nothing else in the catalog. Reply: `Done`.
    Audit {
        /// The event, in words.
        what: String,
    },

    /// Takes in the objects that a repository describes, while a catalog is rebuilt from it. Chunks come by
    /// `AddChunks`, writers by `AdoptWriter`. Reply: `Done`.
    Adopt(Box<Adopt>),

    /// Uses the token of a member that is no node up, and notes its certificate. The name must be free, or the token
    /// made to replace: no certificate of another key may count under it. From level
    /// [`CERTIFICATES`](crate::apply::CERTIFICATES), as the next two. Reply: `Joined`.
    IssueCertificate(Box<IssueCertificate>),
    /// A certificate was renewed, or one is in use that the catalog does not know. Refused for a key that was revoked.
    /// Reply: `Done`.
    NoteCertificate(Box<NoteCertificate>),
    /// The certificates of a name count no more, known ones and unknown ones, nor the unused tokens that their holders
    /// have made. Reply: `Revoked`.
    RevokeCertificates(Box<RevokeCertificates>),
    /// Hands out a join token, as `CreateToken`, and remembers who has made it. Refused to a revoked administrator.
    /// Reply: `Done`.
    HandOutToken(Box<HandOutToken>),

    /// A running backup begins to note its uses of chunks: from here on nothing of its stanza expires or is released
    /// until it is committed or given up, so that the node that reads both manifests compares them with uses that do
    /// not change. Reply: `Done`.
    StageUses {
        /// The stanza.
        stanza: StanzaName,
        /// The session that holds the stanza's backup lock.
        session: SessionId,
        /// The label that the backup was begun with.
        label: BackupLabel,
        /// The digest of its manifest.
        manifest: Digest,
    },
    /// Notes uses of chunks, of a staged backup or of one that is listed. A staged backup's are refused with
    /// [`Refusal::ChunkMissing`](crate::Refusal::ChunkMissing) where its stanza has no right to a chunk. Reply: `Done`.
    NoteUses(Box<NoteUses>),
    /// Deaths of uses could not be noted, since the manifest before could not be read: the stanza is to be listed.
    /// Reply: `Done`.
    DoubtUses {
        /// The stanza.
        stanza: StanzaName,
    },
    /// All uses of a stanza are noted. Refused with [`Refusal::Recheck`](crate::Refusal::Recheck) where it was doubted
    /// again since. Reply: `Done`.
    EndListing(Box<EndListing>),
    /// Drops uses of a backup that noted them and was given up, and releases the chunks in repositories that do not
    /// need them. Reply: `Released`.
    DropUses(Box<DropUses>),
    /// One repository keeps backups no more. All or none: refused where one is held, and where the repository would be
    /// left without a full backup of the database of its newest one. Reply: `Expired`.
    ExpireBackups(Box<ExpireBackups>),
    /// One repository keeps WAL files no more. Files are passed over that a backup needs that the repository keeps, and
    /// files of which it has the only copy while another repository owes one. Reply: `ExpiredWal`.
    ExpireWal(Box<ExpireWal>),
    /// Withdraws the replicas of chunks that no backup needs that the repository keeps; chunks that no backup needs
    /// anywhere are condemned. Each is judged by the uses that the catalog knows. Reply: `Released`.
    Release(Box<Release>),
    /// All that an expired backup alone needed in a repository is released. Reply: `Done`.
    EndRelease {
        /// The repository.
        repo: RepoKey,
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// When it expired.
        since: LogIndex,
    },
    /// Withdraws replicas of chunks in a repository that does not need them, as `Release` does. Reply: `Released`.
    Trim {
        /// The repository.
        repo: RepoKey,
        /// The chunks.
        chunks: Vec<Digest>,
    },
    /// Holds a backup, or releases it. Reply: `Held`.
    HoldBackup(Box<HoldBackup>),

    /// A stanza whose backup runs gets the rights to chunks that another stanza of its certificate has, without
    /// showing the content. Reply: `Done`.
    ShareRights(Box<ShareRights>),
    /// Certificates with their authority, and the rotation of that. From level
    /// [`AUTHORITIES`](crate::apply::AUTHORITIES).
    Authority(Box<AuthorityCommand>),
}
