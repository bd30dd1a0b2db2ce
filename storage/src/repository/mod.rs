//! One repository: objects by name, sealed on the way in and checked on the way out.

mod bounded;
mod listing;
mod marks;
mod open;
mod parts;

use pgmesh_runtime::tasks;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_store::path::Path as Location;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use zeroize::Zeroizing;

pub use self::listing::Listed;
pub use self::marks::Anchor;
pub use self::parts::{PartsReader, WholeFile};
use crate::digest::{Digest, DigestSuite};
use crate::envelope::{Envelope, Opened, max_object_length};
use crate::error::{Damage, StoreError};
use crate::identity::{Cipher, RepositoryIdentity};
use crate::keys::WrappedKey;
use crate::names::{Generation, is_in_check_folder};
use crate::object::{FilePart, IDENTITY_PATH, ObjectKind, ObjectName, ObjectPath, Portion, StoredName};
use crate::payload::Payload;

/// An opened repository. Cheap to clone.
///
/// Its functions need a tokio runtime: ciphers, digests and codecs run on its blocking threads.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    identity: RepositoryIdentity,
    envelope: Arc<Envelope>,
    wrapped_keys: Vec<WrappedKey>,
    problems: Vec<StoreError>,
    /// The generations under which the last objects were found, the newest first; see `get_any_generation`.
    found: Mutex<Vec<Generation>>,
}

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The object's length in the repository, in bytes.
    pub bytes: u64,
    /// Whether the object existed already, whole.
    pub already: bool,
}

/// An object's content, checked to the last byte.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The content as it was stored: compressed, ready to be passed on.
    pub payload: Payload,
    /// The content as it was before it was compressed.
    pub plain: Bytes,
}

impl Repository {
    /// The repository's identity: the content of `pgmesh.repo`.
    #[must_use]
    pub fn identity(&self) -> &RepositoryIdentity {
        &self.0.identity
    }

    /// The digest suite of the repository, and of its mesh.
    #[must_use]
    pub fn suite(&self) -> DigestSuite {
        self.0.identity.suite
    }

