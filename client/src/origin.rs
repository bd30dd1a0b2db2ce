//! Whose WAL a path means: PostgreSQL passes `%p` relative to its data directory, which is its working directory.
//!
//! Invariant 12: a copy of a cluster often comes with the original's configuration. Its `%p` must not be read as a path
//! into the original's data directory, whose segment of that name may be half written.

use pgmesh_protocol::{ExitCode, Failure};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file that a `%p` names, when it belongs to the cluster at `pgdata`.
///
/// # Errors
/// 58 when it belongs to another cluster: neither is the working directory `pgdata`, nor does the file lie in it; or
/// the file lies in another cluster's data directory.
pub fn resolve(given: &Path, pgdata: &Path) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(ExitCode::Runtime, "the working directory cannot be found out").because(error))?;
    resolve_from(&here, given, pgdata)
}

fn resolve_from(here: &Path, given: &Path, pgdata: &Path) -> Result<PathBuf, Failure> {
    if given.is_relative() {
        if same_directory(here, pgdata) {
            return Ok(pgdata.join(given));
        }
        // pg_rewind -D makes %p of the directory as it was given, and may be run anywhere.
        let whole = here.join(given);
        let is_ours = data_directory_of(&whole).is_some_and(|found| same_directory(&found, pgdata));
        return if is_ours {
            Ok(whole)
        } else {
            Err(foreign(given, here, pgdata))
        };
    }
    match data_directory_of(given) {
        Some(other) if !same_directory(&other, pgdata) => Err(foreign(given, &other, pgdata)),
        _ => Ok(given.to_owned()),
    }
}

fn foreign(given: &Path, found: &Path, pgdata: &Path) -> Failure {
    Failure::new(
        ExitCode::DbMismatch,
        format!(
            "'{}' belongs to the data directory {}, but pg1-path is {}",
            given.display(),
            found.display(),
            pgdata.display()
        ),
    )
    .remedy(
        "each cluster needs a configuration and a stanza of its own: pg1-path must name the data directory in which \
         PostgreSQL runs this command; if this cluster is a copy, turn its archiving off",
    )
}

/// The data directory that a file in `pg_wal` lies in, where it looks like one.
fn data_directory_of(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?.canonicalize().ok()?;
    let above = folder.parent()?;
    above.join("global/pg_control").exists().then(|| above.to_owned())
}

fn same_directory(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(at: &Path) {
        std::fs::create_dir_all(at.join("global")).unwrap();
        std::fs::create_dir_all(at.join("pg_wal")).unwrap();
        std::fs::write(at.join("global/pg_control"), "").unwrap();
    }

    #[test]
    fn a_file_of_another_cluster_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (main, copy) = (scratch.path().join("main"), scratch.path().join("copy"));
        cluster(&main);
        cluster(&copy);
        let name = "pg_wal/000000010000000000000001";
        assert_eq!(resolve(&main.join(name), &main).unwrap(), main.join(name));
        let refused = resolve(&copy.join(name), &main).unwrap_err();
        assert_eq!(refused.code, ExitCode::DbMismatch);
        // Outside of any cluster: pushed by hand.
        let loose = scratch.path().join("000000010000000000000001");
        assert_eq!(resolve(&loose, &main).unwrap(), loose);
    }

    #[test]
    fn a_relative_path_is_the_working_directorys() {
        let scratch = tempfile::tempdir().unwrap();
        cluster(scratch.path());
        let refused = resolve(Path::new("pg_wal/000000010000000000000001"), scratch.path()).unwrap_err();
        assert_eq!(
            refused.code,
            ExitCode::DbMismatch,
            "this test does not run in the data directory"
        );
    }

    #[test]
    fn pg_rewind_names_the_data_directory_as_it_was_told() {
        let scratch = tempfile::tempdir().unwrap();
        let (main, copy) = (scratch.path().join("main"), scratch.path().join("copy"));
        cluster(&main);
        cluster(&copy);
        let given = Path::new("main/pg_wal/RECOVERYXLOG");
        assert_eq!(
            resolve_from(scratch.path(), given, &main).unwrap(),
            scratch.path().join(given)
        );
        let refused = resolve_from(scratch.path(), given, &copy).unwrap_err();
        assert_eq!(refused.code, ExitCode::DbMismatch, "it is another cluster's");
        // A copy that runs with the original's configuration.
        assert!(resolve_from(&copy, Path::new("pg_wal/RECOVERYXLOG"), &main).is_err());
    }
}
