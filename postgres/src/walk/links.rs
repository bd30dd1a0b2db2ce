//! Which symbolic links a walk may follow.

use std::path::{Path, PathBuf};

use super::WalkError;

/// The directories that links led to so far, so that no file is walked twice and no loop is entered.
pub(super) struct LinkTargets {
    /// PGDATA, without links in its path.
    cluster: PathBuf,
    /// The directories that links led to, without links in their paths, and each link's own path.
    directories: Vec<(PathBuf, String)>,
}

/// A symbolic link that a walk met.
pub(super) struct FoundLink<'a> {
    /// Relative to PGDATA.
    pub(super) path: &'a str,
    /// The link's text.
    pub(super) destination: &'a str,
    /// Its target, without links in the path; for a tablespace, the directory of the cluster's version in it.
    pub(super) canonical: PathBuf,
    /// Whether it leads to a directory.
    pub(super) to_directory: bool,
}

impl LinkTargets {
    pub(super) fn new(cluster: PathBuf) -> Self {
        Self {
            cluster,
            directories: Vec::new(),
        }
    }

    /// Judges a link, and remembers the directory that it leads to.
    pub(super) fn enter(&mut self, link: FoundLink<'_>) -> Result<(), WalkError> {
        let around = link.to_directory && self.cluster.starts_with(&link.canonical);
        if link.canonical.starts_with(&self.cluster) || around {
            return Err(WalkError::LinkIntoCluster {
                path: link.path.to_owned(),
                destination: link.destination.to_owned(),
            });
        }
        if link.to_directory {
            if let Some((_, other)) = self
                .directories
                .iter()
                .find(|(directory, _)| overlap(directory, &link.canonical))
            {
                return Err(WalkError::LinkOverlap {
                    path: link.path.to_owned(),
                    other: other.clone(),
                });
            }
            self.directories.push((link.canonical, link.path.to_owned()));
        }
        Ok(())
    }
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
