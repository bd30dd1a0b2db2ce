use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::PoisonError;
use std::time::SystemTime;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use pgmesh_postgres::WalFileName;

use super::{Checked, Repository, location};
use crate::error::StoreError;
use crate::names::{ArchiveId, Generation, StanzaName};
use crate::object::{ObjectName, ObjectPath, prefix};

/// Generations tried one by one before a folder is listed.
const GENERATIONS_TRIED: u32 = 3;
/// Generations that are remembered from the last finds, and tried first.
const GENERATIONS_REMEMBERED: usize = 8;

/// The estimated memory of a name beside its own bytes.
const NAME_OVERHEAD: usize = 16;

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The object's path, relative to the repository's root; see [`ObjectPath::parse`].
    pub path: String,
    /// Its length in the repository, in bytes.
    pub length: u64,
    /// The time of its writing, by the store's clock.
    pub written: SystemTime,
}

impl Repository {
    /// All objects below a folder (see [`prefix`]), or in the whole repository for `""`, in no particular order.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed, StoreError>> {
        let folder = folder.trim_matches('/').to_owned();
        let prefix = match folder.as_str() {
            "" => None,
            folder => match location("listing", folder) {
                Ok(prefix) => Some(prefix),
                Err(error) => return stream::once(async { Err(error) }).boxed(),
            },
        };
        self.0
            .store
            .list(prefix.as_ref())
            .map(move |meta| match meta {
                Ok(meta) => Ok(Listed {
                    path: meta.location.to_string(),
                    length: meta.size,
                    written: meta.last_modified.into(),
                }),
                // "Not found" while listing means that a folder vanished, not that an object is missing.
                Err(error @ object_store::Error::NotFound { .. }) => Err(StoreError::Unavailable {
                    action: "listing",
                    path: folder.clone(),
                    source: Box::new(error),
                }),
                Err(error) => Err(StoreError::from_store("listing", &folder, error)),
            })
            .boxed()
    }

    /// The names directly below a folder, or with `recurse` of all objects below it, each with its length; a folder
    /// ends with `/` and has no length. Gives the first names after `after` whose lengths come to about `bytes`, and
    /// whether more names follow. If `folder` is the path of an object itself, its name is `""`.
    ///
    /// # Errors
    /// The store's error.
    pub async fn list_names(
        &self,
        folder: &str,
        recurse: bool,
        after: Option<&str>,
        bytes: usize,
    ) -> Result<(BTreeMap<String, Option<u64>>, bool), StoreError> {
        let mut names = BTreeMap::new();
        let (mut held, mut more) = (0, false);
        let mut objects = self.list(folder);
        while let Some(object) = objects.try_next().await? {
            let below = object
                .path
                .strip_prefix(folder)
                .unwrap_or(&object.path)
                .trim_start_matches('/');
            let (name, size) = match below.split_once('/') {
                Some((folder, _)) if !recurse => (format!("{folder}/"), None),
                _ => (below.to_owned(), Some(object.length)),
            };
            if after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            let length = name.len() + NAME_OVERHEAD;
            if names.insert(name, size).is_none() {
                held += length;
            }
            // A store lists in no order, so the first names are known only at the end of the listing.
            while held > bytes && names.len() > 1 {
                if let Some((last, _)) = names.pop_last() {
                    held -= last.len() + NAME_OVERHEAD;
                    more = true;
                }
            }
        }
        Ok((names, more))
    }

    /// All objects below a folder whose paths can be read, sorted. For folders of bounded size.
    ///
    /// # Errors
    /// The store's error.
    pub async fn list_sorted(&self, folder: &str) -> Result<Vec<(ObjectPath, u64)>, StoreError> {
        let mut found: Vec<_> = self
            .list(folder)
            .try_filter_map(
                |listed| async move { Ok(ObjectPath::parse(&listed.path).map(|path| (path, listed.length))) },
            )
            .try_collect()
            .await?;
        found.sort();
        Ok(found)
    }

    /// The possible lengths of the payload (compressed, before encryption) of an object of this length, in bytes: one
    /// length without a cipher, one of 16 with it. `None` for a length that no object of this repository has.
    #[must_use]
    pub fn payload_bounds(&self, object_length: u64) -> Option<RangeInclusive<u64>> {
        self.0.envelope.payload_bounds(object_length)
    }

    /// The objects of an archived file, of every content and generation: without a catalog, only the name is known.
    ///
    /// # Errors
    /// The store's error.
    pub async fn find_archived(
        &self,
        stanza: &StanzaName,
        archive_id: ArchiveId,
        wanted: &WalFileName,
    ) -> Result<Vec<ObjectPath>, StoreError> {
        let folder = prefix::archived_file(stanza, archive_id, wanted);
        Ok(self
            .list_sorted(&folder)
            .await?
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| matches!(path, ObjectPath::Segment { file, .. } if file == wanted))
            .collect())
    }

    /// Reads an object without knowing its generation: any generation that exists and is whole.
    ///
    /// # Errors
    /// Not found, if no generation exists; the damage of one of them, if all are damaged.
    pub async fn get_any_generation(&self, name: &ObjectName) -> Result<(Generation, Checked), StoreError> {
        let mut failure = None;
        let guesses = self.likely_generations();
        for generation in &guesses {
            match self.get_checked(name, *generation).await {
                Ok(checked) => return Ok((self.found(*generation), checked)),
                Err(error) => keep_worse(&mut failure, error)?,
            }
        }
        let first = self.path_of(name, Generation::FIRST);
        let path = first.to_string();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (listed, _) in self.list_sorted(folder).await? {
            let generation = listed.generation();
            if guesses.contains(&generation) || self.path_of(name, generation) != listed {
                continue;
            }
            match self.get_checked(name, generation).await {
                Ok(checked) => return Ok((self.found(generation), checked)),
                Err(error) => keep_worse(&mut failure, error)?,
            }
        }
        Err(failure.unwrap_or(StoreError::NotFound { path }))
    }

    /// The generations that are tried before a folder, which may hold millions of objects, is listed: those found last,
    /// since objects of one time mostly have the same generation, and the first few.
    fn likely_generations(&self) -> Vec<Generation> {
        let found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut likely = found.clone();
        let first = (0..GENERATIONS_TRIED).map(Generation);
        likely.extend(first.filter(|generation| !found.contains(generation)));
        likely
    }

    fn found(&self, generation: Generation) -> Generation {
        let mut found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|other| *other != generation);
        found.insert(0, generation);
        found.truncate(GENERATIONS_REMEMBERED);
        generation
    }
}

/// Keeps the error to report: damage counts for more than absence. Gives up on any other error.
fn keep_worse(kept: &mut Option<StoreError>, error: StoreError) -> Result<(), StoreError> {
    match error {
        StoreError::NotFound { .. } => {
            kept.get_or_insert(error);
            Ok(())
        }
        StoreError::Damaged { .. } => {
            *kept = Some(error);
            Ok(())
        }
        error => Err(error),
    }
}
