//! The storage of a repository: a directory of this machine, or a bucket that every node with its credentials reaches.

mod check;
mod cloud;
mod kind;
mod secrets;
mod settings;

use pgmesh_runtime::tasks;
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;

pub use self::check::{CheckOutcome, CheckSize, CheckStep, check_store};
use self::cloud::CloudStore;
pub use self::cloud::Conditions;
pub(crate) use self::cloud::Trouble;
pub use self::kind::{ParseStoreKindError, StoreKind};
pub use self::secrets::{FixedSecrets, SecretSource, SecretText, Secrets};
pub use self::settings::StoreSettings;
use crate::error::StoreError;
use crate::posix::PosixStore;

/// The storage of one repository, of any type. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    posix: Option<PosixStore>,
    cloud: Option<CloudStore>,
}

impl Store {
    /// The storage where a repository is expected. Nothing is written, and no network is used yet.
    ///
    /// # Errors
    /// An option that cannot be used; for a directory: it is missing or cannot be reached.
    pub fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        match settings.kind()? {
            StoreKind::Posix => Ok(Self::of_directory(PosixStore::open(directory(settings)?)?)),
            StoreKind::S3 | StoreKind::Azure | StoreKind::Gcs => {
                let cloud = CloudStore::open(settings)?;
                Ok(Self {
                    objects: Arc::new(cloud.clone()),
                    posix: None,
                    cloud: Some(cloud),
                })
            }
        }
    }

    /// The storage where a repository may be made: a directory is made durably where it is missing. A bucket is never
    /// made.
    ///
    /// # Errors
    /// As [`Self::open`]; the directory cannot be made.
    pub fn create(settings: &StoreSettings) -> Result<Self, StoreError> {
        match settings.kind()? {
            StoreKind::Posix => Ok(Self::of_directory(PosixStore::create(directory(settings)?)?)),
            StoreKind::S3 | StoreKind::Azure | StoreKind::Gcs => Self::open(settings),
        }
    }

    fn of_directory(posix: PosixStore) -> Self {
        Self {
            objects: Arc::new(posix.clone()),
            posix: Some(posix),
            cloud: None,
        }
    }

    /// The objects, for [`Repository`](crate::Repository).
    #[must_use]
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Whether objects may be deleted here at all: no, if `delete=n` says that the credentials do not allow it.
    #[must_use]
    pub fn may_delete(&self) -> bool {
        self.cloud.as_ref().is_none_or(CloudStore::may_delete)
    }

    /// Finds out whether the store heeds conditional writes, by a write that changes nothing. A repository must exist.
    /// Before this call, conditions are used but not relied upon.
    ///
    /// # Errors
    /// The store's error: it may not be writable.
    pub async fn learn_conditions(&self) -> Result<Conditions, StoreError> {
        match &self.cloud {
            None => Ok(Conditions::Heeded),
            Some(cloud) => cloud.learn().await,
        }
    }

    /// Whether the storage is still the same as when it was opened, as far as can be seen without reading an object. If
    /// a directory was away in the meantime, it is not, even if a directory is in its place again.
    pub async fn is_in_place(&self) -> bool {
        let Some(posix) = self.posix.clone() else {
            return true;
        };
        // Without an answer, the runtime is shutting down.
        tasks::blocking("looking for a directory", move || posix.is_in_place())
            .await
            .unwrap_or(true)
    }

    /// Removes the unfinished files of killed processes. Gives the number of files.
    ///
    /// # Errors
    /// The store's error.
    pub async fn remove_leftovers(&self) -> Result<u64, StoreError> {
        let Some(posix) = self.posix.clone() else {
            return Ok(0);
        };
        match tasks::blocking("removing leftovers", move || posix.remove_leftovers()).await {
            Ok(removed) => removed,
            // The runtime is shutting down.
            Err(_) => Ok(0),
        }
    }
}

/// The directory of a posix repository. Refuses options that no directory supports.
fn directory(settings: &StoreSettings) -> Result<&Path, StoreError> {
    match settings.get("object-lock") {
        None | Some("none") => Ok(Path::new(settings.path())),
        Some(_) => Err(StoreError::Unusable {
            what: "object-lock".to_owned(),
            source: "a directory has no object lock: every process that may write there may delete, too".into(),
        }),
    }
}
