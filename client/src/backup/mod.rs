//! `pgmesh backup` on a PostgreSQL host.
//!
//! ```text
//! flow ─ take ─┬─ plan      the entries of the walk, packed, as jobs in order
//!              ├─ feed      jobs with their past in the prior backup → queue, which keeps readers near each other
//!              ├─ reader    threads: files → pieces, page checksums (pages), small files together (bundle)
//!              ├─ uploader  pieces → chunks that the mesh lacks, compressed and sent
//!              └─ manifest  entries in the order of the walk → parts, which are pieces too
//!        standby a standby's files instead of the primary's
//!        wal    the segments from start to stop, awaited
//!        proof  that the archived WAL is the server's own
//!        commit the manifest's root, and the mesh's answer
//! ```
//!
//! Everything between the stages is a bounded channel: when the mesh is slow the readers wait (invariant 11). A backup
//! that was killed resumes for free, because its chunks are in the mesh already.

mod bundle;
mod changed;
mod changes;
mod commit;
mod context;
mod delta;
mod feed;
mod flow;
#[cfg(test)]
mod histories;
mod job;
mod label;
mod manifest;
mod output;
mod pages;
mod plan;
mod prior;
mod proof;
mod queue;
mod reader;
mod selection;
mod settings;
mod source;
mod standby;
mod summary;
mod take;
mod tally;
mod uploader;
mod wal;

pub use flow::run;
pub use proof::WalProof;
pub use settings::{BackupSettings, StandbyWish};
pub use summary::BackupSummary;
