//! Small operations on directories by their paths, with errors that name the path. For paths below PGDATA: `below.rs`.

use pgmesh_protocol::{ExitCode, Failure};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// An I/O error, with the action and the path.
pub fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let what = format!("{action} {}", path.display());
    move |error| {
        let failure = Failure::new(ExitCode::Runtime, what).because(&error);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                failure.remedy("free space there, then restore again with --delta or --force")
            }
            io::ErrorKind::PermissionDenied => failure.remedy("run the restore as the user that runs PostgreSQL"),
            _ => failure,
        }
    }
}

/// Makes a directory, private to its owner, and the parents that it lacks. A directory that is there stays as it is.
pub fn make_directories(path: &Path) -> Result<(), Failure> {
    let making = || failed("making the directory", path);
    if let Some(parent) = path.parent() {
        // As `mkdir -p` does it: a server that is another user must get through.
        fs::create_dir_all(parent).map_err(making())?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(making()),
    }
}

/// Whether a directory has no entries but those of the file system itself. A directory that is not there is empty.
pub fn is_empty(path: &Path) -> Result<bool, Failure> {
    let names = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        names => names.map_err(failed("reading the directory", path))?,
    };
    for name in names {
        let name = name.map_err(failed("reading the directory", path))?;
        if name.file_name() != LOST_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory that ext4 has at the top of each file system.
pub const LOST_FOUND: &str = "lost+found";
