//! Marks: small objects under ever new names (invariant 2), by which an older copy of a repository is told from itself.
//!
//! A copy that is put back from a backup, or the wrong snapshot of a volume, has the same `pgmesh.repo` and the same
//! keys, and every object in it is whole: nothing in it says that it lacks what was written after it was made. So
//! whoever writes to a repository writes a mark there from time to time, and remembers the newest one elsewhere.

use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::{Created, Repository, create, location};
use crate::checked_text;
use crate::error::{Damage, StoreError};
use crate::identity::RepositoryIdentity;
use crate::object::{MARK_PREFIX, Mark, ObjectPath};

/// What a mark holds, for people who look into it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MarkText {
    /// The repository's identity.
    repository: String,
    /// The number in the mark's name.
    number: u64,
    /// When it was written, in seconds since the Unix epoch.
    at: i64,
    /// What it says of the catalog.
    catalog: Anchor,
}

/// How far the catalog of the mesh had come when a mark was written. A catalog that has come less far has lost
/// something, or another one has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// How often somebody went on without a part of the catalog: without what it had lost, without the majority of its
    /// nodes, or with one that was made anew from a repository.
    pub era: u32,
    /// A random number of the era; 0 in the first one.
    pub branch: u64,
    /// The number of commands that it had applied.
    pub position: u64,
    /// The lowest generation that it assigned.
    pub floor: u32,
}

impl Repository {
    /// Writes a mark, which is durable when this returns (invariant 1). `at` is now, in seconds since the Unix epoch:
    /// for people. `catalog` is how far the catalog has come.
    ///
    /// # Errors
    /// As the store answers.
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
            // The same number and the same random nonce: it is this one, written by an attempt whose answer was lost.
            Created::New | Created::Exists => Ok(()),
        }
    }

    /// Whether a mark is there.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn has_mark(&self, mark: Mark) -> Result<bool, StoreError> {
        let path = ObjectPath::Mark(mark).to_string();
        match self.0.store.head(&location("looking for", &path)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(StoreError::from_store("looking for", &path, error)),
        }
    }

    /// When a mark was written, in seconds since the Unix epoch, and how far the catalog had come, as it says itself.
    ///
    /// # Errors
    /// Not found, damaged, or as the store answers.
    pub async fn read_mark(&self, mark: Mark) -> Result<(i64, Anchor), StoreError> {
        let path = ObjectPath::Mark(mark).to_string();
        let bytes = self.read_raw(&path).await?;
        decode(&path, &bytes, &self.0.identity, mark).map(|text| (text.at, text.catalog))
    }

    /// The marks that are there, the oldest first.
    ///
    /// # Errors
    /// As the store answers.
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

    /// Deletes a mark. One that is not there counts as deleted.
    ///
    /// # Errors
    /// As the store answers.
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
