//! From what lies there to the empty tree of directories and links that files are written into.

use super::data_directory::{DataDirectory, MARKER};
use super::disk::{self, failed};
use super::existing;
use super::late_tablespaces::{self, LateTablespace};
use super::options::Existing;
use super::owners::Owners;
use super::places::{PlannedLink, PlannedLinks};
use super::planning::Rules;
use super::survey::Survey;
use pgmesh_node::{Failure, code};
use pgmesh_storage::ManifestRoot;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A destination that is not empty (pgBackRest's number).
const PATH_NOT_EMPTY: u8 = 40;
/// A link that cannot be (pgBackRest's number).
const LINK_MAP: u8 = 78;

/// All that decides what the tree will be.
pub struct Tree<'a> {
    /// Directories and files of the backup.
    pub survey: &'a Survey,
    /// Links that are made.
    pub links: &'a PlannedLinks,
    /// What stays.
    pub rules: &'a Rules,
    /// The cluster's directory in every tablespace.
    pub version_directory: String,
    /// What may be done with what is there.
    pub existing: Existing,
}

impl<'a> Tree<'a> {
    /// Of a backup.
    pub fn new(
        root: &ManifestRoot,
        survey: &'a Survey,
        links: &'a PlannedLinks,
        rules: &'a Rules,
        existing: Existing,
    ) -> Self {
        let version_directory = format!("PG_{}_{}", root.archive_id.version, root.catalog_version);
        Self {
            survey,
            links,
            rules,
            version_directory,
            existing,
        }
    }

    /// Whether the places that links lead to may be written to. Changes nothing.
    ///
    /// # Errors
    /// 40 for one that holds something, unless it is a place that this data directory leads to and that may be overwritten;
    /// 78 for a file in a directory that is not there.
    pub fn check_destinations(&self, pgdata: &Path) -> Result<(), Failure> {
        for (path, link) in self.links {
            let content = self.content_of(link);
            let is_free = if link.to_directory {
                disk::is_empty(&content)?
            } else {
                !content.exists()
            };
            if !is_free && !self.is_ours(pgdata, path, link) {
                let what = format!("{}, where {path} is to lead, is not empty", content.display());
                return Err(Failure::new(PATH_NOT_EMPTY, what)
                    .remedy("empty it, or map it elsewhere with tablespace-map or link-map"));
            }
            if !link.to_directory && !link.destination.parent().is_some_and(Path::is_dir) {
                let what = format!(
                    "{}, where {path} is to lead, has no directory",
                    link.destination.display()
                );
                return Err(Failure::new(LINK_MAP, what).remedy("make the directory, or map the link elsewhere"));
            }
        }
        Ok(())
    }

    /// Whether the data directory as it is now leads to where a link will lead, and may be overwritten.
    fn is_ours(&self, pgdata: &Path, path: &str, link: &PlannedLink) -> bool {
        let leads = fs::canonicalize(pgdata.join(path));
        let will_lead = fs::canonicalize(&link.destination);
        self.existing != Existing::Refuse
            && leads.is_ok_and(|leads| will_lead.is_ok_and(|will_lead| leads == will_lead))
    }

    /// Makes the tree. What is in the way goes first, and the files of tablespaces that the backup does not have; how many files and directories that were, is answered.
    ///
    /// # Errors
    /// Something cannot be removed or made.
    pub fn make(&self, directory: &DataDirectory, owners: &Owners, late: &[LateTablespace]) -> Result<u64, Failure> {
        let pgdata = directory.path();
        directory.disable()?;
        // While the data directory still leads there.
        let emptied = late_tablespaces::clear(late)?;
        let removed = match self.existing {
            Existing::Refuse => 0,
            Existing::Remove => self.clear(pgdata)?,
            Existing::Compare => existing::sweep(pgdata, self)?,
        };
        // A directory sorts before what is in it, and so does a link.
        let mut paths: BTreeMap<&str, Option<&PlannedLink>> = self
            .survey
            .directories
            .keys()
            .map(|path| (path.as_str(), None))
            .collect();
        paths.extend(self.links.iter().map(|(path, link)| (path.as_str(), Some(link))));
        for (path, link) in paths {
            match link {
                None => disk::make_directories(&pgdata.join(path))?,
                Some(link) => self.make_link(&pgdata.join(path), path, link, owners)?,
            }
        }
        Ok(removed + emptied)
    }

