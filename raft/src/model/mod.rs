//! The records of the catalog's tables.

mod audit;
mod backup;
mod certificate;
mod chunk;
mod debt;
mod fence;
mod histories;
mod mesh;
mod node;
mod object;
mod orphan;
mod repository;
mod request;
mod session;
mod stanza;
mod timelines;
mod token;
mod withdrawn;

pub use audit::AuditRecord;
pub use backup::BackupRecord;
pub use certificate::{CertificateRecord, CertificateRole, Revocation, short_key};
pub use chunk::{ChunkRecord, ChunkState};
pub use debt::{CondemnedChunk, Debt, DebtReason, Garbage, GarbageKey, GarbageObject, Lost, RepositoryCounters};
pub use fence::{Judgement, Known};
pub use histories::HistoryRecord;
pub use mesh::{CatalogLoss, CatalogPast, Levels, MeshRecord};
pub use node::{NodeName, NodeNameError, NodeRecord, NodeService, VotePolicy};
pub use object::{Claim, ObjectRef, Replica, StoredObject};
pub use orphan::{Amount, EndedScan, Orphan, OrphanScan, OrphanTally, SightedOrphan};
pub use pgmesh_protocol::{Branch, LogIndex, PlacedIdentity, RequestId, Server};
pub use repository::{Backfill, ChangeKind, RepositoryChange, RepositoryMark, RepositoryRecord};
pub use request::Remembered;
pub use session::{SessionId, SessionKind, SessionRecord};
pub use stanza::{Database, LastPush, Lineage, RunningBackup, SegmentRecord, StanzaRecord, Writer};
pub use token::{Redeemed, Redemption, TokenId, TokenRecord, TokenRole};
pub use withdrawn::WithdrawnMarks;
