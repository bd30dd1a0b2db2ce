//! Reading the directories of a cluster.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use uzers::{Groups, Users, UsersCache};

use super::exclusions::{Exclusions, RelationExclusions, Verdict, tablespace_oid};
use super::links::{FoundLink, LinkTargets};
use super::{ClusterTree, Entry, EntryKind, Link, Skipped, Tablespace, WalkError, WalkOptions};

/// Walks a data directory and everything that its links lead to. Reads directories and attributes, no file's content.
///
/// A server may be running: files that vanish meanwhile are passed over, since the WAL knows of them.
///
/// # Errors
/// When a directory or a file's attributes cannot be read, when a name is not UTF-8, when a link leads nowhere, into the
/// data directory, or to where another link led.
pub fn walk(pgdata: &Path, options: &WalkOptions) -> Result<ClusterTree, WalkError> {
    let examine = |source| WalkError::Examine {
        path: pgdata.to_owned(),
        source,
    };
    let cluster = fs::canonicalize(pgdata).map_err(examine)?;
    let metadata = fs::metadata(pgdata).map_err(examine)?;

    let mut walker = Walker::new(cluster, options);
    let root = walker.entry("", pgdata, &metadata, EntryKind::Directory);
    walker.pending.push(Directory {
        path: String::new(),
        disk_path: pgdata.to_owned(),
    });
    while let Some(directory) = walker.pending.pop() {
        walker.walk_directory(&directory)?;
    }
    Ok(walker.into_tree(root))
}

struct Walker {
    exclusions: Exclusions,
    /// The directory of this version in every tablespace.
    tablespace_directory: String,
    targets: LinkTargets,
    names: UsersCache,
    pending: Vec<Directory>,
    entries: Vec<Entry>,
    tablespaces: Vec<Tablespace>,
    links: Vec<Link>,
    skipped: Vec<Skipped>,
}

/// A directory that is still to be read.
struct Directory {
    path: String,
    disk_path: PathBuf,
}

impl Walker {
    fn new(cluster: PathBuf, options: &WalkOptions) -> Self {
        Self {
            exclusions: Exclusions::new(options),
            tablespace_directory: options.version.tablespace_directory(),
            targets: LinkTargets::new(cluster),
            names: UsersCache::new(),
            pending: Vec::new(),
            entries: Vec::new(),
            tablespaces: Vec::new(),
            links: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn into_tree(mut self, root: Entry) -> ClusterTree {
        // Stable, and a link is pushed before what it leads to: so the link comes first.
        self.entries.sort_by(|one, other| one.path.cmp(&other.path));
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

    fn walk_directory(&mut self, directory: &Directory) -> Result<(), WalkError> {
        let mut children = Vec::new();
        for name in read_names(&directory.disk_path)? {
            let disk_path = directory.disk_path.join(&name);
            let Some(name) = name.to_str() else {
                return Err(WalkError::NotUtf8 { path: disk_path });
            };
            let path = if directory.path.is_empty() {
                name.to_owned()
            } else {
                format!("{}/{name}", directory.path)
            };
            children.push(Directory { path, disk_path });
        }
        let relations = RelationExclusions::new(children.iter().map(|child| child.path.as_str()));
        for child in children {
            let verdict = self.exclusions.verdict(&child.path);
            if verdict != Verdict::Leave && !relations.leaves_out(&child.path) {
                self.take(child, verdict)?;
            }
        }
        Ok(())
    }

    /// Takes one name of a directory, which may have vanished since.
    fn take(&mut self, child: Directory, verdict: Verdict) -> Result<(), WalkError> {
        let Some(metadata) = still_there(&child.disk_path, fs::symlink_metadata(&child.disk_path))? else {
            return Ok(());
        };
        if !metadata.is_symlink() {
            return self.take_target(child, &metadata, verdict);
        }
        let Some(destination) = still_there(&child.disk_path, fs::read_link(&child.disk_path))? else {
            return Ok(());
        };
        let Some(target) = self.take_link(&child, &metadata, &destination)? else {
            return Ok(());
        };
        self.take_target(child, &target, verdict)
    }

    /// Takes a link, and answers with the attributes of what it leads to.
    fn take_link(
        &mut self,
        link: &Directory,
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
                // Either the link has vanished too, as when a tablespace is dropped, or it leads nowhere.
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
        let entry = self.entry(&link.path, &link.disk_path, metadata, kind);
        self.entries.push(entry);
        Ok(Some(target))
    }

    /// Takes a file or directory, be it reached through a link or not.
    fn take_target(&mut self, found: Directory, metadata: &Metadata, verdict: Verdict) -> Result<(), WalkError> {
        let kind = if metadata.is_dir() {
            EntryKind::Directory
        } else if metadata.is_file() {
            EntryKind::File { size: metadata.len() }
        } else {
            self.skipped.push(Skipped {
                path: found.path,
                what: special_kind(metadata),
            });
            return Ok(());
        };
        let is_directory = kind == EntryKind::Directory;
        let entry = self.entry(&found.path, &found.disk_path, metadata, kind);
        self.entries.push(entry);
        if is_directory && verdict == Verdict::Take {
            self.pending.push(found);
        }
        Ok(())
    }

    fn entry(&self, path: &str, disk_path: &Path, metadata: &Metadata, kind: EntryKind) -> Entry {
        let user = self.names.get_user_by_uid(metadata.uid());
        let group = self.names.get_group_by_gid(metadata.gid());
        Entry {
            path: path.to_owned(),
            disk_path: disk_path.to_owned(),
            kind,
            modified: metadata.mtime(),
            mode: metadata.mode() & 0o7777,
            user: user.and_then(|user| user.name().to_str().map(str::to_owned)),
            group: group.and_then(|group| group.name().to_str().map(str::to_owned)),
        }
    }
}

/// The names in a directory; none when it has vanished.
fn read_names(path: &Path) -> Result<Vec<std::ffi::OsString>, WalkError> {
    let unreadable = |source| WalkError::ReadDirectory {
        path: path.to_owned(),
        source,
    };
    let listing = match fs::read_dir(path) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        listing => listing.map_err(unreadable)?,
    };
    listing
        .map(|item| item.map(|item| item.file_name()).map_err(unreadable))
        .collect()
}

/// `None` when what was examined has vanished.
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

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
        let mut walker = Walker::new(directory.path().to_owned(), &options);
        let seen = || Directory {
            path: "gone".to_owned(),
            disk_path: gone.clone(),
        };
        walker.take(seen(), Verdict::Take).unwrap();
        walker.walk_directory(&seen()).unwrap();
        assert!(walker.entries.is_empty() && walker.pending.is_empty());

        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = still_there::<()>(&gone, Err(denied)).unwrap_err();
        assert!(error.to_string().contains(gone.to_str().unwrap()), "{error}");
    }
}
