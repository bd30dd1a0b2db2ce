//! The `pgmesh` program, as a library of its flows.
//!
//! ```text
//! main ── run (dispatch) ─┬─ config     one table of options: command line, environment, file
//!                         ├─ logging    log lines to stderr and a file
//!                         ├─ help       help, version, manual page, completions
//!                         └─ commands   results through output, progress on a terminal
//!                              ├─ settings  for pgmesh_client and pgmesh_node, from the configuration
//!                              ├─ pgmesh_client: the way to a node, PostgreSQL, push, get, backup, restore
//!                              └─ pgmesh_node: the daemon
//! ```
//!
//! Every failure ends as a [`exit::CommandError`]: the event, its cause, the advice, and the exit code.

mod allocator;
mod commands;
pub mod config;
mod dispatch;
pub mod exit;
mod failed;
pub mod help;
mod interruption;
pub mod logging;
mod manual;
pub mod output;
pub mod progress;
#[cfg(test)]
mod reference;
mod settings;
mod version;

pub use dispatch::run;
