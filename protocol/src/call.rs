//! The requests: the number of each on the wire, its reply, and how long each may be.
//!
//! A request is a type that implements [`Call`]; the table below is the only place that declares its number, reply and
//! limits. A node gets a [`Request`], an enum of all of them. Each decision by request (which role may send it, how
//! large its parts may be, whether it rests on the catalog) is a `match` without an arm for all others: a new request
//! does not compile before each has been decided.

use crate::choice::{Chosen, PriorChoice};
use crate::*;
use pgmesh_storage::wire::{self, DecodeError};
use pgmesh_storage::{BackupLabel, PayloadHead, StanzaName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// The bytes of a request's number, in front of its encoding.
pub const NUMBER_LENGTH: usize = 2;

/// The limit for a request of names and numbers.
const SMALL: usize = 1 << 10;
/// The limit for a request with a few short texts that programs make, or with numbers of repositories.
const SHORT: usize = 8 << 10;
/// The limit for a request with texts that people give. It is far above the limits of the texts, so that a text that is
/// too long arrives, and the answer names it.
const TEXTS: usize = 64 << 10;
/// The length of an encoded digest, and room for the lengths around a list of them.
const DIGEST: usize = 36;
/// An encoded label of a backup.
const LABEL: usize = 40;
/// An encoded stretch of WAL.
const STRETCH: usize = 2 * 32;
/// The targets of an object: repositories with their identities, encoded. A request names each repository at most
/// twice.
const TARGETS: usize = 2 * pgmesh_storage::RepoKey::MAX as usize * 300;
/// The options of a repository, 64 of them, each with a value of at most 4 KiB.
const OPTIONS: usize = 64 * (4096 + 300);
/// The stanzas of a token, 1024 of them, and its addresses.
const STANZAS: usize = 128 << 10;

/// A request, and the contract around it: see the table in `call.rs`.
///
/// ```
/// use pgmesh_protocol::{Call, ListNodes, NUMBER_LENGTH, Request};
///
/// let message = ListNodes.message();
/// assert!(message.len() <= ListNodes::MAX);
/// let request = Request::decode(ListNodes::NUMBER, &message[NUMBER_LENGTH..])?;
/// assert_eq!(request.unwrap().name(), "node list");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Call: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + Into<Request> {
    /// The message that answers the request, or each of several messages; on the wire it is a `Result` of this or a
    /// [`Failure`].
    type Reply: Serialize + DeserializeOwned + Debug + Send + Sync;
    /// The request's number on the wire, for ever: the number of a removed request is not given out again.
    const NUMBER: u16;
    /// The request's name, for logs and messages.
    const NAME: &'static str;
    /// The longest request, number included.
    const MAX: usize;
    /// The longest message that answers the request.
    const REPLY_MAX: usize;
    /// The longest body that follows an answer.
    const BODY_MAX: u64;

    /// The message: number and encoding.
    fn message(&self) -> Vec<u8> {
        let mut message = Self::NUMBER.to_le_bytes().to_vec();
        message.extend(wire::encode(self));
        message
    }
}

/// A visitor of all types of requests ([`Request::each`]). For example, a test writes down the bytes of each.
pub trait EachCall {
    /// Visits the type `C`.
    fn call<C: Call>(&mut self);
}

