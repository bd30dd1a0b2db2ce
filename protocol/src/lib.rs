//! The messages between a PG host, an administrator and a node.
//!
//! One QUIC stream carries one request: a [`Call`], for some a raw body of the length that the request declares, then
//! the reply: `Result<C::Reply, Failure>`, for some followed by a raw body as well. Messages are bincode behind a
//! length. In a request, its number stands between length and encoding; by the number, a node decodes it to a
//! [`Request`]. Everything here is data, and decisions on data that a node and a PG host make alike.
//!
//! - [`Call`] and the messages of each subject; [`Failure`]: an error, as a user reads it; [`ExitCode`]: how a program
//!   ends.
//! - [`bounded`]: texts and lists with a bound, which refuse more while they are decoded.
//! - [`choice`]: which backup a restore needs, and which one the next is compared with; [`lines`]: where a history
//!   ends; [`wal_copies`]: the copies of archived files, from a listing.

mod admin;
mod alarms;
mod archive;
mod authority;
mod backup;
pub mod bounded;
mod call;
mod certificates;
pub mod choice;
mod clock;
mod entry_id;
mod exit_code;
mod expire;
pub mod failure;
mod holes;
mod info;
pub mod lines;
mod mesh;
mod names;
mod peer;
mod request;
mod server;
mod token;
mod verify;
pub mod wal_copies;

pub use admin::{
    AdoptedStanza, AnnotateBackup, ArchiveStatus, CreateInvite, CreateStanza, DeletedStanza, ForgetWal,
    ForgottenTimeline, ForgottenWal, Invite, JoinAccepted, JoinRequest, ListRepository, NewStanza, ReadRepository,
    Replaced, RepositoryListing, RepositoryObject, SegmentPresence, SetStopped,
};
pub use alarms::{StuckArchiver, WorkerAlarm, merged};
pub use archive::{ChangeMaps, ChangeMapsReply, GetSegment, PartsTurn, PushSegment, Pushed, SegmentPart, SegmentReply};
pub use authority::{AuthorityRotation, GetAuthorityOf, RotateAuthority, RotationState};
pub use backup::{
    BackupBegun, BeginBackup, BeginRestore, ChunkReply, CommitBackup, CommittedBackup, GetChunk, GetManifest,
    GetPieces, PutChunk, QueryChunks, RestoreBegun, ResumeSession,
};
pub use bounded::{EXPIRED_AT_ONCE, List, PIECES_LIMIT, QUERY_LIMIT, Text};
pub use call::{Call, EachCall, NUMBER_LENGTH, Request};
pub use certificates::{
    AuthorityMove, CertificateInfo, CertificatePage, CertificateRevoked, ListCertificates, RevokeCertificates,
    RevokedCertificates,
};
pub use choice::{ChooseBackup, ChoosePrior};
pub use clock::{now_unix, utc};
pub use entry_id::{EntryId, EntryIdError};
pub use exit_code::ExitCode;
pub use expire::{
    ExpireBackups, ExpireWal, ExpiredBackups, ExpiredFile, ExpiredWal, GetRetained, HoldBackup, HoldInfo, HoldWish,
    KeptWal, Retained, RetainedBackup, RetainedDatabase,
};
pub use failure::Failure;
pub use holes::{HoleInfo, HolesReport, StanzaHoles};
pub use info::{
    ArchiveInfo, BackupInfo, CatalogLost, DatabaseInfo, DebtInfo, GetInfo, HealthInfo, InfoCursor, KeptInfo,
    LostReport, MeshInfo, RepositoryInfo, StanzaInfo, StanzaLosses,
};
pub use mesh::{
    AmountInfo, MeshStatus, NodeAddress, NodeChange, NodeInfo, NodeRole, NodeState, NodeStatus, OrphanInfo, ReachInfo,
    ReleaseStatus, RenewCertificate, RepositoryStatus, SessionStatus, StuckRelease, SyncEvent,
};
pub use names::{LogIndex, PlacedIdentity, RequestId};
pub use peer::{
    Announce, AuthorityKey, BeginAnew, Collected, DeleteObject, JoinedNode, KnownMember, NewNode, NewNumber,
    ObjectAnswer, ReadObject, RemoteError, RemoteErrorKind, StoreObject, StoreTarget, StoredAt, TargetOutcome, Vouch,
    Vouched,
};
pub use pgmesh_storage::PayloadHead;
pub use request::{
    AcceptLoss, AdoptStanza, BODY_LIMIT, CHUNK_BODY_LIMIT, CONSENSUS_LIMIT, ChangeNode, CollectGarbage, Consensus,
    DeleteStanza, EndSession, GetAuthority, GetNodeStatus, GetStatus, Hello, JOIN_LIMIT, KeepSession, ListNodes,
    MESSAGE_LIMIT, MayLeave, MeshFacts, RemoveRepository, ReplaceRepository, SyncRepository, TerminateSession,
    UpdateRepository, UpgradeStanza,
};
pub use server::{Branch, Server};
pub use token::{TokenId, TokenSecret};
pub use verify::{Finding, FindingKind, NAMED, VerifyEvent, VerifyRequest, VerifySummary};
