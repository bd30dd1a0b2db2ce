//! The daemon of a pgmesh node: archive, backup, restore and administration services over one catalog and several
//! repositories.
//!
//! ```text
//! server ── authorize ── services ──┬── repositories (fan-out, best replica)
//!   │                               ├── committer, sessions ──► catalog (pgmesh-raft)
//!   │                               └── refs: catalog name ⇄ name at rest
//!   ├── links, consensus ──► other nodes
//!   └── supervisor ── workers: opening, marking, repair, garbage, sweep, announcing, renewal; on the leader also leading, backfilling
//! ```
//!
//! - The messages are [`pgmesh_protocol`]'s; `bounds` has their largest sizes.
//! - `server` accepts, `dispatch` serves a connection, `authorize` decides by role, `services` carry out.
//! - `repositories` write to all at once and read from the best one; `health` ranks them.
//! - `certificates` lists and revokes certificates, `worth` decides which of them count, `failed_joins` limits the
//!   joins of strangers; `acquaintances` are the nodes that a node takes for members before its catalog does.
//! - `links` are the ways to other nodes, `consensus` carries Raft over them.
//! - [`rebuild`]: a catalog made anew from one repository alone; no network.
//! - A node is made of parts, each with the state that it alone uses (decision 41): `reads`, `archive`, `backups`,
//!   `janitor`, `membership`. They share the `core`. The services without a part are in `node`.
//! - `workers` names the background tasks, `supervisor` keeps them running.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests may spawn without a name and read the clock"
    )
)]

// A file that the tests beside the crate share names it from outside.
#[cfg(test)]
extern crate self as pgmesh_node;

mod acquaintances;
mod anew;
mod announcing;
mod archive;
mod authorize;
mod awake;
mod backups;
mod bloom;
pub mod bounds;
mod budget;
mod certificates;
mod committer;
mod consensus;
mod core;
mod dispatch;
mod exchange;
mod failed_joins;
mod fate;
mod handover;
mod health;
mod init;
mod introductions;
mod janitor;
mod join;
mod leading;
mod links;
mod membership;
mod mesh_file;
#[cfg(test)]
mod model;
mod node;
mod past;
mod pending_key;
mod reads;
pub mod rebuild;
mod refs;
mod renewal;
mod replies;
mod repositories;
pub mod rescue;
mod rotation;
mod server;
mod services;
mod sessions;
mod settings;
mod shut_out;
mod stuck;
mod supervisor;
#[cfg(test)]
mod testing;
mod verifications;
mod wal_holes;
mod wal_ranges;
mod workers;
mod worth;

/// The catalog's format, of this program and of its mesh.
pub const CATALOG_FORMAT: u32 = pgmesh_raft::MeshRecord::CATALOG_FORMAT;
/// The highest level at which this program applies commands of the catalog.
pub const APPLY_LEVEL: u32 = pgmesh_raft::LEVEL;

pub use init::{Initialized, init};
pub use join::{Joined, Redeemed, join, redeem_by_token};
pub use mesh_file::MeshFile;
pub use node::Node;
pub use pending_key::{forget_pending_keys, pending_key};
pub use server::{Ended, run};
pub use sessions::SessionTimes;
pub use settings::{Layout, NodeSettings, RepositorySettings};