/// Declares [`Request`] and implements [`Call`] for each row of the table: `number variant(type) -> reply, longest
/// message, name;`, and constants where they differ from the usual ones.
macro_rules! calls {
    ($($(#[$doc:meta])* $number:literal $variant:ident($call:ty) -> $reply:ty, $max:expr, $name:literal
        $(, reply at most $reply_max:expr)? $(, body at most $body_max:expr)?;)*) => {
        /// A request, as it arrives: the first message on a stream.
        #[derive(Debug, Clone)]
        pub enum Request {
            $($(#[$doc])* $variant($call),)*
        }

        $(
            impl Call for $call {
                type Reply = $reply;
                const NUMBER: u16 = $number;
                const NAME: &'static str = $name;
                const MAX: usize = $max;
                const REPLY_MAX: usize = first_of!($($reply_max,)? MESSAGE_LIMIT);
                const BODY_MAX: u64 = first_of!($($body_max,)? BODY_LIMIT);
            }

            impl From<$call> for Request {
                fn from(call: $call) -> Self {
                    Self::$variant(call)
                }
            }
        )*

        impl Request {
            /// Visits each type of request, in the order of the table.
            pub fn each(what: &mut impl EachCall) {
                $(what.call::<$call>();)*
            }

            /// The numbers of all requests, in the order of the table.
            pub const NUMBERS: &[u16] = &[$($number),*];

            /// The longest message with this number; none where no request has it.
            pub const fn max(number: u16) -> Option<usize> {
                match number {
                    $($number => Some($max),)*
                    _ => None,
                }
            }

            /// The name of the request with this number; none where no request has it.
            pub const fn name_of(number: u16) -> Option<&'static str> {
                match number {
                    $($number => Some($name),)*
                    _ => None,
                }
            }

            /// Reads the request with this number from `encoded`, the bytes behind the number. None where no request
            /// has the number.
            ///
            /// # Errors
            /// The bytes are not such a request.
            pub fn decode(number: u16, encoded: &[u8]) -> Result<Option<Self>, DecodeError> {
                match number {
                    $($number => wire::decode::<$call>(encoded, $max).map(|call| Some(Self::$variant(call))),)*
                    _ => Ok(None),
                }
            }

            /// Its number on the wire.
            pub const fn number(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $number,)*
                }
            }

            /// Its name, for logs and messages.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// The message: number and encoding.
            pub fn message(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(call) => call.message(),)*
                }
            }
        }
    };
}

/// The first of the given values.
macro_rules! first_of {
    ($first:expr $(, $other:expr)*) => {
        $first
    };
}

