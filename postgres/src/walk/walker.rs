//! Reading the directories of a cluster.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uzers::{get_group_by_gid, get_user_by_uid};

use super::directory::{Directory, Step, is_gone};
use super::exclusions::{Exclusions, Verdict, tablespace_oid};
use super::links::{FoundLink, LinkTargets};
use super::{ClusterTree, Entries, Entry, EntryKind, Link, Skipped, Tablespace, WalkError, WalkOptions};

/// Walks a data directory and the targets of its links. Reads directories and attributes, no file's content.
///
/// A server may be running: files that vanish meanwhile are passed over, since the WAL knows of them.
///
/// # Errors
/// A directory or a file's attributes cannot be read, a name is not UTF-8, or a link leads nowhere, into the data
/// directory, or to the files of another link.
pub fn walk(pgdata: &Path, options: &WalkOptions) -> Result<ClusterTree, WalkError> {
    let examine = |source| WalkError::Examine {
        path: pgdata.to_owned(),
        source,
    };
    let cluster = fs::canonicalize(pgdata).map_err(examine)?;
    let metadata = fs::metadata(pgdata).map_err(examine)?;

    let mut walker = Walker::new(pgdata, cluster, options);
    let root = walker.entry(String::new(), &metadata, EntryKind::Directory);
    walker.walk_below(String::new())?;
    Ok(walker.into_tree(root))
}

struct Walker {
    /// PGDATA, as the caller names it.
    root: Arc<Path>,
    exclusions: Exclusions,
    /// The directory of this version in every tablespace.
    tablespace_directory: String,
    targets: LinkTargets,
    /// The names of users and groups by their numbers.
    users: HashMap<u32, Option<Arc<str>>>,
    groups: HashMap<u32, Option<Arc<str>>>,
    entries: Entries,
    tablespaces: Vec<Tablespace>,
    links: Vec<Link>,
    skipped: Vec<Skipped>,
}

/// A name in a directory.
struct Found {
    /// Relative to PGDATA.
    path: String,
    disk_path: PathBuf,
}