    /// Whether objects are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.identity.cipher != Cipher::None
    }

    /// The repository's wrapped keys, as far as they could be read or were given: for the catalog.
    #[must_use]
    pub fn wrapped_keys(&self) -> &[WrappedKey] {
        &self.0.wrapped_keys
    }

    /// The errors of key objects that were not needed to open the repository.
    #[must_use]
    pub fn problems(&self) -> &[StoreError] {
        &self.0.problems
    }

    /// The object's path in this repository.
    #[must_use]
    pub fn path_of(&self, name: &ObjectName, generation: Generation) -> ObjectPath {
        name.place(self.suite(), self.0.envelope.naming_key(), generation)
    }

    /// The text that stands for content with this digest in the paths of this repository.
    #[must_use]
    pub fn stored_name(&self, digest: Digest) -> StoredName {
        StoredName::new(digest, self.suite(), self.0.envelope.naming_key())
    }

    /// The digest of the content at a path. Only the names of a repository without encryption tell it.
    #[must_use]
    pub fn digest_in(&self, path: &ObjectPath) -> Option<Digest> {
        path.name().filter(|_| !self.is_encrypted()).map(StoredName::unhidden)
    }

    /// Whether a listed object was left behind by `repo-check`, which cannot delete its own objects everywhere. It is
    /// no object of the repository, and no damage.
    #[must_use]
    pub fn is_left_by_check(path: &str) -> bool {
        is_in_check_folder(path)
    }

    /// Writes an object, which is durable when this returns (invariant 1). Never replaces an object (invariant 2): if
    /// the name is taken, the existing object is read and checked; if it is whole, the put has succeeded.
    ///
    /// The payload's content is not checked against its digest here: a caller that received the payload from a peer
    /// does that.
    ///
    /// # Errors
    /// [`StoreError::DamagedExists`] if the name is taken by a damaged object: the caller reports that object and puts
    /// the next generation. Else the store's error; either nothing is visible then, or the whole object is.
    pub async fn put(
        &self,
        name: &ObjectName,
        generation: Generation,
        payload: &Payload,
    ) -> Result<Stored, StoreError> {
        let path = self.path_of(name, generation).to_string();
        check_payload(&path, name, payload)?;
        let action = "writing";
        let pieces = {
            let (envelope, path) = (Arc::clone(&self.0.envelope), path.clone());
            let (kind, payload) = (name.kind(), payload.clone());
            blocking(action, &path.clone(), move || envelope.seal(&path, kind, &payload)).await?
        }
        .map_err(|error| StoreError::Unavailable {
            action,
            path: path.clone(),
            source: Box::new(error),
        })?;
        let object: PutPayload = pieces.into_iter().collect();
        let bytes = object.content_length() as u64;
        match create(&*self.0.store, &path, object).await? {
            Created::New => Ok(Stored { bytes, already: false }),
            Created::Exists => self.check_existing(&path, name.kind(), payload.digest).await,
        }
    }

    /// Judges the object that a put found in its place.
    async fn check_existing(&self, path: &str, kind: ObjectKind, digest: Digest) -> Result<Stored, StoreError> {
        let object = self.read_object(path, kind).await.map_err(damaged_exists)?;
        let bytes = object.len() as u64;
        self.open_object(path, kind, Expected::Digest(digest), object)
            .await
            .map_err(damaged_exists)?;
        Ok(Stored { bytes, already: true })
    }

    /// Reads an object and checks its tag (invariant 6). The object is not decompressed, so its digest is not checked
    /// yet: before a caller hands out the content, it calls [`Payload::open`], or it uses [`Self::get_checked`]. The
    /// name of a part of a file has no digest of that part: the payload has the digest of the bytes that were read.
    ///
    /// # Errors
    /// Not found, damaged, or the store's error.
    pub async fn get(&self, name: &ObjectName, generation: Generation) -> Result<Payload, StoreError> {
        if name.part().is_some() {
            return self.get_checked(name, generation).await.map(|checked| checked.payload);
        }
        let path = self.path_of(name, generation).to_string();
        check_single(&path, name)?;
        let object = self.read_object(&path, name.kind()).await?;
        let (envelope, kind, digest) = (Arc::clone(&self.0.envelope), name.kind(), name.digest());
        blocking("reading", &path.clone(), move || {
            let opened = envelope
                .open(&path, kind, object)
                .map_err(|error| StoreError::damaged(&path, error))?;
            Ok(payload(digest, opened))
        })
        .await?
    }

    /// Reads an object and checks tag, length and digest (invariant 6).
    ///
    /// # Errors
    /// Not found, damaged, or the store's error.
    pub async fn get_checked(&self, name: &ObjectName, generation: Generation) -> Result<Checked, StoreError> {
        let path = self.path_of(name, generation).to_string();
        check_single(&path, name)?;
        let object = self.read_object(&path, name.kind()).await?;
        let expected = match name.part() {
            Some(part) => Expected::Part(part),
            None => Expected::Digest(name.digest()),
        };
        self.open_object(&path, name.kind(), expected, object).await
    }

    async fn read_object(&self, path: &str, kind: ObjectKind) -> Result<Bytes, StoreError> {
        read(&*self.0.store, path, max_object_length(kind)).await
    }

    /// Reads and checks the object at a listed path. Its content must belong under the path's name.
    ///
    /// # Errors
    /// Not found, damaged, or the store's error. Also refused: the path of an object without content (see
    /// [`Self::verify_path`]), and the path of a part of a file, which alone does not tell the file's digest (see
    /// [`Self::content_at`]).
    pub async fn get_by_path(&self, path: &str) -> Result<(ObjectName, Checked), StoreError> {
        let place = parse_path(path)?;
        let object = read(&*self.0.store, path, longest(&place)).await?;
        self.open_by_path(path, &place, object).await
    }

    /// The text of `pgmesh.repo`, checked. It holds no secret.
    ///
    /// # Errors
    /// The store's error, or damaged if it is no longer the identity of the repository that was opened.
    pub async fn identity_text(&self) -> Result<Bytes, StoreError> {
        let text = read(&*self.0.store, IDENTITY_PATH, longest(&ObjectPath::Identity)).await?;
        open::check_identity(IDENTITY_PATH, &text, &self.0.identity)?;
        Ok(text)
    }

    /// Checks any object of the repository to the last byte, also `pgmesh.repo`, key objects and marks. Gives the
    /// object's length in the repository.
    ///
    /// # Errors
    /// As [`Self::get_by_path`].
    pub async fn verify_path(&self, path: &str) -> Result<u64, StoreError> {
        let place = parse_path(path)?;
        let object = read(&*self.0.store, path, longest(&place)).await?;
        let length = object.len() as u64;
        match place {
            ObjectPath::Identity => open::check_identity(path, &object, &self.0.identity)?,
            ObjectPath::Key { epoch, wrap } => {
                open::decode_key(path, &object, epoch, wrap)?;
            }
            ObjectPath::Mark(mark) => marks::check(path, &object, &self.0.identity, mark)?,
            place => match place.part() {
                Some(part) => {
                    let kind = ObjectKind::Segment;
                    self.open_object(path, kind, Expected::Part(part), object).await?;
                }
                None => {
                    self.open_by_path(path, &place, object).await?;
                }
            },
        }
        Ok(length)
    }

    /// Opens an object by its path alone.
    async fn open_by_path(
        &self,
        path: &str,
        place: &ObjectPath,
        object: Bytes,
    ) -> Result<(ObjectName, Checked), StoreError> {
        let no_path = || StoreError::damaged(path, Damage::Path);
        let (Some(kind), Some(stored), None) = (place.kind(), place.name(), place.part()) else {
            return Err(no_path());
        };
        let naming_key = self.0.envelope.naming_key().copied().map(Zeroizing::new);
        let expected = Expected::Name { stored, naming_key };
        let checked = self.open_object(path, kind, expected, object).await?;
        let name = place.object_name(checked.payload.digest).ok_or_else(no_path)?;
        Ok((name, checked))
    }

    /// The stored bytes of an object, unchecked.
    ///
    /// # Errors
    /// Not found, or the store's error.
    pub async fn read_raw(&self, path: &str) -> Result<Bytes, StoreError> {
        let longest = ObjectPath::parse(path).map_or(max_object_length(ObjectKind::Segment), |place| longest(&place));
        read(&*self.0.store, path, longest).await
    }

    async fn length_of(&self, path: &str) -> Result<u64, StoreError> {
        let meta = self.0.store.head(&location("looking for", path)?).await;
        Ok(meta
            .map_err(|error| StoreError::from_store("looking for", path, error))?
            .size)
    }

    /// Deletes the object at a path. A missing object counts as deleted.
    ///
    /// # Errors
    /// The store's error.
    pub async fn delete_path(&self, path: &str) -> Result<(), StoreError> {
        match self.0.store.delete(&location("deleting", path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::from_store("deleting", path, error)),
        }
    }

    /// Reads `pgmesh.repo`: the repository answers, and it still is the repository that was opened.
    ///
    /// # Errors
    /// The store's error, or damaged if another repository lies there now.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.identity_text().await.map(drop)
    }

    /// Opens an object's envelope and payload on a blocking thread.
    async fn open_object(
        &self,
        path: &str,
        kind: ObjectKind,
        expected: Expected,
        object: Bytes,
    ) -> Result<Checked, StoreError> {
        let (envelope, suite, owned) = (Arc::clone(&self.0.envelope), self.suite(), path.to_owned());
        blocking("reading", path, move || {
            let damaged = |what| StoreError::Damaged {
                path: owned.clone(),
                what,
            };
            let opened = envelope
                .open(&owned, kind, object)
                .map_err(|error| damaged(error.into()))?;
            check(suite, &expected, opened).map_err(damaged)
        })
        .await?
    }
}

