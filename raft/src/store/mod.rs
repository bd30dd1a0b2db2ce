//! Where the catalog lies on a node's disk.
//!
//! ```text
//! catalog.json          written last when a catalog is made; without it there is none
//! lock                  locked by the process that uses the catalog
//! log/                  RocksDB: Raft's log, vote, node identifier, entries to skip; every append is synced
//! state/CURRENT         the name of the state database in use
//! state/db-<n>/         RocksDB: the tables
//! state/SNAPSHOT        the name of the newest snapshot, and what openraft knows of it
//! state/snapshot-<n>/   RocksDB: the newest snapshot, a checkpoint of the state database
//! ```

mod chain;
mod files;
mod folder;
mod kept;
mod ledger;
mod log;
mod mark;
mod pack;
mod rebuild;
mod skipped;
mod state;
mod state_db;
mod stream;

#[cfg(test)]
mod costs;
#[cfg(test)]
mod tests;

pub use chain::{Compared, Link};
pub use folder::Folder;
pub use log::LogStore;
pub use mark::Mark;
pub(crate) use mark::entry_id;
pub use state::StateStore;
pub use state_db::{RaftState, StateDb};
pub use stream::SnapshotStream;
