//! Which files a standby has alike, because replay keeps them so.

use pgmesh_postgres::ControlFile;

/// The directories that replay keeps the same on a standby, and that a restartpoint writes. Everything else in a data
/// directory is the server's own, as is `pg_control`.
pub const REPLICATED: &[&str] = &[
    "base",
    "global",
    "pg_commit_ts",
    "pg_multixact",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
];

/// Whether the standby's copy of this path is taken.
pub fn is_replicated(path: &str) -> bool {
    REPLICATED.contains(&top(path)) && path != ControlFile::PATH
}

fn top(path: &str) -> &str {
    path.split_once('/').map_or(path, |(top, _)| top)
}
