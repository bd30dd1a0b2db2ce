//! Marks: small objects, each under a new name (invariant 2). By them, a node tells an older copy of a repository from
//! the repository itself.
//!
//! A copy that is put back from a backup, or the wrong snapshot of a volume, has the same `pgmesh.repo` and the same
//! keys, and every object in it is whole: no object tells that later ones are missing. So a node that writes to a
//! repository writes a mark from time to time, and remembers the newest mark elsewhere.

use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::{Created, Repository, create, location};
use crate::checked_text;
use crate::error::{Damage, StoreError};
use crate::identity::RepositoryIdentity;
use crate::object::{MARK_PREFIX, Mark, ObjectPath};

/// The content of a mark, readable for people.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MarkText {
    /// The repository's identity.
    repository: String,
    /// The number in the mark's name.
    number: u64,
    /// The time of the mark, in seconds since the Unix epoch.
    at: i64,
    /// The state of the catalog.
    catalog: Anchor,
}

/// How far the catalog of the mesh had come when a mark was written. A catalog that has come less far has lost
/// something, or another one has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// How often an administrator went on without a part of the catalog: after a loss, without the majority of its
    /// nodes, or with a catalog rebuilt from a repository.
    pub era: u32,
    /// A random number of the era; 0 in the first one.
    pub branch: u64,
    /// The number of commands that the catalog had applied.
    pub position: u64,
    /// The lowest generation that the catalog assigned.
    pub floor: u32,
}

impl Repository {
    /// Writes a mark, which is durable when this returns (invariant 1). `at` is the current time, in seconds since the
    /// Unix epoch, for people to read. `catalog` is the state of the catalog.
    ///
    /// # Errors
    /// The store's error.
    pub async fn write_mark(&self, mark: Mark, at: i64, catalog: Anchor) -> Result<(), StoreError> {
        let path = ObjectPath::Mark(mark).to_string();
        let text = MarkText {
            repository: self.0.identity.uuid.clone(),
            number: mark.number,
            at,
            catalog,
        };
        let text = checked_text::encode(&text).map_err(|error| StoreError::damaged(&path, error))?;
        match create(&*self.0.store, &path, PutPayload::from(text)).await? {
            // The number and the random nonce are the same, so an earlier attempt wrote this mark and its answer was
            // lost.
            Created::New | Created::Exists => Ok(()),
        }
    }

    /// Whether a mark exists.
    ///
    /// # Errors
    /// The store's error.
    pub async fn has_mark(&self, mark: Mark) -> Result<bool, StoreError> {
        let path = ObjectPath::Mark(mark).to_string();
        match self.0.store.head(&location("looking for", &path)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreError::from_store("looking for", &path, error)),
        }
    }

    /// A mark's content: its time, in seconds since the Unix epoch, and the state of the catalog then.
    ///
    /// # Errors
    /// Not found, damaged, or the store's error.
    pub async fn read_mark(&self, mark: Mark) -> Result<(i64, Anchor), StoreError> {
        let path = ObjectPath::Mark(mark).to_string();
        let bytes = self.read_raw(&path).await?;
        decode(&path, &bytes, &self.0.identity, mark).map(|text| (text.at, text.catalog))
    }

    /// The repository's marks, the oldest first.
    ///
    /// # Errors
    /// The store's error.
    pub async fn marks(&self) -> Result<Vec<Mark>, StoreError> {
        let listed = self.list(MARK_PREFIX);
        let mut marks: Vec<Mark> = listed
            .try_filter_map(|listed| async move {
                Ok(match ObjectPath::parse(&listed.path) {
                    Some(ObjectPath::Mark(mark)) => Some(mark),
                    _ => None,
                })
            })
            .try_collect()
            .await?;
        marks.sort_unstable();
        Ok(marks)
    }

    /// Deletes a mark. A missing mark counts as deleted.
    ///
    /// # Errors
    /// The store's error.
    pub async fn delete_mark(&self, mark: Mark) -> Result<(), StoreError> {
        self.delete_path(&ObjectPath::Mark(mark).to_string()).await
    }
}

/// Checks a mark's content against its name and its repository.
pub(super) fn check(path: &str, bytes: &[u8], identity: &RepositoryIdentity, mark: Mark) -> Result<(), StoreError> {
    decode(path, bytes, identity, mark).map(drop)
}

fn decode(path: &str, bytes: &[u8], identity: &RepositoryIdentity, mark: Mark) -> Result<MarkText, StoreError> {
    let text: MarkText = checked_text::decode(bytes).map_err(|error| StoreError::damaged(path, error))?;
    if text.repository == identity.uuid && text.number == mark.number {
        Ok(text)
    } else {
        Err(StoreError::damaged(path, Damage::Name))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStore;
    use object_store::memory::InMemory;

    use super::*;
    use crate::digest::DigestSuite;
    use crate::identity::Cipher;

    #[tokio::test]
    async fn marks_are_listed_checked_and_deleted() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let identity = RepositoryIdentity::generate("mesh", DigestSuite::Sha256, Cipher::None, 17).unwrap();
        let (repository, _) = Repository::create(Arc::clone(&store), identity, None).await.unwrap();
        let mark = |number, nonce| Mark { number, nonce };
        let anchor = Anchor {
            era: 1,
            branch: u64::MAX,
            position: 4711,
            floor: 2,
        };
        for mark in [mark(11, 5), mark(2, u64::MAX), mark(11, 4)] {
            assert!(!repository.has_mark(mark).await.unwrap());
            repository.write_mark(mark, 1700, anchor).await.unwrap();
            assert!(repository.has_mark(mark).await.unwrap());
        }
        let found = repository.marks().await.unwrap();
        assert_eq!(found, [mark(2, u64::MAX), mark(11, 4), mark(11, 5)]);
        assert_eq!(repository.read_mark(mark(11, 5)).await.unwrap(), (1700, anchor));
        let path = "pgmesh.mark/0000000000000002-ffffffffffffffff";
        assert!(repository.verify_path(path).await.unwrap() > 0);
        let moved = "pgmesh.mark/0000000000000003-ffffffffffffffff";
        let text = repository.read_raw(path).await.unwrap();
        store.put(&moved.into(), PutPayload::from(text)).await.unwrap();
        assert!(repository.verify_path(moved).await.unwrap_err().is_damage());
        repository.delete_mark(mark(11, 4)).await.unwrap();
        repository.delete_mark(mark(11, 4)).await.unwrap();
        assert!(!repository.has_mark(mark(11, 4)).await.unwrap());
    }
}
