//! The catalog of a mesh: which objects are stored where, and which commands may change them.
//!
//! ```text
//! Catalog ── propose(Command) ──► Raft log (RocksDB, synced) ──► apply ──► tables (RocksDB)
//!    └────── view(), view_linearizable() ──────────────────────────────► View (reads)
//! ```
//!
//! Layers, lowest first:
//! - [`model`]: the records of every table.
//! - [`command`], [`reply`], [`refusal`]: the commands of the catalog and its answers.
//! - [`limits`]: the largest sizes.
//! - [`table`], [`key`], [`value`]: tables, order-preserving keys, and values behind a format byte.
//! - [`apply`](mod@apply): the pure function from state and command to new state (invariant 10).
//! - [`store`]: the log store and the state store on RocksDB, snapshots.
//! - [`view`]: queries over the applied state.
//! - [`catalog`], [`peers`], [`options`], [`status`]: the openraft glue, the messages between nodes, and the settings.
//!
//! This crate knows nothing of networks and opens no repository.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests may spawn without a name and read the clock"
    )
)]

pub mod apply;
pub mod catalog;
pub mod command;
pub mod consensus;
mod disk_pace;
pub mod error;
mod failure;
pub mod key;
pub mod limits;
pub mod model;
mod network;
pub mod options;
pub mod peers;
pub mod refusal;
pub mod reply;
pub mod status;
pub mod store;
pub mod table;
pub mod value;
pub mod view;

pub use apply::{AUTHORITIES, CERTIFICATES, FIRST_SEEN, LEVEL};
pub use catalog::{Catalog, Lead, Regrouped};
pub use command::{Command, Proposal};
pub use disk_pace::AppendTimes;
pub use error::{CatalogError, ReadError};
pub use model::{
    Amount, AuditRecord, AuthorityId, BackupRecord, Branch, CatalogLoss, CatalogPast, CertificateRecord,
    CertificateRole, ChangeKind, ChunkRecord, ChunkState, Claim, CondemnedChunk, Database, Debt, DebtReason, EndedScan,
    ExpiredIn, Garbage, GarbageKey, GarbageObject, HistoryRecord, Hold, Judgement, Known, LastPush, Levels, Lineage,
    LogIndex, Lost, MeshRecord, NodeName, NodeRecord, NodeService, ObjectRef, Orphan, OrphanScan, OrphanTally,
    PlacedIdentity, Redeemed, Redemption, Replica, RepositoryChange, RepositoryCounters, RepositoryMark,
    RepositoryRecord, RequestId, Revocation, Rotation, RotationStep, RunningBackup, SegmentRecord, Server, SessionId,
    SessionKind, SessionRecord, SightedOrphan, StanzaRecord, StoredObject, TokenId, TokenRecord, TokenRole, Unlisted,
    UseEvent, VotePolicy, WithdrawnMarks, Writer, short_key,
};
pub use options::{CatalogOptions, own_level};
pub use pgmesh_protocol::{EntryId, EntryIdError};
pub use refusal::{AuthorityRefusal, ExpiryRefusal, Refusal};
pub use reply::Reply;
pub use status::{CatalogStatus, Lack, Role, Shortfall, Standing};
pub use view::{Rights, View};