calls! {
    /// Asks for the mesh's identity, digests and nodes: a client's first request.
    1 Hello(Hello) -> MeshFacts, SMALL, "hello";
    /// Archives one WAL file; its payload follows as the body. If the file lies in parts, a [`PartsTurn`] comes first,
    /// then the parts follow, and then the reply.
    2 PushSegment(PushSegment) -> Pushed, TEXTS, "archive-push";
    /// Reads one WAL file. With a body when it was found.
    3 GetSegment(GetSegment) -> SegmentReply, TEXTS, "archive-get";
    /// Opens a backup session and takes the stanza's backup lock.
    4 BeginBackup(BeginBackup) -> BackupBegun, SHORT, "backup begin";
    /// Which of these chunks does the mesh hold? The reply is in the order asked.
    5 QueryChunks(QueryChunks) -> Vec<bool>, SMALL + QUERY_LIMIT * DIGEST, "chunk query";
    /// Stores one chunk; its payload follows. The reply is the bytes stored in one repository.
    6 PutChunk(PutChunk) -> u64, SMALL, "chunk put";
    /// Writes the manifest and commits the backup; the manifest's payload follows.
    7 CommitBackup(CommitBackup) -> CommittedBackup, SMALL, "backup commit";
    /// Opens a restore session: while it is open, nothing is deleted that was not garbage before.
    8 BeginRestore(BeginRestore) -> RestoreBegun, SHORT, "restore begin";
    /// Goes on with a session that was begun through another connection that is gone, perhaps to another node.
    9 ResumeSession(ResumeSession) -> (), SMALL, "session resume";
    /// Says that the holder of a session works, though it has nothing else to ask for.
    10 KeepSession(KeepSession) -> (), SMALL, "session keep-alive";
    /// Gives a session up, and with it a backup's lock.
    11 EndSession(EndSession) -> (), SMALL, "session end";
    /// Ends any session, also another client's. The reply names its kind, stanza and holder.
    12 TerminateSession(TerminateSession) -> String, SMALL, "session-end";
    /// Accepts that the end of the catalog is lost.
    13 AcceptLoss(AcceptLoss) -> (), SMALL, "catalog-accept-loss";
    /// Reads a backup's manifest. With a body.
    14 GetManifest(GetManifest) -> PayloadHead, SMALL, "manifest read";
    /// Reads one chunk. With a body.
    15 GetChunk(GetChunk) -> ChunkReply, SHORT, "chunk read", body at most CHUNK_BODY_LIMIT;
    /// Reads pieces of one chunk, which the node checks. With a body.
    16 GetPieces(GetPieces) -> ChunkReply, SHORT, "chunk pieces read";
    /// The stanzas, backups, archives and repositories, for `info` and `check`.
    17 Info(GetInfo) -> MeshInfo, SMALL, "info";
    /// Which backup would a new one be compared with?
    18 ChoosePrior(ChoosePrior) -> PriorChoice, SMALL, "choice of a prior backup";
    /// Which backup does a restore need?
    19 ChooseBackup(ChooseBackup) -> Chosen, SMALL, "choice of a backup";
    /// Where the WAL from one position to another is.
    20 ArchiveStatus(ArchiveStatus) -> SegmentPresence, SHORT, "archive status";
    /// Reads and checks everything. Any number of replies, the last being `Done` or `Failed`.
    21 Verify(VerifyRequest) -> VerifyEvent, SHORT, "verify";
    /// Creates a stanza, or says that it is as asked.
    22 CreateStanza(CreateStanza) -> NewStanza, SHORT, "stanza-create";
    /// Starts a new database id after a major upgrade.
    23 UpgradeStanza(UpgradeStanza) -> NewStanza, SHORT, "stanza-upgrade";
    /// Makes a data directory the writer of its timeline (invariant 12).
    24 AdoptStanza(AdoptStanza) -> AdoptedStanza, SHORT, "stanza-adopt";
    /// Forgets the end of a timeline that another history of the cluster has otherwise (invariant 12).
    25 ForgetWal(ForgetWal) -> ForgottenWal, TEXTS, "archive-forget";
    /// Deletes a stanza with all its backups and WAL.
    26 DeleteStanza(DeleteStanza) -> DeletedStanza, SMALL, "stanza-delete";
    /// Stops or starts a stanza, or all. The reply is the number of sessions that were ended.
    27 SetStopped(SetStopped) -> u64, TEXTS, "stop/start";
    /// Changes a backup's annotations.
    28 Annotate(AnnotateBackup) -> (), TEXTS, "annotate";
    /// Lists objects.
    29 ListRepository(ListRepository) -> RepositoryListing, TEXTS, "repo-ls";
    /// Reads an object, checked and decrypted. With a body.
    30 ReadRepository(ReadRepository) -> PayloadHead, TEXTS, "repo-get";
    /// Makes a join token.
    31 Invite(CreateInvite) -> Invite, STANZAS, "invite";
    /// Redeems a join token; the only request served without a certificate.
    32 Join(JoinRequest) -> JoinAccepted, JOIN_LIMIT, "join";
    /// Sets this node's definition of a repository in the catalog. The reply is the options that changed.
    33 UpdateRepository(UpdateRepository) -> Vec<String>, SMALL + OPTIONS, "repo-update";
    /// Puts an empty repository, at the place that the asked node's file declares, where one was lost with its disk.
    /// The repository owes all its objects from then on. If an older copy of the repository is at the place, the mesh
    /// takes the copy up.
    34 ReplaceRepository(ReplaceRepository) -> Replaced, SMALL, "repo-replace";
    /// Forgets a repository. Its objects are not deleted.
    35 RemoveRepository(RemoveRepository) -> (), SMALL, "repo-remove";
    /// Gives a new certificate for the client's present one, of the same name and role.
    36 Renew(RenewCertificate) -> JoinAccepted, JOIN_LIMIT, "certificate renewal";
    /// The nodes of the mesh.
    37 ListNodes(ListNodes) -> Vec<NodeInfo>, SMALL, "node list";
    /// Changes a node's part in the mesh. The reply comes when the change is done.
    38 ChangeNode(ChangeNode) -> (), TEXTS, "node change";
    /// How the whole mesh does, as the asked node can find out.
    39 Status(GetStatus) -> MeshStatus, SMALL, "status";
    /// Owes a repository all objects that the others have, and tells how the debt goes down. Any number of replies, the
    /// last being `Done` or `Failed`.
    40 SyncRepository(SyncRepository) -> SyncEvent, SMALL, "repo-sync";
    /// Which blocks has the WAL changed?
    41 ChangeMaps(ChangeMaps) -> ChangeMapsReply, SMALL, "change map read";

    /// The certificates that the mesh has issued, in the order of their keys.
    42 ListCertificates(ListCertificates) -> CertificatePage, SMALL, "client list";
    /// The certificates of a name count no more, on any node.
    43 RevokeCertificates(RevokeCertificates) -> RevokedCertificates, TEXTS, "client revoke";

    /// The backups and archives of a stanza that one repository keeps.
    44 GetRetained(GetRetained) -> Retained, SMALL, "retention read";
    /// One repository keeps these backups no more.
    45 ExpireBackups(ExpireBackups) -> ExpiredBackups, TEXTS + EXPIRED_AT_ONCE * LABEL, "expire";
    /// One repository keeps this WAL no more.
    46 ExpireWal(ExpireWal) -> ExpiredWal, TEXTS + EXPIRED_AT_ONCE * STRETCH, "expire of WAL";
    /// A backup must not expire, or may again. The reply names the backups that it holds with it.
    47 HoldBackup(HoldBackup) -> Vec<BackupLabel>, TEXTS, "hold";
    /// Gives the mesh a new certificate authority, retires its former one, or gives the new one up.
    48 RotateAuthority(RotateAuthority) -> AuthorityRotation, SMALL, "authority rotation";

    /// Between nodes: a message of the Raft group. The reply is one, too; both are encoded by the group's own types.
    64 Raft(Consensus) -> Consensus, CONSENSUS_LIMIT, "consensus", reply at most CONSENSUS_LIMIT;
    /// Between nodes: the asking node has started, with these addresses and this program.
    65 Announce(Announce) -> (), SHORT, "announcement";
    /// Between nodes: the mesh's certificate authority, key included.
    66 Authority(GetAuthority) -> AuthorityKey, SMALL, "authority";
    /// Between nodes: how the asked node does.
    67 NodeStatus(GetNodeStatus) -> NodeStatus, SMALL, "node status";
    /// Between nodes: writes an object to repositories that the asked node hosts or reaches; its payload follows. One
    /// reply for each target, as each comes to its end.
    68 StoreObject(StoreObject) -> TargetOutcome, SMALL + TARGETS, "object store";
    /// Between nodes: reads an object from a repository that the asked node hosts or reaches. With a body when it was
    /// found.
    69 ReadObject(ReadObject) -> ObjectAnswer, SHORT, "object read";
    /// Between nodes: deletes an object that nothing needs any more.
    70 DeleteObject(DeleteObject) -> Result<(), RemoteError>, SHORT, "object delete";
    /// Between nodes, to the leader: deletes all garbage now.
    71 CollectGarbage(CollectGarbage) -> Collected, SMALL, "garbage collection";
    /// Between nodes: the asking node's disk lacks entries that it has acknowledged; the reply is another number for
    /// it.
    72 BeginAnew(BeginAnew) -> NewNumber, TEXTS, "new beginning";
    /// Between nodes: is this node a member of the mesh?
    73 Vouch(Vouch) -> Vouched, SHORT, "word for a node";
    /// Between nodes, to the leader: may this voter lose its vote, or would the others be stuck?
    74 MayLeave(MayLeave) -> (), SMALL, "question whether a voter may leave";
    /// Between nodes: one of the mesh's certificate authorities while it is rotated, key included.
    75 AuthorityOf(GetAuthorityOf) -> AuthorityKey, SMALL, "authority of a rotation";
}

