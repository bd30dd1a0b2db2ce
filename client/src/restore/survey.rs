//! Reading a backup's manifest: part by part, so that memory does not grow with the cluster (invariant 11).

use super::places::FoundLinks;
use super::planning::PG_CONTROL;
use super::source::BackupSource;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{DigestSuite, EntryKind, FileEntry, ManifestRoot, PartReader};
use std::collections::BTreeMap;

/// The parts of a manifest, one after the other.
pub struct Parts<'a> {
    source: &'a BackupSource,
    root: &'a ManifestRoot,
    reader: PartReader,
    next: usize,
}

impl<'a> Parts<'a> {
    /// Before the first one.
    pub fn of(source: &'a BackupSource, root: &'a ManifestRoot) -> Self {
        Self {
            source,
            root,
            reader: PartReader::new(),
            next: 0,
        }
    }

    /// The entries of the next part; `None` after the last one.
    ///
    /// # Errors
    /// The part cannot be read from anywhere, or is no part.
    pub async fn next(&mut self) -> Result<Option<Vec<FileEntry>>, Failure> {
        let label = &self.root.label;
        let unreadable = |cause: &dyn std::fmt::Display| {
            Failure::new(
                ExitCode::Format,
                format!("the list of files of backup {label} cannot be read"),
            )
            .because(cause)
        };
        let Some(part) = self.root.parts.get(self.next) else {
            std::mem::take(&mut self.reader)
                .finish()
                .map_err(|error| unreadable(&error))?;
            return Ok(None);
        };
        self.next += 1;
        let plain = self.source.chunk(part.digest).await?;
        if plain.len() as u64 != part.length {
            return Err(unreadable(&format!(
                "part {} has {} bytes, not {}",
                self.next,
                plain.len(),
                part.length
            )));
        }
        self.reader
            .entries(&plain)
            .map(Some)
            .map_err(|error| unreadable(&error))
    }
}

/// A directory, as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Permission bits.
    pub mode: u32,
    /// The owner's name.
    pub user: Option<String>,
    /// The group's name.
    pub group: Option<String>,
}

/// The facts of the whole manifest that the restore needs before it writes the first file.
#[derive(Debug, Default)]
pub struct Survey {
    /// Links, and the paths of directories.
    pub found: FoundLinks,
    /// Directories, by path.
    pub directories: BTreeMap<String, DirectoryEntry>,
    /// How many files there are.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Small files in which PostgreSQL's configuration may be, by path.
    pub configuration: BTreeMap<String, FileEntry>,
    /// The paths of all files, where asked for.
    paths: Option<Paths>,
}

impl Survey {
    /// Reads the whole manifest once. `with_paths`: remembers which files there are.
    ///
    /// # Errors
    /// The manifest cannot be read, or is no cluster's.
    pub async fn take(source: &BackupSource, root: &ManifestRoot, with_paths: bool) -> Result<Self, Failure> {
        let mut survey = Self {
            paths: with_paths.then(Paths::default),
            ..Self::default()
        };
        let (mut has_control, mut has_version) = (false, false);
        let mut parts = Parts::of(source, root);
        let version_directory = root.tablespace_directory();
        while let Some(entries) = parts.next().await? {
            for entry in entries {
                entry.check_tablespace(&version_directory).map_err(|error| {
                    let what = format!("backup {} would put files outside of the cluster", root.label);
                    Failure::new(ExitCode::Format, what).because(error)
                })?;
                has_control |= entry.path == PG_CONTROL;
                has_version |= entry.path == "PG_VERSION";
                survey.add(entry);
            }
        }
        if let Some(paths) = &mut survey.paths {
            paths.sort();
        }
        if has_control && has_version {
            return Ok(survey);
        }
        Err(Failure::new(
            ExitCode::BackupSetInvalid,
            format!("backup {} does not contain a whole cluster", root.label),
        )
        .because("it has no PG_VERSION or no pg_control"))
    }

    fn add(&mut self, entry: FileEntry) {
        match entry.kind {
            EntryKind::Link { destination } => drop(self.found.links.insert(entry.path, destination)),
            EntryKind::Directory => {
                self.found.directories.insert(entry.path.clone());
                let directory = DirectoryEntry {
                    mode: entry.mode,
                    user: entry.user,
                    group: entry.group,
                };
                self.directories.insert(entry.path, directory);
            }
            EntryKind::File { size, .. } => {
                self.files += 1;
                self.bytes += size;
                let is_small = size <= 1 << 20 && entry.extents().len() <= MAX_EXTENTS;
                // Some keep thousands of logs in a folder of their own.
                let most = if entry.path.ends_with(".conf") {
                    2 * MAX_CONFIGURATION
                } else {
                    MAX_CONFIGURATION
                };
                if is_small && may_be_configuration(&entry.path) && self.configuration.len() < most {
                    self.configuration.insert(entry.path.clone(), entry.clone());
                }
                if let Some(paths) = &mut self.paths {
                    paths.push(&entry.path);
                }
            }
        }
    }

    /// Whether the manifest has a file of this path; only of a survey that was taken with paths.
    pub fn has_file(&self, path: &str) -> bool {
        self.paths.as_ref().is_some_and(|paths| paths.has(path))
    }
}

/// Files that may be configuration, at most.
const MAX_CONFIGURATION: usize = 1000;
/// And the most extents of such a file (invariant 11).
const MAX_EXTENTS: usize = 300;

/// Whether PostgreSQL may read a file as its configuration: none of the directories that are its own.
fn may_be_configuration(path: &str) -> bool {
    let is_own = |folder: &str| matches!(folder, "base" | "global" | "log") || folder.starts_with("pg_");
    !path.split_once('/').is_some_and(|(folder, _)| is_own(folder))
}

/// A set of paths in 16 bytes each, for paths of any length.
#[derive(Debug, Default)]
struct Paths(Vec<[u8; 16]>);

impl Paths {
    fn push(&mut self, path: &str) {
        self.0.push(key(path));
    }

    /// When all are in it, before the first question.
    fn sort(&mut self) {
        self.0.sort_unstable();
    }

    fn has(&self, path: &str) -> bool {
        self.0.binary_search(&key(path)).is_ok()
    }
}

fn key(path: &str) -> [u8; 16] {
    let digest = DigestSuite::Blake3.digest(path.as_bytes());
    let mut key = [0; 16];
    key.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_paths_that_were_put_in_and_no_others() {
        let mut paths = Paths::default();
        (0..1000).for_each(|number| paths.push(&format!("base/5/{number}")));
        paths.sort();
        assert!((0..1000).all(|number| paths.has(&format!("base/5/{number}"))));
        assert!(!["base/5/1000", "base/5", ""].iter().any(|path| paths.has(path)));
    }
}
