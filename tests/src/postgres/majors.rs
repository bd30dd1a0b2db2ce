//! The major versions of PostgreSQL that the tests run with, and the places of their programs.

use std::env;
use std::path::PathBuf;

use crate::tools::tool;

/// The major versions that must be installed, oldest first: from `PGMESH_MAJORS`, else the versions that `.ci/setup
/// test` installs.
///
/// # Panics
/// If `PGMESH_MAJORS` holds words that are no numbers.
#[must_use]
pub fn majors() -> Vec<u32> {
    let text = env::var("PGMESH_MAJORS").unwrap_or_else(|_| "14 15 18".to_owned());
    text.split_whitespace()
        .map(|major| {
            major
                .parse()
                .unwrap_or_else(|_| panic!("PGMESH_MAJORS has {major:?}, no major version"))
        })
        .collect()
}

/// The folder with the programs of one major version, where any account may run them: Debian's folder, or one made from
/// the cache.
///
/// # Panics
/// If that version is not installed.
#[must_use]
pub fn programs_of(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").is_file() {
        return debian;
    }
    tool(&format!("postgresql-{major}"), "test-all").join("bin")
}
