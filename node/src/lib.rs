//! The daemon of a pgmesh node: archive, backup, restore and administration services over one catalog and several
//! repositories.
//!
//! ```text
//! server ── authorize ── services ──┬── repositories (fan-out, best replica)
//!   │                               ├── committer, sessions ──► catalog (pgmesh-raft)
//!   │                               └── refs: catalog name ⇄ name at rest
//!   └── workers: opening, repair, garbage, sweep
//! ```
//!
//! - [`protocol`]: the messages; [`failure`]: what goes wrong, as a user reads it.
//! - `server` accepts, `authorize` decides by role, `services` carry out.
//! - `repositories` write to all at once and read from the best; `health` says which that is.
//! - `repair` pays debts, `sweep` finds what nothing refers to, `garbage` deletes it.

mod authorize;
mod backups;
mod budget;
mod clock;
mod committer;
pub mod failure;
mod garbage;
mod health;
mod init;
mod node;
pub mod protocol;
mod refs;
mod refused;
mod repair;
mod repositories;
mod server;
mod services;
mod sessions;
mod settings;
mod sweep;
mod wal_ranges;

pub use clock::now_unix;
pub use failure::{Failure, code};
pub use init::{Initialized, init};
pub use node::Node;
pub use server::run;
pub use settings::{Layout, NodeSettings, RepositorySettings};