    fn make_link(&self, at: &Path, path: &str, link: &PlannedLink, owners: &Owners) -> Result<(), Failure> {
        if link.to_directory {
            disk::make_directories(&link.destination)?;
        }
        if fs::read_link(at).is_ok_and(|leads| leads == link.destination) {
            return Ok(());
        }
        std::os::unix::fs::symlink(&link.destination, at).map_err(failed("making the link", at))?;
        let owner = self.survey.directories.get(path);
        let user = owner.and_then(|owner| owner.user.as_deref());
        owners.give_link(at, user, owner.and_then(|owner| owner.group.as_deref()))
    }

    /// The places that links lead to first, while the data directory still says that they belong to it.
    fn clear(&self, pgdata: &Path) -> Result<u64, Failure> {
        for link in self.links.values() {
            let content = self.content_of(link);
            if link.to_directory {
                disk::clear(&content, &|_| false)?;
            } else {
                disk::remove(&content)?;
            }
        }
        disk::clear(pgdata, &|name| {
            name == MARKER || name.to_str().is_some_and(|name| self.rules.kept.contains(name))
        })?;
        Ok(0)
    }

    /// What of a link's destination belongs to this cluster: tablespaces are shared by versions.
    pub fn content_of(&self, link: &PlannedLink) -> PathBuf {
        match link.tablespace {
            Some(_) => link.destination.join(&self.version_directory),
            None => link.destination.clone(),
        }
    }

    /// Gives all directories, PGDATA included, the permissions and owners that they had. Last, since files could not be
    /// made in a directory that is not writable.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn finish_directories(&self, pgdata: &Path, owners: &Owners) -> Result<(), Failure> {
        // The manifest does not have PGDATA itself; PostgreSQL keeps it like the directories in it.
        let like = self
            .survey
            .directories
            .get("base")
            .or_else(|| self.survey.directories.values().next());
        let root = like.map(|like| (String::new(), like));
        let others = self
            .survey
            .directories
            .iter()
            .map(|(path, entry)| (path.clone(), entry));
        for (path, entry) in others.chain(root) {
            let at = if path.is_empty() {
                pgdata.to_owned()
            } else {
                pgdata.join(&path)
            };
            let directory = fs::File::open(&at).map_err(failed("opening", &at))?;
            let metadata = directory.metadata().map_err(failed("examining", &at))?;
            if !metadata.is_dir() {
                return Err(Failure::new(
                    code::FILE_INVALID,
                    format!("{} is no directory", at.display()),
                ));
            }
            owners.give(&directory, &at, entry.user.as_deref(), entry.group.as_deref())?;
            if metadata.mode() & 0o7777 != entry.mode {
                let permissions = fs::Permissions::from_mode(entry.mode);
                directory
                    .set_permissions(permissions)
                    .map_err(failed("changing the permissions of", &at))?;
            }
        }
        Ok(())
    }
}

/// The file systems that a restore writes to, opened before it does: so that syncing them tells of every write that
/// failed meanwhile.
pub struct FileSystems(Vec<(u64, fs::File, PathBuf)>);

impl FileSystems {
    /// Those of PGDATA and of all places that links lead to. The tree is there already.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(pgdata: &Path, links: &PlannedLinks) -> Result<Self, Failure> {
        let mut found = Self(Vec::new());
        found.add(pgdata)?;
        for link in links.values() {
            let directory = if link.to_directory {
                Some(link.destination.as_path())
            } else {
                link.destination.parent()
            };
            if let Some(directory) = directory {
                found.add(directory)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, directory: &Path) -> Result<(), Failure> {
        let opened = fs::File::open(directory).map_err(failed("opening", directory))?;
        let device = opened.metadata().map_err(failed("examining", directory))?.dev();
        if self.0.iter().all(|(known, _, _)| *known != device) {
            self.0.push((device, opened, directory.to_owned()));
        }
        Ok(())
    }

    /// Makes everything on them durable: contents, names, permissions.
    ///
    /// # Errors
    /// A write has failed, now or since they were opened.
    pub fn sync(&self) -> Result<(), Failure> {
        for (_, opened, path) in &self.0 {
            rustix::fs::syncfs(opened).map_err(|error| failed("syncing the file system of", path)(error.into()))?;
        }
        Ok(())
    }
}
