//! The `pgmesh` program, as a library of its flows.
//!
//! ```text
//! main ── run (dispatch) ─┬─ config     one table of options: command line, environment, file
//!                         ├─ logging    log lines to stderr and a file
//!                         ├─ help       help, version, manual page, completions
//!                         └─ a command  results through output, progress on a terminal
//! ```
//!
//! Every failure ends as a [`exit::CommandError`]: what happened, why, what to do now, and the exit code.

pub mod config;
mod dispatch;
pub mod exit;
pub mod help;
pub mod logging;
mod manual;
pub mod output;
pub mod progress;

pub use dispatch::run;
