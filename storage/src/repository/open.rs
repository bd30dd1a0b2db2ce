use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tracing::warn;

use super::{Created, Inner, Repository, blocking, create, location, longest, read};
use crate::checked_text;
use crate::envelope::Envelope;
use crate::error::{Damage, StoreError};
use crate::identity::{Cipher, REPOSITORY_FORMAT, RepositoryIdentity};
use crate::keys::{KeyError, KeyRing, MasterKeys, Passphrase, WrappedKey};
use crate::object::{IDENTITY_PATH, KEY_PREFIX, ObjectPath, prefix};

const FIRST_EPOCH: u32 = 1;

impl Repository {
    /// Makes a repository: first its key object, if it is encrypted, then `pgmesh.repo`. If two processes make one at
    /// the same time, `pgmesh.repo` decides which of them succeeds.
    ///
    /// # Errors
    /// A repository or objects of one exist; the passphrase does not fit the cipher; or the store's error.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        identity: RepositoryIdentity,
        passphrase: Option<Passphrase>,
    ) -> Result<(Self, Option<WrappedKey>), StoreError> {
        check_passphrase(&identity, passphrase.as_ref())?;
        check_empty(&*store).await?;
        let key = match passphrase {
            None => None,
            Some(passphrase) => Some(create_key(&*store, &identity, passphrase).await?),
        };
        let text = identity
            .encode()
            .map_err(|error| StoreError::damaged(IDENTITY_PATH, error))?;
        let written = create(&*store, IDENTITY_PATH, PutPayload::from(text)).await?;
        // Read back: on a store that ignores conditions, the last of two writers has won.
        let found = read(&*store, IDENTITY_PATH, longest(&ObjectPath::Identity)).await?;
        let ours = RepositoryIdentity::decode(&found).is_ok_and(|found| found == identity);
        if matches!(written, Created::Exists) || !ours {
            return Err(StoreError::AlreadyARepository {
                path: IDENTITY_PATH.to_owned(),
            });
        }
        let (ring, wrapped) = match key {
            None => (None, None),
            Some((masters, wrapped)) => (ring(&masters)?, Some(wrapped)),
        };
        let repository = Self(Arc::new(Inner {
            store,
            envelope: Arc::new(Envelope::new(identity.suite, ring)),
            identity,
            wrapped_keys: wrapped.iter().cloned().collect(),
            problems: Vec::new(),
            found: Mutex::default(),
        }));
        Ok((repository, wrapped))
    }

    /// Opens a repository. `known_keys` are the wrapped keys from the catalog: they stand in for key objects that are
    /// damaged or missing.
    ///
    /// # Errors
    /// No repository, another format, a passphrase that is missing, wrong, or not needed, or the store's error.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        passphrase: Option<Passphrase>,
        known_keys: &[WrappedKey],
    ) -> Result<Self, StoreError> {
        let bytes = read(&*store, IDENTITY_PATH, longest(&ObjectPath::Identity))
            .await
            .map_err(|error| match error {
                StoreError::NotFound { path } => StoreError::NotARepository { path },
                error => error,
            })?;
        let identity = decode_identity(IDENTITY_PATH, &bytes)?;
        check_passphrase(&identity, passphrase.as_ref())?;
        let mut keys = FoundKeys::default();
        let mut key_ring = None;
        if let Some(passphrase) = passphrase {
            keys = find_keys(&*store, &identity, known_keys).await?;
            let (wrapped, uuid) = (keys.wrapped.clone(), identity.uuid.clone());
            let opened = blocking("opening", KEY_PREFIX, move || unwrap_keys(&wrapped, &passphrase, uuid)).await?;
            let masters = opened?;
            if !keys.newest.is_some_and(|newest| masters.contains_key(&newest)) {
                let damaged = keys.problems.first().map(ToString::to_string);
                return Err(StoreError::NoKey { damaged });
            }
            key_ring = ring(&masters)?;
        }
        for problem in &keys.problems {
            warn!(repository = %identity.uuid, %problem, "a key object of the repository cannot be used");
        }
        Ok(Self(Arc::new(Inner {
            store,
            envelope: Arc::new(Envelope::new(identity.suite, key_ring)),
            identity,
            wrapped_keys: keys.wrapped,
            problems: keys.problems,
            found: Mutex::default(),
        })))
    }

    /// The checked text of `pgmesh.repo`, of any repository in a store. No passphrase is needed: it holds no secret.
    ///
    /// # Errors
    /// Not found, damaged, of another format, or the store's error.
    pub async fn read_identity(store: Arc<dyn ObjectStore>) -> Result<Bytes, StoreError> {
        let text = read(&*store, IDENTITY_PATH, longest(&ObjectPath::Identity)).await?;
        decode_identity(IDENTITY_PATH, &text)?;
        Ok(text)
    }
}

