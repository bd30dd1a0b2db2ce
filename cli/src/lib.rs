//! The `pgmesh` program, as a library of its flows.
//!
//! ```text
//! main ── run (dispatch) ─┬─ config     one table of options: command line, environment, file
//!                         ├─ logging    log lines to stderr and a file
//!                         ├─ help       help, version, manual page, completions
//!                         └─ commands   results through output, progress on a terminal
//!                              ├─ mesh      the connection to whichever node answers
//!                              ├─ pg        the running cluster on this host
//!                              ├─ wal_push  WAL files of this host
//!                              └─ backup, restore
//! ```
//!
//! Every failure ends as a [`exit::CommandError`]: what happened, why, what to do now, and the exit code.

mod activity;
mod allocator;
pub mod backup;
mod commands;
pub mod config;
mod crc;
mod dispatch;
pub mod exit;
mod extents;
mod failed;
pub mod help;
mod host;
pub mod logging;
mod manual;
pub mod mesh;
mod node_file;
pub mod output;
pub mod pg;
pub mod progress;
mod read_at;
#[cfg(test)]
mod reference;
pub mod restore;
mod wal_push;
mod wal_sink;

pub use dispatch::run;