/// Two requests with one number do not compile.
const _: () = {
    let mut rest = Request::NUMBERS;
    while let [first, others @ ..] = rest {
        let mut next = others;
        while let [second, behind @ ..] = next {
            assert!(*first != *second, "two requests have one number");
            next = behind;
        }
        rest = others;
    }
};

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
            Self::KeepSession(r) => Some(&r.stanza),
            Self::EndSession(r) => Some(&r.stanza),
            Self::DeleteStanza(r) => Some(&r.stanza),
            Self::GetManifest(r) => Some(&r.stanza),
            Self::GetChunk(r) => Some(&r.stanza),
            Self::GetPieces(r) => Some(&r.stanza),
            Self::Info(r) => r.stanza.as_ref(),
            Self::ChoosePrior(r) => Some(&r.stanza),
            Self::ChooseBackup(r) => Some(&r.stanza),
            Self::ArchiveStatus(r) => Some(&r.stanza),
            Self::Verify(r) => r.stanza.as_ref(),
            Self::CreateStanza(r) => Some(&r.stanza),
            Self::UpgradeStanza(r) => Some(&r.cluster.stanza),
            Self::AdoptStanza(r) => Some(&r.cluster.stanza),
            Self::ForgetWal(r) => Some(&r.stanza),
            Self::SetStopped(r) => r.stanza.as_ref(),
            Self::Annotate(r) => Some(&r.stanza),
            Self::GetRetained(r) => Some(&r.stanza),
            Self::ExpireBackups(r) => Some(&r.stanza),
            Self::ExpireWal(r) => Some(&r.stanza),
            Self::HoldBackup(r) => Some(&r.stanza),
            Self::Hello(_)
            | Self::TerminateSession(_)
            | Self::AcceptLoss(_)
            | Self::ListRepository(_)
            | Self::ReadRepository(_)
            | Self::Invite(_)
            | Self::Join(_)
            | Self::UpdateRepository(_)
            | Self::ReplaceRepository(_)
            | Self::RemoveRepository(_)
            | Self::Renew(_)
            | Self::ListCertificates(_)
            | Self::RevokeCertificates(_)
            | Self::RotateAuthority(_)
            | Self::AuthorityOf(_)
            | Self::ListNodes(_)
            | Self::ChangeNode(_)
            | Self::Status(_)
            | Self::SyncRepository(_)
            | Self::Raft(_)
            | Self::Announce(_)
            | Self::Authority(_)
            | Self::NodeStatus(_)
            | Self::BeginAnew(_)
            | Self::Vouch(_)
            | Self::MayLeave(_)
            | Self::StoreObject(_)
            | Self::ReadObject(_)
            | Self::DeleteObject(_)
            | Self::CollectGarbage(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_number_and_its_encoding() {
        let keep = KeepSession {
            stanza: "main".parse().unwrap(),
            session: 7,
        };
        let message = keep.message();
        assert_eq!(message, [10, 0, 4, b'm', b'a', b'i', b'n', 7]);
        assert_eq!(Request::from(keep).message(), message);
        let read = Request::decode(10, &message[NUMBER_LENGTH..]).unwrap();
        assert!(
            matches!(read, Some(Request::KeepSession(KeepSession { session: 7, .. }))),
            "{read:?}"
        );
    }

    #[test]
    fn a_number_that_no_request_has_is_none() {
        for number in [0, 49, 63, 76, u16::MAX] {
            assert!(Request::decode(number, &[]).unwrap().is_none());
            assert_eq!((Request::max(number), Request::name_of(number)), (None, None));
        }
    }

    /// A node reads the whole request of a PG host into memory before it looks at any part.
    #[test]
    fn no_request_is_longer_than_a_message_but_that_of_consensus() {
        for number in Request::NUMBERS.iter().filter(|number| **number != Consensus::NUMBER) {
            assert!(
                Request::max(*number).is_some_and(|max| max < MESSAGE_LIMIT / 8),
                "{number}"
            );
        }
        assert_eq!(JoinRequest::MAX, JOIN_LIMIT);
    }
}
