//! `--delta`: what is in the data directory and not in the backup goes.

use super::data_directory::MARKER;
use super::disk::{self, failed};
use super::prepare::Tree;
use pgmesh_node::Failure;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Removes what the backup does not have, and what is of another kind there. Answers how much.
///
/// # Errors
/// Something cannot be read or removed.
pub fn sweep(pgdata: &Path, tree: &Tree<'_>) -> Result<u64, Failure> {
    let mut removed = 0;
    let mut pending = vec![(pgdata.to_owned(), String::new())];
    while let Some((directory, relative)) = pending.pop() {
        let reading = || failed("reading the directory", &directory);
        for name in fs::read_dir(&directory).map_err(reading())? {
            let name = name.map_err(reading())?;
            let at = name.path();
            let path = name.file_name().to_str().map(|name| join(&relative, name));
            let metadata = fs::symlink_metadata(&at).map_err(failed("examining", &at))?;
            match judge(tree, path.as_deref(), &at, &metadata) {
                Verdict::Keep => {}
                Verdict::Enter(below) => pending.push((below, path.unwrap_or_default())),
                Verdict::Overwrite => make_writable(&at, &metadata)?,
                Verdict::Remove => {
                    tracing::debug!("removed {}", at.display());
                    disk::remove(&at)?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

/// What becomes of something found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It stays, whatever is in it.
    Keep,
    /// A directory, or what a link leads to, that belongs to the backup.
    Enter(PathBuf),
    /// A file of the backup.
    Overwrite,
    /// It goes.
    Remove,
}

fn judge(tree: &Tree<'_>, path: Option<&str>, at: &Path, metadata: &Metadata) -> Verdict {
    let Some(path) = path else { return Verdict::Remove };
    if path == MARKER || path == disk::LOST_FOUND || tree.rules.kept.contains(path) {
        return Verdict::Keep;
    }
    let in_tablespace = path
        .rsplit_once('/')
        .is_some_and(|(parent, _)| tree.links.get(parent).is_some_and(|link| link.tablespace.is_some()));
    // Other versions of PostgreSQL may share a tablespace's directory.
    if in_tablespace && !path.ends_with(&format!("/{}", tree.version_directory)) {
        return Verdict::Keep;
    }
    match tree.links.get(path) {
        Some(link) => match fs::read_link(at) {
            Ok(leads) if leads == link.destination && link.to_directory => Verdict::Enter(link.destination.clone()),
            Ok(leads) if leads == link.destination => Verdict::Keep,
            _ => Verdict::Remove,
        },
        None if metadata.is_dir() && tree.survey.directories.contains_key(path) => Verdict::Enter(at.to_owned()),
        // A file with a second name, as pg_upgrade --link leaves them, is another cluster's file, too.
        None if metadata.is_file() && metadata.nlink() == 1 && tree.survey.has_file(path) => Verdict::Overwrite,
        None => Verdict::Remove,
    }
}

fn make_writable(at: &Path, metadata: &Metadata) -> Result<(), Failure> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o600 == 0o600 {
        return Ok(());
    }
    let permissions = fs::Permissions::from_mode(mode | 0o600);
    fs::set_permissions(at, permissions).map_err(failed("changing the permissions of", at))
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}
