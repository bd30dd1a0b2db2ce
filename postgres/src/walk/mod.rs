//! The walk over a data directory: the list of a backup's files.
//!
//! `exclusions` decides by names alone which files belong to a backup, `links` which symbolic links may be followed,
//! `walker` reads the directories, in the order of paths (`directory`), and `entries` keeps the files that it finds.

mod directory;
mod entries;
mod exclusions;
mod links;
mod walker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::PgVersion;

pub use entries::{Entries, EntriesIter};
pub use exclusions::{Exclusions, Verdict};
pub use walker::walk;

/// The options of a walk.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// The cluster's version: of a tablespace, only this version's directory belongs to the cluster.
    pub version: PgVersion,
    /// More paths to leave out, relative to PGDATA. `junk` leaves out the file or directory; `junk/` keeps the
    /// directory and leaves out its content.
    pub exclude: Vec<String>,
}

impl WalkOptions {
    /// A walk that leaves out only the files that every backup leaves out.
    #[must_use]
    pub fn new(version: PgVersion) -> Self {
        Self {
            version,
            exclude: Vec::new(),
        }
    }
}

/// The content of a data directory, without the files that a backup leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTree {
    /// The data directory itself, with an empty path.
    pub root: Entry,
    /// All entries below it, sorted by path, so that a directory comes before its content. A symbolic link that was
    /// followed gives two entries with the same path: the link, and after it the directory or file that it leads to.
    pub entries: Entries,
    /// The tablespaces that are symbolic links in `pg_tblspc`, sorted by OID. Their links are in `entries` too.
    pub tablespaces: Vec<Tablespace>,
    /// All other symbolic links, sorted by path. They are in `entries` too.
    pub links: Vec<Link>,
    /// Sockets, named pipes and devices, which were passed over.
    pub skipped: Vec<Skipped>,
}

/// A file, directory or link of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to PGDATA, separated by `/`. Behind a link, it is the path through the link.
    pub path: String,
    /// The directory on this host that `path` is relative to.
    pub root: Arc<Path>,
    /// Its type.
    pub kind: EntryKind,
    /// The time of the last change of its content, Unix seconds.
    pub modified: i64,
    /// Its permissions, the low 12 bits of `st_mode`.
    pub mode: u32,
    /// Its owner's name; `None` if the user has no name.
    pub user: Option<Arc<str>>,
    /// Its group's name; `None` if the group has no name.
    pub group: Option<Arc<str>>,
}

impl Entry {
    /// The path to open it by.
    #[must_use]
    pub fn disk_path(&self) -> PathBuf {
        self.root.join(&self.path)
    }
}

/// The type of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size in bytes when the walk saw it; a running server may change it.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// The link's text, absolute or relative to its directory.
        destination: String,
    },
}

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tablespace {
    /// Its OID, the name of its link.
    pub oid: u32,
    /// The link's text.
    pub destination: PathBuf,
}

/// A symbolic link in the data directory that is no tablespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Relative to PGDATA.
    pub path: String,
    /// The link's text.
    pub destination: String,
}

/// A file that a walk passed over, since a backup cannot hold it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Relative to PGDATA.
    pub path: String,
    /// Its type: "a socket", "a named pipe", "a device".
    pub what: &'static str,
}

/// Why a data directory could not be walked.
#[derive(Debug, Error)]
pub enum WalkError {
    /// A directory could not be read.
    #[error("reading the directory {}: {source}", path.display())]
    ReadDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file's size, owner or kind could not be read.
    #[error("examining {}: {source}", path.display())]
    Examine {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name or a link's destination is not UTF-8, and a manifest holds only UTF-8.
    #[error("the name or link destination of {} is not UTF-8: rename or exclude it", path.display())]
    NotUtf8 {
        /// The file, as far as it can be shown.
        path: PathBuf,
    },
    /// A link leads nowhere.
    #[error("the link {path} leads to {destination}, which does not exist: mend, remove or exclude it")]
    DanglingLink {
        /// The link, relative to PGDATA.
        path: String,
        /// The link's text.
        destination: String,
    },
    /// A link leads into the data directory, or to a directory that holds it.
    #[error(
        "the link {path} leads to {destination}, but links must lead out of the data directory and not around it: exclude it"
    )]
    LinkIntoCluster {
        /// The link, relative to PGDATA.
        path: String,
        /// The link's text.
        destination: String,
    },
    /// Two links lead to the same directory, or the directory of the one contains the directory of the other. A loop of
    /// links is such a case.
    #[error("the links {path} and {other} lead to the same files: exclude one of them")]
    LinkOverlap {
        /// The one link, relative to PGDATA.
        path: String,
        /// The other, relative to PGDATA.
        other: String,
    },
}
