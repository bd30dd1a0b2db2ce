//! `--delta`: entries of the data directory that are not in the backup go.

use super::below::Below;
use super::data_directory::MARKER;
use super::disk;
use super::prepare::Tree;
use pgmesh_protocol::Failure;
use rustix::fs::{FileType, Mode, Stat};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory that is to be looked through.
struct Pending {
    /// PGDATA, or the directory that a link leads to.
    root: Arc<Below>,
    /// The directory's path below that.
    within: String,
    /// The directory's path in the backup.
    path: String,
}

/// Removes the entries that the backup does not have, or has as another kind of entry. Answers how many.
///
/// # Errors
/// An entry cannot be read or removed.
pub fn sweep(pgdata: &Arc<Below>, tree: &Tree<'_>) -> Result<u64, Failure> {
    let mut removed = 0;
    let mut pending = vec![Pending {
        root: Arc::clone(pgdata),
        within: String::new(),
        path: String::new(),
    }];
    while let Some(Pending { root, within, path }) = pending.pop() {
        let directory = root.directory(&within)?;
        for name in directory.names()?.iter() {
            let text = name.to_str();
            let path = text.map(|name| join(&path, name));
            let Some(found) = directory.metadata(name)? else {
                continue;
            };
            match judge(tree, path.as_deref(), &directory, name, &found)? {
                Verdict::Keep => {}
                Verdict::Enter => pending.push(Pending {
                    root: Arc::clone(&root),
                    within: join(&within, text.unwrap_or_default()),
                    path: path.unwrap_or_default(),
                }),
                Verdict::Follow(destination) => pending.push(Pending {
                    root: Arc::new(Below::open(&destination)?),
                    within: String::new(),
                    path: path.unwrap_or_default(),
                }),
                Verdict::Overwrite => make_writable(&directory, name, &found)?,
                Verdict::Remove => {
                    tracing::debug!("removed {}", directory.shown(name).display());
                    directory.remove(name)?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

/// The fate of an entry.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It stays, with all that is in it.
    Keep,
    /// A directory of the backup.
    Enter,
    /// A link of the backup, to a directory of it.
    Follow(PathBuf),
    /// A file of the backup.
    Overwrite,
    /// It goes.
    Remove,
}

fn judge(
    tree: &Tree<'_>,
    path: Option<&str>,
    directory: &Below,
    name: &OsStr,
    found: &Stat,
) -> Result<Verdict, Failure> {
    let Some(path) = path else {
        return Ok(Verdict::Remove);
    };
    if path == MARKER || path == disk::LOST_FOUND || tree.rules.kept.contains(path) {
        return Ok(Verdict::Keep);
    }
    let in_tablespace = path
        .rsplit_once('/')
        .is_some_and(|(parent, _)| tree.links.get(parent).is_some_and(|link| link.tablespace.is_some()));
    // Other versions of PostgreSQL may share a tablespace's directory.
    if in_tablespace && !path.ends_with(&format!("/{}", tree.version_directory)) {
        return Ok(Verdict::Keep);
    }
    let kind = FileType::from_raw_mode(found.st_mode);
    Ok(match tree.links.get(path) {
        Some(link) => match directory.read_link(name)? {
            Some(leads) if leads == link.destination && link.to_directory && leads.is_dir() => Verdict::Follow(leads),
            Some(leads) if leads == link.destination => Verdict::Keep,
            _ => Verdict::Remove,
        },
        None if kind == FileType::Directory && tree.survey.directories.contains_key(path) => Verdict::Enter,
        // A file with a second name, as pg_upgrade --link leaves them, is another cluster's file, too.
        None if kind == FileType::RegularFile && found.st_nlink == 1 && tree.survey.has_file(path) => {
            Verdict::Overwrite
        }
        None => Verdict::Remove,
    })
}

fn make_writable(directory: &Below, name: &OsStr, found: &Stat) -> Result<(), Failure> {
    let mode = found.st_mode & 0o777;
    if mode & 0o600 == 0o600 {
        return Ok(());
    }
    directory.set_mode(name, Mode::from_raw_mode(mode | 0o600))
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}
