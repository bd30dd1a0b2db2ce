//! The walk over a data directory: what a backup consists of.
//!
//! `exclusions` decides by names alone what belongs to a backup, `links` which symbolic links may be followed, `walker`
//! reads the directories, in the order of paths (`directory`), and `entries` keeps what it finds.

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

/// What a walk needs to know beforehand.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// The cluster's version: only its directory of a tablespace is of the cluster.
    pub version: PgVersion,
    /// Paths relative to PGDATA to leave out besides what is always left out. `junk` leaves out the file or directory;
    /// `junk/` keeps the directory and leaves out what is in it.
    pub exclude: Vec<String>,
}

impl WalkOptions {
    /// A walk that leaves out nothing but what is always left out.
    #[must_use]
    pub fn new(version: PgVersion) -> Self {
        Self {
            version,
            exclude: Vec::new(),
        }
    }
}

/// What a data directory consists of, without what a backup leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTree {
    /// The data directory itself, with an empty path.
    pub root: Entry,
    /// Everything in it, sorted by path, so that a directory comes before what it holds. A symbolic link that was
    /// followed gives two entries with the same path: the link, and after it the directory or file that it leads to.
    pub entries: Entries,
    /// The tablespaces that are symbolic links in `pg_tblspc`, sorted by OID. Their links are in `entries` too.
    pub tablespaces: Vec<Tablespace>,
    /// All other symbolic links, sorted by path. They are in `entries` too.
    pub links: Vec<Link>,
    /// What is neither file, directory nor link, and was passed over.
    pub skipped: Vec<Skipped>,
}

/// A file, directory or link of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to PGDATA, with `/` in between; for what lies behind a link: the path through the link.
    pub path: String,
    /// The directory that `path` lies below on this host, where the entry is to be opened.
    pub root: Arc<Path>,
    /// What it is.
    pub kind: EntryKind,
    /// When its content was last changed, Unix seconds.
    pub modified: i64,
    /// Its permissions, the low 12 bits of `st_mode`.
    pub mode: u32,
    /// Who owns it; `None` when the user has no name.
    pub user: Option<Arc<str>>,
    /// Which group owns it; `None` when the group has no name.
    pub group: Option<Arc<str>>,
}

impl Entry {
    /// Where to open it.
    #[must_use]
    pub fn disk_path(&self) -> PathBuf {
        self.root.join(&self.path)
    }
}

/// What an [`Entry`] is.
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
        /// What the link says, absolute or relative to its directory.
        destination: String,
    },
}

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tablespace {
    /// Its OID, the name of its link.
    pub oid: u32,
    /// What the link says.
    pub destination: PathBuf,
}

/// A symbolic link in the data directory that is no tablespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Relative to PGDATA.
    pub path: String,
    /// What the link says.
    pub destination: String,
}

/// What a walk passed over and a backup cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Relative to PGDATA.
    pub path: String,
    /// What it is: "a socket", "a named pipe", "a device".
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
    /// A name or a link's destination is not UTF-8, so that no manifest can name it.
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
        /// What it says.
        destination: String,
    },
    /// A link leads into the data directory, or to a directory that holds it.
    #[error(
        "the link {path} leads to {destination}, but links must lead out of the data directory and not around it: exclude it"
    )]
    LinkIntoCluster {
        /// The link, relative to PGDATA.
        path: String,
        /// What it says.
        destination: String,
    },
    /// Two links lead to the same directory, or one of them leads into what the other leads to; a loop of links is such
    /// a case.
    #[error("the links {path} and {other} lead to the same files: exclude one of them")]
    LinkOverlap {
        /// The one link, relative to PGDATA.
        path: String,
        /// The other, relative to PGDATA.
        other: String,
    },
}
