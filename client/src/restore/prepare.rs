//! Clears the data directory, as far as the options allow it, and makes the tree of directories and links that files
//! are written into.

use super::below::Below;
use super::data_directory::{DataDirectory, MARKER};
use super::disk::{self, failed};
use super::existing;
use super::late_tablespaces::{self, LateTablespace};
use super::options::Existing;
use super::owners::Owners;
use super::places::{PlannedLink, PlannedLinks};
use super::planning::Rules;
use super::roots::Roots;
use super::servers;
use super::survey::{DirectoryEntry, Survey};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::ManifestRoot;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The facts that decide about the tree.
pub struct Tree<'a> {
    /// Directories and files of the backup.
    pub survey: &'a Survey,
    /// Links that are made.
    pub links: &'a PlannedLinks,
    /// The files that stay as they are.
    pub rules: &'a Rules,
    /// The cluster's directory in every tablespace.
    pub version_directory: String,
    /// Whether the restore may change the files that are there.
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
        let version_directory = root.tablespace_directory();
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
    /// 40 for a place that is not empty, unless this data directory leads to it and it may be overwritten; 78 for a
    /// file in a directory that is not there.
    pub fn check_destinations(&self, pgdata: &Path) -> Result<(), Failure> {
        for (path, link) in self.links {
            let content = self.content_of(link);
            let is_free = if link.to_directory {
                disk::is_empty(&content)?
            } else {
                !content.exists()
            };
            if !is_free && !self.is_ours(pgdata, path, link) {
                let what = format!("{}, the destination of {path}, is not empty", content.display());
                return Err(Failure::new(ExitCode::PathNotEmpty, what)
                    .remedy("empty it, or map it elsewhere with tablespace-map or link-map"));
            }
            // A copy that was made by copying files leads to the original's tablespaces.
            let user =
                (!is_free && link.tablespace.is_some()).then(|| servers::user_of_tablespace(&link.destination, pgdata));
            if let Some(server) = user.flatten() {
                let what = format!("{}, the destination of {path}, is in use", content.display());
                return Err(Failure::new(ExitCode::PathNotEmpty, what)
                    .because(format!("the server on {} has a tablespace there", server.display()))
                    .remedy("map it elsewhere with tablespace-map"));
            }
            if !link.to_directory && !link.destination.parent().is_some_and(Path::is_dir) {
                let what = format!(
                    "{}, the destination of {path}, lies in a directory that does not exist",
                    link.destination.display()
                );
                return Err(
                    Failure::new(ExitCode::LinkMap, what).remedy("make the directory, or map the link elsewhere")
                );
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

    /// Makes the tree. Entries in the way go first, and the files of tablespaces that the backup does not have. Answers
    /// how many files and directories were removed, and the directories to write below.
    ///
    /// # Errors
    /// An entry cannot be removed or made.
    pub fn make(
        &self,
        directory: &DataDirectory,
        owners: &Owners,
        late: &[LateTablespace],
    ) -> Result<(u64, Roots), Failure> {
        let pgdata = directory.below();
        directory.disable()?;
        // While the data directory still leads there.
        let emptied = late_tablespaces::clear(late)?;
        let removed = match self.existing {
            Existing::Refuse => 0,
            Existing::Remove => self.clear(pgdata)?,
            Existing::Compare => existing::sweep(pgdata, self)?,
        };
        // A link sorts before the entries behind it, and a directory before its entries.
        let mut roots = Roots::of(Arc::clone(pgdata));
        for (path, link) in self.links {
            self.make_link(&roots, path, link, owners)?;
            roots.add(path, link)?;
        }
        for path in self
            .survey
            .directories
            .keys()
            .filter(|path| !self.links.contains_key(*path))
        {
            let (below, path) = roots.find(path);
            below.make_directories(path)?;
        }
        Ok((removed + emptied, roots))
    }

    fn make_link(&self, roots: &Roots, path: &str, link: &PlannedLink, owners: &Owners) -> Result<(), Failure> {
        if link.to_directory {
            disk::make_directories(&link.destination)?;
        }
        let (below, at) = roots.find(path);
        if let Some((parent, _)) = at.rsplit_once('/') {
            below.make_directories(parent)?;
        }
        if below.read_link(at)?.is_some_and(|leads| leads == link.destination) {
            return Ok(());
        }
        below.make_link(at, &link.destination)?;
        let owner = self.survey.directories.get(path);
        let user = owner.and_then(|owner| owner.user.as_deref());
        owners.give_link(below, at, user, owner.and_then(|owner| owner.group.as_deref()))
    }

    /// Clears the places that links lead to first, while the data directory still says that they belong to it.
    fn clear(&self, pgdata: &Below) -> Result<u64, Failure> {
        for link in self.links.values() {
            let destination = link.destination.as_path();
            let (parent, name) = (destination.parent(), destination.file_name());
            match (link.tablespace, parent.zip(name)) {
                (Some(_), _) if destination.is_dir() => {
                    Below::open(destination)?.clear_directory(&self.version_directory)?;
                }
                (None, _) if link.to_directory && destination.is_dir() => {
                    Below::open(destination)?.clear(&|_| false)?
                }
                (None, Some((parent, name))) if !link.to_directory && parent.is_dir() => {
                    Below::open(parent)?.remove(name)?;
                }
                _ => {}
            }
        }
        pgdata.clear(&|name| name == MARKER || name.to_str().is_some_and(|name| self.rules.kept.contains(name)))?;
        Ok(0)
    }

    /// The part of a link's destination that belongs to this cluster: versions share tablespaces.
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
    pub fn finish_directories(&self, roots: &Roots, owners: &Owners) -> Result<(), Failure> {
        // The manifest does not have PGDATA itself; PostgreSQL keeps it like the directories in it.
        let like = self.like().or_else(|| self.survey.directories.values().next());
        let root = like.map(|like| ("", like));
        let others = self.survey.directories.iter();
        for (path, entry) in others.map(|(path, entry)| (path.as_str(), entry)).chain(root) {
            let (below, path) = match path {
                "" => (roots.pgdata(), ""),
                path => roots.find(path),
            };
            let directory = below.directory(path)?;
            let (at, file) = (directory.path(), directory.file());
            let metadata = file.metadata().map_err(failed("examining", at))?;
            owners.give(file, at, entry.user.as_deref(), entry.group.as_deref())?;
            if metadata.mode() & 0o7777 != entry.mode {
                file.set_permissions(fs::Permissions::from_mode(entry.mode))
                    .map_err(failed("changing the permissions of", at))?;
            }
        }
        Ok(())
    }

    /// A directory of the backup that belongs to the server.
    pub fn like(&self) -> Option<&'a DirectoryEntry> {
        self.survey.directories.get("base")
    }
}

/// The file systems that a restore writes to, opened before it does: so that syncing them tells of every write that
/// failed meanwhile.
pub struct FileSystems(Vec<(u64, fs::File, PathBuf)>);

impl FileSystems {
    /// The file systems of PGDATA, of all places that links lead to, and of all mounts on directories of the backup.
    /// The tree is there already.
    ///
    /// # Errors
    /// A directory cannot be opened.
    pub fn open(roots: &Roots, survey: &Survey) -> Result<Self, Failure> {
        let mut found = Self(Vec::new());
        for root in roots.all() {
            found.add(root)?;
        }
        for path in survey.directories.keys() {
            let (below, path) = roots.find(path);
            found.add(&below.directory(path)?)?;
        }
        Ok(found)
    }

    fn add(&mut self, directory: &Below) -> Result<(), Failure> {
        let path = directory.path();
        let device = directory.file().metadata().map_err(failed("examining", path))?.dev();
        if !self.has(device) {
            let opened = directory.file().try_clone().map_err(failed("opening", path))?;
            self.0.push((device, opened, path.to_owned()));
        }
        Ok(())
    }

    /// Whether this device's file system is among them. A file may be mounted by itself.
    pub fn has(&self, device: u64) -> bool {
        self.0.iter().any(|(known, _, _)| *known == device)
    }

    /// Makes everything on them durable: contents, names, permissions.
    ///
    /// # Errors
    /// A write has failed, now or since they were opened.
    pub fn sync(&self) -> Result<(), Failure> {
        for (_, opened, path) in &self.0 {
            rustix::fs::syncfs(opened).map_err(|error| failed("syncing the file system of", path)(error.into()))?;
            tracing::debug!("synced the file system of {}", path.display());
        }
        Ok(())
    }
}
