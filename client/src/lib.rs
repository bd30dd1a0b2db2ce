//! The work of a PostgreSQL host, as a library: for the `pgmesh` program, and for a process that stays.
//!
//! ```text
//! backup      a cluster into the mesh          restore     a backup into a data directory
//! wal_push    WAL files into the mesh          wal_get     one file out of the archive
//! expire      retention in each repository
//!      │            │                              │            │
//!      ├────────────┼──────────────────────────────┼────────────┤
//!      ▼            ▼                              ▼            ▼
//! pg          the running cluster            mesh        requests over the nearest node
//! ```
//!
//! - Settings come in structs ([`mesh::AccessSettings`], [`pg::PgSettings`], [`wal_push::PushSettings`],
//!   [`backup::BackupSettings`], [`restore::RestoreSettings`]). Nothing here reads a configuration or a command line.
//! - The program around it is a [`caller::Caller`]: it shows progress ([`progress`]) and says when work is to be given
//!   up. Nothing here writes to a terminal, catches a signal or ends the process. Log messages go to `tracing`.
//! - A failure is a [`pgmesh_protocol::Failure`]: what happened, why, and what to do now, with pgBackRest's exit code.
//!
//! No part of a node is linked: neither consensus nor the catalog's database. `tests/dependencies.rs` sees to it.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests may spawn without a name and read the clock"
    )
)]

mod activity;
pub mod backup;
pub mod caller;
mod crc;
pub mod expire;
mod extents;
pub mod host;
pub mod mesh;
pub mod origin;
pub mod pg;
pub mod progress;
mod read_at;
pub mod restore;
pub mod text;
pub mod wal_get;
pub mod wal_push;
mod wal_sink;

/// The target of log events at level `detail`, which tracing does not have: between info and debug.
pub const DETAIL: &str = "pgmesh::detail";