/// Checks `pgmesh.repo`: it must be the opened repository's.
pub(super) fn check_identity(path: &str, bytes: &[u8], known: &RepositoryIdentity) -> Result<(), StoreError> {
    if decode_identity(path, bytes)? == *known {
        Ok(())
    } else {
        Err(StoreError::damaged(path, Damage::Name))
    }
}

fn decode_identity(path: &str, bytes: &[u8]) -> Result<RepositoryIdentity, StoreError> {
    let identity = RepositoryIdentity::decode(bytes).map_err(|error| StoreError::damaged(path, error))?;
    if identity.format == REPOSITORY_FORMAT {
        Ok(identity)
    } else {
        Err(StoreError::UnknownFormat {
            format: identity.format,
            known: REPOSITORY_FORMAT,
        })
    }
}

/// Reads a key object and checks that it lies under its own name.
pub(super) fn decode_key(path: &str, bytes: &[u8], epoch: u32, wrap: u32) -> Result<WrappedKey, StoreError> {
    let key: WrappedKey = checked_text::decode(bytes).map_err(|error| StoreError::damaged(path, error))?;
    if (key.epoch, key.wrap) == (epoch, wrap) {
        Ok(key)
    } else {
        Err(StoreError::damaged(path, Damage::Name))
    }
}

fn check_passphrase(identity: &RepositoryIdentity, passphrase: Option<&Passphrase>) -> Result<(), StoreError> {
    match (identity.cipher, passphrase) {
        (Cipher::None, None) | (Cipher::Aes256Cbc, Some(_)) => Ok(()),
        (Cipher::None, Some(_)) => Err(StoreError::PassphraseNotNeeded),
        (Cipher::Aes256Cbc, None) => Err(StoreError::PassphraseNeeded),
    }
}

/// Refuses a store with a repository, or with objects that a new key could not open.
async fn check_empty(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let identity = store.head(&location("looking for", IDENTITY_PATH)?).await;
    match identity {
        Ok(_) => {
            return Err(StoreError::AlreadyARepository {
                path: IDENTITY_PATH.to_owned(),
            });
        }
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(StoreError::from_store("looking for", IDENTITY_PATH, error)),
    }
    for folder in [prefix::CHUNKS, prefix::STANZAS] {
        let first = store.list(Some(&location("listing", folder)?)).next().await;
        match first {
            None | Some(Err(object_store::Error::NotFound { .. })) => {}
            Some(Ok(found)) => {
                return Err(StoreError::AlreadyARepository {
                    path: found.location.to_string(),
                });
            }
            Some(Err(error)) => return Err(StoreError::from_store("listing", folder, error)),
        }
    }
    Ok(())
}

/// Draws new keys and writes them wrapped, under the first free number: an interrupted creation may have left a key
/// object.
async fn create_key(
    store: &dyn ObjectStore,
    identity: &RepositoryIdentity,
    passphrase: Passphrase,
) -> Result<(BTreeMap<u32, MasterKeys>, WrappedKey), StoreError> {
    let wrap = list_keys(store)
        .await?
        .into_iter()
        .filter(|(epoch, _)| *epoch == FIRST_EPOCH)
        .map(|(_, wrap)| wrap)
        .max()
        .map_or(1, |last| last.saturating_add(1));
    let path = key_path(FIRST_EPOCH, wrap);
    let (uuid, suite) = (identity.uuid.clone(), identity.suite);
    let made = blocking("making", &path, move || {
        let keys = MasterKeys::generate()?;
        let wrapped = keys.wrap(&passphrase, &uuid, suite, FIRST_EPOCH, wrap)?;
        Ok::<_, KeyError>((keys, wrapped))
    })
    .await?;
    let (keys, wrapped) = made.map_err(|source| StoreError::Key {
        path: path.clone(),
        source,
    })?;
    let text = checked_text::encode(&wrapped).map_err(|error| StoreError::damaged(&path, error))?;
    match create(store, &path, PutPayload::from(text)).await? {
        Created::New => Ok((BTreeMap::from([(FIRST_EPOCH, keys)]), wrapped)),
        Created::Exists => Err(StoreError::AlreadyARepository { path }),
    }
}

