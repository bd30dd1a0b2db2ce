//! Objects that lie in repositories and that the catalog does not know.

use pgmesh_storage::{Digest, Generation, RepoKey};

use super::View;
use crate::apply::{Base, orphans};
use crate::error::ReadError;
use crate::key;
use crate::model::{GarbageKey, OrphanScan, SightedOrphan};
use crate::table::Table;

impl<B: Base> View<B> {
    /// Whether the catalog knows an object of this content under this name in any way, or has assigned the name to a
    /// write that may be under way.
    pub fn knows(&self, name: &GarbageKey, digest: Digest) -> Result<bool, ReadError> {
        orphans::is_known(&self.base, name, digest)
    }

    /// Whether this catalog can have assigned a name, as far as its generation tells.
    pub fn may_be_assigned(&self, name: &GarbageKey) -> Result<bool, ReadError> {
        orphans::may_be_assigned(&self.base, name)
    }

    /// No name below was assigned in this era of the catalog.
    pub fn era_floor(&self) -> Result<Generation, ReadError> {
        orphans::era_floor(&self.base)
    }

    /// How far a repository was looked through for objects that the catalog does not know.
    pub fn orphan_scan(&self, repo: RepoKey) -> Result<OrphanScan, ReadError> {
        let scan = self.base.record(Table::OrphanScans, &key::repository(repo))?;
        Ok(scan.unwrap_or_default())
    }

    /// Objects that were seen in a repository and that the catalog does not know, by path.
    pub fn orphans(&self, repo: RepoKey) -> impl Iterator<Item = Result<(String, SightedOrphan), ReadError>> + Send {
        let prefix = key::repository(repo);
        self.rows(Table::Orphans, &prefix, &prefix, |key| {
            key::read_orphan(key).map(|(_, path)| path)
        })
    }
}
