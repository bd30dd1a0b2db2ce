//! pgmesh: backups and WAL of PostgreSQL in several repositories at once.
//!
//! Exit codes are pgBackRest's (see [`pgmesh_cli::exit::ExitCode`]): 0 done, 1 `archive-get` did not find the segment,
//! 25 to 125 an error, and 200 when `archive-get` cannot know, so that PostgreSQL stops instead of ending recovery
//! early.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgmesh_cli::run(std::env::args_os().skip(1)).into()
}
