//! The daemon of a pgmesh node: archive, backup, restore and administration services over one catalog and several
//! repositories.
//!
//! ```text
//! server ── authorize ── services ──┬── repositories (fan-out, best replica)
//!   │                               ├── committer, sessions ──► catalog (pgmesh-raft)
//!   │                               └── refs: catalog name ⇄ name at rest
//!   ├── links, consensus ──► other nodes
//!   └── workers: opening, marking, repair, garbage, sweep, announcing, renewal; on the leader also leading, backfilling
//! ```
//!
//! - The messages are [`pgmesh_protocol`]'s; `bounds` says how large they may be.
//! - `server` accepts, `dispatch` serves a connection, `authorize` decides by role, `services` carry out.
//! - `repositories` write to all at once and read from the best; `health` says which that is.
//! - `shut_out` says whose certificate counts, `acquaintances` whom a node takes for a member before its catalog does.
//! - `links` are the ways to other nodes, `consensus` carries Raft over them, `membership` says who votes.
//! - [`rebuild`]: a catalog made anew from what a repository says of itself; no network.
//! - `wal_holes`: WAL that is missing between archived WAL, and the recovery targets that it costs.
//! - `backfilling` owes a new repository what is known already; `lost` says what nobody can repair, and what that
//!   costs.
//! - `repair` pays debts, `sweep` finds chunks that nothing refers to, `orphans` objects that the catalog does not
//!   know, `garbage` deletes them.

// A file that the tests beside the crate share names it from outside.
#[cfg(test)]
extern crate self as pgmesh_node;

mod acquaintances;
mod anew;
mod announcing;
mod asker;
mod authorize;
mod awake;
mod backfilling;
mod bloom;
pub mod bounds;
mod budget;
mod committer;
mod consensus;
mod dispatch;
mod fate;
mod garbage;
mod handover;
mod health;
mod init;
mod join;
mod leading;
mod links;
mod lost;
mod membership;
mod mesh_file;
#[cfg(test)]
mod model;
mod node;
mod orphans;
mod pace;
mod past;
mod read_log;
pub mod rebuild;
mod refs;
mod renewal;
mod repair;
mod repair_parts;
mod repositories;
pub mod rescue;
mod server;
mod services;
mod sessions;
mod settings;
mod shut_out;
mod stock;
mod stuck;
mod sweep;
#[cfg(test)]
mod testing;
mod wal_holes;
mod wal_ranges;

pub use init::{Initialized, init};
pub use join::{Joined, connect_by_token, join};
pub use mesh_file::MeshFile;
pub use node::Node;
pub use server::{Ended, run};
pub use sessions::SessionTimes;
pub use settings::{Layout, NodeSettings, RepositorySettings};