impl Walker {
    fn new(pgdata: &Path, cluster: PathBuf, options: &WalkOptions) -> Self {
        Self {
            root: pgdata.into(),
            exclusions: Exclusions::new(options),
            tablespace_directory: options.version.tablespace_directory(),
            targets: LinkTargets::new(cluster),
            users: HashMap::new(),
            groups: HashMap::new(),
            entries: Entries::new(),
            tablespaces: Vec::new(),
            links: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn into_tree(mut self, root: Entry) -> ClusterTree {
        self.tablespaces.sort();
        self.links.sort();
        self.skipped.sort();
        ClusterTree {
            root,
            entries: self.entries,
            tablespaces: self.tablespaces,
            links: self.links,
            skipped: self.skipped,
        }
    }

    /// Walks a directory and its subdirectories, in the order of paths. In memory are only the names of the directories
    /// that are not finished yet.
    fn walk_below(&mut self, path: String) -> Result<(), WalkError> {
        let mut open = vec![self.read(path)?];
        while let Some(directory) = open.last_mut() {
            match directory.step() {
                None => drop(open.pop()),
                Some(Step::Enter(path)) => open.push(self.read(path)?),
                Some(Step::Take(path)) => {
                    let verdict = self.exclusions.verdict(&path);
                    let is_left_out = verdict == Verdict::Leave || directory.leaves_out(&path);
                    if !is_left_out && self.take(path, verdict)? {
                        directory.enter_last();
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, path: String) -> Result<Directory, WalkError> {
        let disk_path = self.root.join(&path);
        Directory::read(path, &disk_path)
    }

    /// Takes one name of a directory, unless it has vanished. `true` for a directory whose content is to be walked.
    fn take(&mut self, path: String, verdict: Verdict) -> Result<bool, WalkError> {
        let disk_path = self.root.join(&path);
        let found = Found { path, disk_path };
        let Some(metadata) = still_there(&found.disk_path, fs::symlink_metadata(&found.disk_path))? else {
            return Ok(false);
        };
        if !metadata.is_symlink() {
            return Ok(self.take_target(found, &metadata, verdict));
        }
        let Some(destination) = still_there(&found.disk_path, fs::read_link(&found.disk_path))? else {
            return Ok(false);
        };
        let Some(target) = self.take_link(&found, &metadata, &destination)? else {
            return Ok(false);
        };
        Ok(self.take_target(found, &target, verdict))
    }

    /// Takes a link, and gives the attributes of the file or directory that it leads to.
    fn take_link(
        &mut self,
        link: &Found,
        metadata: &Metadata,
        destination: &Path,
    ) -> Result<Option<Metadata>, WalkError> {
        let Some(text) = destination.to_str() else {
            return Err(WalkError::NotUtf8 {
                path: link.disk_path.clone(),
            });
        };
        let target = fs::metadata(&link.disk_path);
        let canonical = target.and_then(|target| Ok((target, fs::canonicalize(&link.disk_path)?)));
        let (target, canonical) = match canonical {
            Err(error) if is_gone(&error) => {
                // Either the link has vanished too, for example with a dropped tablespace, or it leads nowhere.
                let still = still_there(&link.disk_path, fs::symlink_metadata(&link.disk_path))?;
                let dangling = || WalkError::DanglingLink {
                    path: link.path.clone(),
                    destination: text.to_owned(),
                };
                return still.map_or(Ok(None), |_| Err(dangling()));
            }
            Err(source) => {
                return Err(WalkError::Examine {
                    path: link.disk_path.clone(),
                    source,
                });
            }
            Ok(found) => found,
        };
        let oid = tablespace_oid(&link.path);
        let canonical = if oid.is_some() {
            canonical.join(&self.tablespace_directory)
        } else {
            canonical
        };
        let to_directory = target.is_dir();
        self.targets.enter(FoundLink {
            path: &link.path,
            destination: text,
            canonical,
            to_directory,
        })?;

        match oid {
            Some(oid) => self.tablespaces.push(Tablespace {
                oid,
                destination: destination.to_owned(),
            }),
            None => self.links.push(Link {
                path: link.path.clone(),
                destination: text.to_owned(),
            }),
        }
        let kind = EntryKind::Link {
            destination: text.to_owned(),
        };
        let entry = self.entry(link.path.clone(), metadata, kind);
        self.entries.push(entry);
        Ok(Some(target))
    }

    /// Takes a file or directory, perhaps reached through a link. `true` for a directory whose content is to be walked.
    fn take_target(&mut self, found: Found, metadata: &Metadata, verdict: Verdict) -> bool {
        let kind = if metadata.is_dir() {
            EntryKind::Directory
        } else if metadata.is_file() {
            EntryKind::File { size: metadata.len() }
        } else {
            self.skipped.push(Skipped {
                path: found.path,
                what: special_kind(metadata),
            });
            return false;
        };
        let is_directory = kind == EntryKind::Directory;
        let entry = self.entry(found.path, metadata, kind);
        self.entries.push(entry);
        is_directory && verdict == Verdict::Take
    }

    fn entry(&mut self, path: String, metadata: &Metadata, kind: EntryKind) -> Entry {
        let user = self.users.entry(metadata.uid()).or_insert_with_key(|number| {
            let user = get_user_by_uid(*number)?;
            user.name().to_str().map(Arc::from)
        });
        let group = self.groups.entry(metadata.gid()).or_insert_with_key(|number| {
            let group = get_group_by_gid(*number)?;
            group.name().to_str().map(Arc::from)
        });
        Entry {
            path,
            root: Arc::clone(&self.root),
            kind,
            modified: metadata.mtime(),
            mode: metadata.mode() & 0o7777,
            user: user.clone(),
            group: group.clone(),
        }
    }
}

/// `None` if the examined file has vanished.
fn still_there<T>(path: &Path, examined: io::Result<T>) -> Result<Option<T>, WalkError> {
    match examined {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(WalkError::Examine {
            path: path.to_owned(),
            source,
        }),
    }
}

fn special_kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanishes_is_passed_over_and_other_failures_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        let options = WalkOptions::new(crate::PgVersion::V15);
        let mut walker = Walker::new(directory.path(), directory.path().to_owned(), &options);
        assert!(!walker.take("gone".to_owned(), Verdict::Take).unwrap());
        walker.walk_below("gone".to_owned()).unwrap();
        assert!(walker.entries.is_empty());

        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = still_there::<()>(&gone, Err(denied)).unwrap_err();
        assert!(error.to_string().contains(gone.to_str().unwrap()), "{error}");
    }
}
