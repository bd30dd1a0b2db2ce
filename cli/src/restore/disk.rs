//! Small things done to files and directories, with errors that say to which.

use pgmesh_node::{Failure, code};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// An I/O error, with what was being done to what.
pub fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let what = format!("{action} {}", path.display());
    move |error| {
        let failure = Failure::new(code::RUNTIME, what).because(&error);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                failure.remedy("free space there, then restore again with --delta or --force")
            }
            io::ErrorKind::PermissionDenied => failure.remedy("run the restore as the user that runs PostgreSQL"),
            _ => failure,
        }
    }
}

/// Makes a directory, private to its owner, and the parents that it lacks. One that is there stays as it is.
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

/// Replaces a small file's content; a new file is private to its owner.
pub fn write_file(path: &Path, content: &[u8]) -> Result<fs::File, Failure> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("making", path))?;
    io::Write::write_all(&mut file, content).map_err(failed("writing", path))?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), Failure> {
    fs::File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("syncing the directory", path))
}

/// Whether there is anything in a directory, besides what a file system itself puts there. One that is not there is empty.
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

/// What ext4 has at the top of each file system.
pub const LOST_FOUND: &str = "lost+found";

/// Removes whatever lies at a path; links are not followed. What is not there counts as removed.
pub fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Something is mounted there: what was in it is gone.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_empty(path)? => Ok(()),
        removed => removed.map_err(failed("removing", path)),
    }
}

/// Removes all that is in a directory, but the names to be kept.
pub fn clear(path: &Path, is_kept: &dyn Fn(&std::ffi::OsStr) -> bool) -> Result<(), Failure> {
    let names = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(failed("reading the directory", path))?,
    };
    for name in names {
        let name = name.map_err(failed("reading the directory", path))?;
        if name.file_name() != LOST_FOUND && !is_kept(&name.file_name()) {
            remove(&name.path())?;
        }
    }
    Ok(())
}
