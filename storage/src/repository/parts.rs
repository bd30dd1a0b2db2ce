//! Files that lie in parts: read one part after the other, and judged as a whole at the end.

use futures::{StreamExt, TryStreamExt, stream};

use super::{Checked, Expected, Repository, blocking};
use crate::digest::{Digest, Hasher};
use crate::error::{Damage, StoreError};
use crate::names::Generation;
use crate::object::{FilePart, ObjectKind, ObjectName, ObjectPath, StoredName};

/// Objects that `stored_length` looks for at once.
const AT_ONCE: usize = 16;
/// Parts of one file that are deleted at once. An interrupted deletion then leaves the same parts as an interrupted
/// upload: see [`PartsSeen::is_cut`](crate::object::PartsSeen::is_cut).
const DELETED_AT_ONCE: usize = 2;

/// A file that was read to its end, and whose content belongs under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeFile {
    /// The digest of the whole file.
    pub digest: Digest,
    /// Its length, in bytes.
    pub plain_length: u64,
    /// The lengths of its payloads, in bytes.
    pub payload_length: u64,
}

/// Reads the parts of a file in their order.
///
/// Each part is checked by its tag, which binds it to its place in this file (invariant 6). Only
/// [`finish`](Self::finish) checks that the parts together are the file: until then, the bytes that were read do not
/// count.
pub struct PartsReader {
    repository: Repository,
    /// The path without the number of a part.
    file: ObjectPath,
    of: u16,
    read: u16,
    /// Moved out while a part is digested.
    hasher: Option<Hasher>,
    plain_length: u64,
    payload_length: u64,
}

impl Repository {
    /// Reads a file that lies in `of` parts; `file` is the path of any of them.
    #[must_use]
    pub fn read_parts(&self, file: &ObjectPath, of: u16) -> PartsReader {
        PartsReader {
            repository: self.clone(),
            file: file.whole(),
            of,
            read: 0,
            hasher: Some(self.suite().hasher()),
            plain_length: 0,
            payload_length: 0,
        }
    }

    /// The length of an object in the repository, in bytes; for a file in parts, the sum of all parts.
    ///
    /// # Errors
    /// Not found, also if a single part is missing; or the store's error.
    pub async fn stored_length(&self, name: &ObjectName, generation: Generation) -> Result<u64, StoreError> {
        let lengths = name.objects().into_iter().map(|object| async move {
            let path = self.path_of(&object, generation).to_string();
            self.length_of(&path).await
        });
        let lengths: Vec<u64> = stream::iter(lengths).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(lengths.iter().sum())
    }

    /// Deletes an object, or all parts of a file. A missing object counts as deleted, so an interrupted deletion can be
    /// repeated.
    ///
    /// The parts are deleted from the last one down. If the last part cannot be deleted, no part is. So an interrupted
    /// deletion leaves the beginning of a file, and such a file is not mistaken for a damaged one that lost a part.
    ///
    /// # Errors
    /// The store's error; the parts before the failed one stay then.
    pub async fn delete(&self, name: &ObjectName, generation: Generation) -> Result<(), StoreError> {
        let delete = |object| async move {
            let path = self.path_of(&object, generation).to_string();
            self.delete_path(&path).await
        };
        let mut objects = name.objects();
        if let Some(last) = objects.pop() {
            delete(last).await?;
        }
        // `buffered` keeps the order: the deletion of a part begins when at most one part behind it is still there.
        let deletions = stream::iter(objects.into_iter().rev().map(delete));
        deletions.buffered(DELETED_AT_ONCE).try_collect().await
    }

    /// Reads and checks the object at a listed path. A part of a file is checked by its tag and length: see
    /// [`read_parts`](Self::read_parts) for the whole.
    ///
    /// # Errors
    /// As [`get_by_path`](Self::get_by_path).
    pub async fn content_at(&self, path: &str) -> Result<Checked, StoreError> {
        let place = super::parse_path(path)?;
        match place.part() {
            Some(part) => self.read_part(path, part).await,
            None => self.get_by_path(path).await.map(|(_, checked)| checked),
        }
    }

    async fn read_part(&self, path: &str, part: FilePart) -> Result<Checked, StoreError> {
        let object = self.read_object(path, ObjectKind::Segment).await?;
        self.open_object(path, ObjectKind::Segment, Expected::Part(part), object)
            .await
    }
}

impl PartsReader {
    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// It is missing, damaged, or the store's error.
    pub async fn next(&mut self) -> Result<Option<Checked>, StoreError> {
        let Some(part) = FilePart::new(self.read.saturating_add(1), self.of) else {
            return Ok(None);
        };
        let path = self.file.of_part(part).to_string();
        let checked = self.repository.read_part(&path, part).await?;
        let mut hasher = self.hasher.take().unwrap_or_else(|| self.repository.suite().hasher());
        let plain = checked.plain.clone();
        let digested = blocking("digesting", &path, move || {
            hasher.update(&plain);
            hasher
        });
        self.hasher = Some(digested.await?);
        self.read = part.number();
        self.plain_length += checked.plain.len() as u64;
        self.payload_length += checked.payload.bytes.len() as u64;
        Ok(Some(checked))
    }

    /// Checks that the parts that were read are the file.
    ///
    /// # Errors
    /// Damaged, if the content belongs under another name or the file was not read to its end.
    pub fn finish(self) -> Result<WholeFile, StoreError> {
        let damaged = |what| StoreError::Damaged {
            path: self.file.to_string(),
            what,
        };
        let hasher = self.hasher.filter(|_| self.read == self.of);
        let digest = hasher.ok_or_else(|| damaged(Damage::Name))?.finalize();
        let name: StoredName = self.repository.stored_name(digest);
        if self.file.name() != Some(name) {
            return Err(damaged(Damage::Name));
        }
        Ok(WholeFile {
            digest,
            plain_length: self.plain_length,
            payload_length: self.payload_length,
        })
    }

    /// Reads the remaining parts and checks the file.
    ///
    /// # Errors
    /// As [`next`](Self::next) and [`finish`](Self::finish).
    pub async fn check(mut self) -> Result<WholeFile, StoreError> {
        while self.next().await?.is_some() {}
        self.finish()
    }
}
