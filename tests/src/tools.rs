//! Programs that `.ci/setup` has installed, where the account of the tests may run them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The folder of a tool in the cache, under a path that every account may enter. `part` is the argument of `.ci/setup`
/// that installs it.
///
/// # Panics
/// If it is not installed. A test that skipped it would prove nothing.
pub fn tool(name: &str, part: &str) -> PathBuf {
    let installed = cache().join("tools").join(name);
    let version = fs::read_to_string(installed.join("installed")).unwrap_or_else(|error| {
        let folder = installed.display();
        panic!("no {name} in {folder} ({error}): `.ci/setup {part}` installs it")
    });
    if may_be_entered(&installed) {
        installed
    } else {
        second_name(&installed, &format!("{name}-{}", version.trim()))
    }
}

/// The folder that `.ci/cache` prints if `XDG_CACHE_HOME` is not set.
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

/// The same programs under a path that every account may enter, since the cache may lie in a home folder that the
/// account of the tests cannot enter. Made once for each version; several processes may make it at the same time.
fn second_name(installed: &Path, name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("pgmesh-{name}"));
    if path.exists() {
        return path;
    }
    let unfinished = env::temp_dir().join(format!("pgmesh-{name}.{}", std::process::id()));
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
        // Another process has made it first.
        fs::remove_dir_all(&unfinished).ok();
    }
    assert!(path.exists(), "there is no {}", path.display());
    path
}