fn parse_path(path: &str) -> Result<ObjectPath, StoreError> {
    ObjectPath::parse(path).ok_or_else(|| StoreError::damaged(path, Damage::Path))
}

/// The facts that an object's content is checked against.
enum Expected {
    /// The digest is known.
    Digest(Digest),
    /// A part of a file: its tag binds it to its place in the file; the digest in its name is the digest of the whole
    /// file.
    Part(FilePart),
    /// Only the path is known.
    Name {
        stored: StoredName,
        naming_key: Option<Zeroizing<[u8; 32]>>,
    },
}

/// Decompresses the content of an opened envelope and checks it.
fn check(suite: DigestSuite, expected: &Expected, opened: Opened) -> Result<Checked, Damage> {
    match expected {
        Expected::Digest(digest) => {
            let payload = payload(*digest, opened);
            let plain = payload.open(suite)?;
            Ok(Checked { payload, plain })
        }
        Expected::Part(part) => {
            let mut payload = payload(Digest([0; 32]), opened);
            let length = payload.plain_length;
            if !part.may_hold(length) {
                return Err(Damage::PartLength { length });
            }
            let plain = payload.decompress()?;
            payload.digest = suite.digest(&plain);
            Ok(Checked { payload, plain })
        }
        Expected::Name { stored, naming_key } => {
            let mut payload = payload(Digest([0; 32]), opened);
            let plain = payload.decompress()?;
            payload.digest = suite.digest(&plain);
            let name = StoredName::new(payload.digest, suite, naming_key.as_deref());
            if name == *stored {
                Ok(Checked { payload, plain })
            } else {
                Err(Damage::Name)
            }
        }
    }
}

fn payload(digest: Digest, opened: Opened) -> Payload {
    Payload {
        digest,
        codec: opened.codec,
        plain_length: opened.plain_length,
        bytes: opened.bytes,
    }
}

