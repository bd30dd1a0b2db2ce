//! File operations that survive a crash, with errors that name the file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::CatalogError;

pub(super) fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> CatalogError + 'a {
    move |source| CatalogError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Makes a folder and its parents, and syncs the folders that changed.
pub(super) fn create_folder(path: &Path) -> Result<(), CatalogError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.map_err(io_error("creating folder", path))?,
    }
    sync_folder(parent.unwrap_or(Path::new(".")))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), CatalogError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("syncing folder", path))
}

pub(super) fn remove_folder(path: &Path) -> Result<(), CatalogError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing folder", path)(error)),
        _ => Ok(()),
    }
}

/// Replaces a small file: after a crash it has either the old or the new content.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<(), CatalogError> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).map_err(io_error("creating", &temporary))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(io_error("writing", &temporary))?;
    rename(&temporary, path)
}

/// Renames a file or folder that is synced, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), CatalogError> {
    fs::rename(from, to).map_err(io_error("renaming", from))?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// The first of `<prefix>-1`, `<prefix>-2`, … that does not exist in a folder: its name, and its path.
pub(super) fn free_name(folder: &Path, prefix: &str) -> (String, PathBuf) {
    let mut number = 1_u64;
    loop {
        let name = format!("{prefix}-{number}");
        let path = folder.join(&name);
        if !path.exists() {
            return (name, path);
        }
        number += 1;
    }
}
