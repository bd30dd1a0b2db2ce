//! The programs that the benchmark compares.

use std::path::Path;

use pgmesh_tests::{Postgres, Repository};

use crate::measure::Figures;

/// A backup program that is set up anew for the cluster of the benchmark, with an empty repository.
pub trait Contestant {
    /// PostgreSQL's `archive_command` for this program.
    fn archive_command(&self) -> String;

    /// Pushes one WAL segment.
    fn push(&self, segment: &Path) -> Figures;

    /// Takes a backup of this type, `full` or `incr`.
    fn backup(&self, kind: &str) -> Figures;

    /// Restores the newest backup into an empty data directory.
    fn restore(&self, target: &Postgres) -> Figures;

    /// Its repository.
    fn repository(&self) -> Repository;
}
