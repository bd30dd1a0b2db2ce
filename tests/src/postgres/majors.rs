//! Which major versions of PostgreSQL the tests run with, and where their programs are.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The major versions that must be there, oldest first: `PGMESH_MAJORS`, else those that `.ci/setup test` installs.
///
/// # Panics
/// When `PGMESH_MAJORS` holds something else than numbers.
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

/// The folder of the programs of one major version, where any account may run them: Debian's, or those in the cache.
///
/// # Panics
/// When that version is not installed. A test that skipped it would prove nothing.
#[must_use]
pub fn programs_of(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").is_file() {
        return debian;
    }
    let installed = cache().join("tools").join(format!("postgresql-{major}"));
    let version = fs::read_to_string(installed.join("installed")).unwrap_or_else(|error| {
        panic!(
            "no PostgreSQL {major} in {} ({error}): `.ci/setup test-all` installs it",
            installed.display()
        )
    });
    let folder = if may_be_entered(&installed) {
        installed
    } else {
        second_name(&installed, version.trim())
    };
    folder.join("bin")
}

/// What `.ci/cache` prints.
fn cache() -> PathBuf {
    let told = env::var_os("PGMESH_CACHE").map(PathBuf::from);
    told.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/pgmesh")))
        .unwrap_or_default()
}

/// Whether every account may enter the folder.
fn may_be_entered(folder: &Path) -> bool {
    folder
        .ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

/// The same programs under a path that every account may enter: the cache may lie in a home folder that is closed to the account
/// of the tests. Made once for each version; processes may make it at the same time.
fn second_name(installed: &Path, version: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("pgmesh-postgresql-{version}"));
    if path.exists() {
        return path;
    }
    let unfinished = env::temp_dir().join(format!("pgmesh-postgresql-{version}.{}", std::process::id()));
    let copied = |options: &[&str]| {
        fs::remove_dir_all(&unfinished).ok();
        let mut command = Command::new("/bin/cp");
        command.args(options).arg(installed).arg(&unfinished);
        command.status().is_ok_and(|status| status.success())
    };
    assert!(
        copied(&["--archive", "--link"]) || copied(&["--archive"]),
        "copying {} to {}",
        installed.display(),
        unfinished.display()
    );
    if fs::rename(&unfinished, &path).is_err() {
        // Another process was first.
        fs::remove_dir_all(&unfinished).ok();
    }
    assert!(path.exists(), "there is no {}", path.display());
    path
}