fn key_path(epoch: u32, wrap: u32) -> String {
    ObjectPath::Key { epoch, wrap }.to_string()
}

/// Epoch and wrap of all key objects, sorted.
async fn list_keys(store: &dyn ObjectStore) -> Result<Vec<(u32, u32)>, StoreError> {
    let mut keys: Vec<_> = store
        .list(Some(&location("listing", KEY_PREFIX)?))
        .try_filter_map(|meta| async move {
            Ok(match ObjectPath::parse(meta.location.as_ref()) {
                Some(ObjectPath::Key { epoch, wrap }) => Some((epoch, wrap)),
                _ => None,
            })
        })
        .try_collect()
        .await
        .map_err(|error| StoreError::from_store("listing", KEY_PREFIX, error))?;
    keys.sort_unstable();
    Ok(keys)
}

/// The wrapped keys of one repository, sorted by epoch and wrap, and the damage of its key objects.
#[derive(Default)]
struct FoundKeys {
    wrapped: Vec<WrappedKey>,
    problems: Vec<StoreError>,
    /// The newest epoch, even if its key is damaged: with the key of an older epoch alone, good objects would seem
    /// damaged.
    newest: Option<u32>,
}

/// Gathers the repository's wrapped keys from its key objects and from the catalog.
async fn find_keys(
    store: &dyn ObjectStore,
    identity: &RepositoryIdentity,
    known_keys: &[WrappedKey],
) -> Result<FoundKeys, StoreError> {
    let mut found = BTreeMap::new();
    let (mut problems, mut newest) = (Vec::new(), None);
    for (epoch, wrap) in list_keys(store).await? {
        let path = key_path(epoch, wrap);
        let bytes = read(store, &path, longest(&ObjectPath::Identity)).await;
        match bytes.and_then(|bytes| decode_key(&path, &bytes, epoch, wrap)) {
            Ok(key) => {
                found.insert((epoch, wrap), key);
            }
            Err(error) if error.is_damage() => {
                problems.push(error);
                newest = newest.max(Some(epoch));
            }
            Err(error) => return Err(error),
        }
    }
    for key in known_keys {
        found.entry((key.epoch, key.wrap)).or_insert_with(|| key.clone());
    }
    // A creation that was interrupted, or lost against another one, leaves a key of another UUID.
    found.retain(|_, key| key.repository == identity.uuid);
    let newest = newest.max(found.keys().map(|(epoch, _)| *epoch).max());
    Ok(FoundKeys {
        wrapped: found.into_values().collect(),
        problems,
        newest,
    })
}

/// Opens for each epoch the newest wrapping that the passphrase opens. The newest epoch must be among them. Empty if
/// there are no keys.
fn unwrap_keys(
    wrapped: &[WrappedKey],
    passphrase: &Passphrase,
    uuid: String,
) -> Result<BTreeMap<u32, MasterKeys>, StoreError> {
    let mut masters = BTreeMap::new();
    for key in wrapped.iter().rev() {
        if masters.contains_key(&key.epoch) {
            continue;
        }
        match MasterKeys::unwrap(key, passphrase) {
            Ok(keys) => {
                masters.insert(key.epoch, keys);
            }
            Err(KeyError::WrongPassphrase { .. }) => {}
            Err(source) => {
                return Err(StoreError::Key {
                    path: key_path(key.epoch, key.wrap),
                    source,
                });
            }
        }
    }
    match wrapped.last() {
        Some(newest) if !masters.contains_key(&newest.epoch) => Err(StoreError::WrongPassphrase { uuid }),
        _ => Ok(masters),
    }
}

fn ring(masters: &BTreeMap<u32, MasterKeys>) -> Result<Option<KeyRing>, StoreError> {
    KeyRing::new(masters).map_err(|source| StoreError::Key {
        path: KEY_PREFIX.to_owned(),
        source,
    })
}