/// Refuses a name that stands for several objects.
fn check_single(path: &str, name: &ObjectName) -> Result<(), StoreError> {
    let is_single = !matches!(
        name,
        ObjectName::Segment {
            portion: Portion::AllParts(_),
            ..
        }
    );
    is_single.then_some(()).ok_or_else(|| StoreError::WrongPayload {
        path: path.to_owned(),
        what: "all parts of a file are no single object".to_owned(),
    })
}

/// Refuses a payload that does not belong under the name, or that could not be read again.
fn check_payload(path: &str, name: &ObjectName, payload: &Payload) -> Result<(), StoreError> {
    let wrong = |what: String| StoreError::WrongPayload {
        path: path.to_owned(),
        what,
    };
    check_single(path, name)?;
    if let Some(part) = name.part() {
        if !part.may_hold(payload.plain_length) {
            return Err(wrong(format!(
                "part {part} of a file has not {} bytes",
                payload.plain_length
            )));
        }
    } else if payload.digest != name.digest() {
        return Err(wrong(format!(
            "its digest is {}, not {}",
            payload.digest,
            name.digest()
        )));
    }
    let most = name.kind().max_plain_length();
    if payload.plain_length > most {
        let what = format!(
            "{} bytes of plaintext, a {} has {most} at most",
            payload.plain_length,
            name.kind()
        );
        return Err(wrong(what));
    }
    payload
        .check_lengths(payload.bytes.len() as u64)
        .map_err(|error| wrong(error.to_string()))
}

/// Whether the object is new, or existed already.
enum Created {
    New,
    Exists,
}

/// Writes a new object.
async fn create(store: &dyn ObjectStore, path: &str, object: PutPayload) -> Result<Created, StoreError> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    match store.put_opts(&location("writing", path)?, object, options).await {
        Ok(_) => Ok(Created::New),
        // S3 answers a failed condition in either way.
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(Created::Exists)
        }
        // If a bucket is missing, the store answers "not found" to a write. No object is missing then.
        Err(error @ object_store::Error::NotFound { .. }) => Err(StoreError::Unavailable {
            action: "writing",
            path: path.to_owned(),
            source: Box::new(error),
        }),
        Err(error) => Err(StoreError::from_store("writing", path, error)),
    }
}

/// Reads a whole object of no more than the greatest possible length.
async fn read(store: &dyn ObjectStore, path: &str, longest: u64) -> Result<Bytes, StoreError> {
    let result = store
        .get_opts(&location("reading", path)?, GetOptions::default())
        .await
        .map_err(|error| StoreError::from_store("reading", path, error))?;
    bounded::collect(result, path, longest).await
}

/// The most bytes that may lie at a path.
fn longest(place: &ObjectPath) -> u64 {
    // Identities, keys and marks are texts of some hundred bytes.
    place.kind().map_or(1 << 20, max_object_length)
}

/// The path in the store's own type.
fn location(action: &'static str, path: &str) -> Result<Location, StoreError> {
    Location::parse(path).map_err(|error| StoreError::Unavailable {
        action,
        path: path.to_owned(),
        source: Box::new(error),
    })
}

/// Runs work that would hold up other tasks on a blocking thread.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    path: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    match tasks::blocking("work on an object", work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(error) => Err(StoreError::Unavailable {
                action,
                path: path.to_owned(),
                source: Box::new(error),
            }),
        },
    }
}

fn damaged_exists(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged { path, what } => StoreError::DamagedExists { path, what },
        // The object was deleted after the put: the caller tries again.
        StoreError::NotFound { path } => StoreError::Unavailable {
            action: "checking the existing",
            path,
            source: "it has vanished in the meantime".into(),
        },
        error => error,
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Repository({} in {})", self.0.identity.uuid, self.0.store)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_identity_is_shown_and_checked() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let identity = RepositoryIdentity::generate("mesh", DigestSuite::Sha256, Cipher::None, 17).unwrap();
        let (repository, _) = Repository::create(Arc::clone(&store), identity.clone(), None)
            .await
            .unwrap();
        let text = repository.identity_text().await.unwrap();
        assert_eq!(RepositoryIdentity::decode(&text).unwrap(), identity);
        // The store is enough: no passphrase is needed.
        assert_eq!(Repository::read_identity(Arc::clone(&store)).await.unwrap(), text);

        let mut harmed = text.to_vec();
        harmed[5] ^= 1;
        let place = Location::from(IDENTITY_PATH);
        store.put(&place, PutPayload::from(harmed)).await.unwrap();
        let found = repository.identity_text().await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
        let found = Repository::read_identity(Arc::clone(&store)).await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");

        store.delete(&place).await.unwrap();
        let found = Repository::read_identity(store).await;
        assert!(matches!(found, Err(StoreError::NotFound { .. })), "{found:?}");
    }
}
