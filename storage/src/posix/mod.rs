//! A directory as an object store whose puts are durable and never replace anything.
//!
//! `object_store`'s own local store reads and lists for us. Its writes are not used, even with `with_fsync`, because
//! - it takes every existing directory for a durable one, though another writer may have made it a moment ago, or a
//!   killed process before (here: [`Directories`] syncs each directory's way up once per process),
//! - it answers "exists already" for an object whose directory entry may not be durable yet,
//! - the temporary files of a killed process stay for ever (here: [`PosixStore::remove_leftovers`]),
//! - after the repository's file system was unmounted, it writes into the mount point (here: [`Root::check`]).

mod directories;
mod root;
mod staged;

use pgmesh_runtime::tasks;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use self::directories::Directories;
use self::root::Root;
use self::staged::{STAGING_FOLDER, Staged};
use crate::error::StoreError;

const STORE: &str = "posix";

/// A repository's directory on a file system of this machine.
///
/// Knows `PutMode::Create` only (invariant 2), and a put that has returned is durable (invariant 1): the file was
/// synced before it got its name, then its directory, and every directory above that this process had not synced yet.
#[derive(Clone, Debug)]
pub struct PosixStore {
    reader: LocalFileSystem,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Root,
    directories: Directories,
}

/// An I/O error, with the operation and the file.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", .path.display())]
struct PosixError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<PosixError> for Error {
    fn from(error: PosixError) -> Self {
        Self::Generic {
            store: STORE,
            source: Box::new(error),
        }
    }
}

/// Adds the operation and the file to an I/O error.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PosixError {
    move |source| PosixError {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Makes a directory's entries durable.
fn sync_directory(path: &Path) -> Result<(), PosixError> {
    fs::File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("syncing the directory", path))
}

impl PosixStore {
    /// Opens the store in an existing directory. Writes nothing.
    ///
    /// # Errors
    /// The directory is missing, is none, or cannot be reached.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let shown = root.display().to_string();
        let action = "opening the repository's directory";
        let root = Root::open(root).map_err(|error| StoreError::from_io(action, &shown, error))?;
        let reader = LocalFileSystem::new_with_prefix(root.path())
            .map_err(|error| StoreError::from_store(action, &shown, error))?;
        Ok(Self {
            reader,
            inner: Arc::new(Inner {
                directories: Directories::below(root.path()),
                root,
            }),
        })
    }

    /// Opens the store, making its directory durably where it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or opened.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        directories::create_with_parents(root)
            .map_err(|error| StoreError::from_io(error.action, &error.path.display().to_string(), error.source))?;
        Self::open(root)
    }

    /// The store's directory, with all links resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.inner.root.path()
    }

    /// Whether the store's directory has been in its place all the time since it was opened, as far as was seen.
    /// Blocks.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.inner.root.check().is_ok()
    }

    /// Removes the temporary files of dead processes. Living processes hold a lock on theirs. Blocks. Gives the number
    /// of removed files.
    ///
    /// # Errors
    /// The folder of temporary files cannot be read or changed.
    pub fn remove_leftovers(&self) -> Result<u64, StoreError> {
        staged::remove_leftovers(self.root())
            .map_err(|error| StoreError::from_io(error.action, &error.path.display().to_string(), error.source))
    }
}

impl Inner {
    /// Writes an object durably. Invariants 1 and 2.
    fn put(&self, location: &Location, payload: &PutPayload) -> Result<PutResult, Error> {
        self.root.check()?;
        let target = self.root.path().join(location.as_ref());
        let Some(folder) = target.parent() else {
            return Err(unsupported("writing without a name"));
        };
        let staged = Staged::write(self.root.path(), payload)?;
        self.directories.make_durable(folder)?;
        let linked = match staged.link(&target) {
            // Another process removed the folder a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.directories.forget();
                self.directories.make_durable(folder)?;
                staged.link(&target)
            }
            linked => linked,
        };
        match linked {
            Ok(()) => sync_directory(folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The object's writer may still be inside this function, before its sync. The caller may rely on an
                // object that exists (invariant 1), so it is synced here.
                fs::File::open(&target)
                    .and_then(|file| file.sync_all())
                    .map_err(failed("syncing", &target))?;
                sync_directory(folder)?;
                return Err(Error::AlreadyExists {
                    path: location.to_string(),
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(failed("naming", &target)(error).into()),
        }
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    /// "Not found" is believed only while the repository's directory is in its place.
    fn checked(&self, error: Error) -> Error {
        match error {
            Error::NotFound { .. } => match self.root.check() {
                Ok(()) => error,
                Err(gone) => gone.into(),
            },
            error => error,
        }
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: STORE.to_owned(),
    }
}

fn is_staging(location: &Location) -> bool {
    location
        .parts()
        .next()
        .is_some_and(|part| part.as_ref() == STAGING_FOLDER)
}

impl fmt::Display for PosixStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{STORE} {}", self.root().display())
    }
}

#[async_trait]
impl ObjectStore for PosixStore {
    async fn put_opts(
        &self,
        location: &Location,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        if options.mode != PutMode::Create {
            return Err(unsupported("replacing an object"));
        }
        let inner = Arc::clone(&self.inner);
        let location = location.clone();
        tasks::blocking("writing a file", move || inner.put(&location, &payload)).await?
    }

    async fn put_multipart_opts(
        &self,
        _location: &Location,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(unsupported("writing an object in parts"))
    }

    async fn get_opts(&self, location: &Location, options: GetOptions) -> object_store::Result<GetResult> {
        self.reader
            .get_opts(location, options)
            .await
            .map_err(|error| self.inner.checked(error))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Location>>,
    ) -> BoxStream<'static, object_store::Result<Location>> {
        let inner = Arc::clone(&self.inner);
        self.reader
            .delete_stream(locations)
            .map_err(move |error| inner.checked(error))
            .boxed()
    }

    fn list(&self, prefix: Option<&Location>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if let Err(error) = self.inner.root.check() {
            return stream::once(async { Err(error.into()) }).boxed();
        }
        self.reader
            .list(prefix)
            .try_filter(|meta| std::future::ready(!is_staging(&meta.location)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Location>) -> object_store::Result<ListResult> {
        self.inner.root.check()?;
        let mut result = self.reader.list_with_delimiter(prefix).await?;
        result.common_prefixes.retain(|prefix| !is_staging(prefix));
        result.objects.retain(|meta| !is_staging(&meta.location));
        Ok(result)
    }

    async fn copy_opts(&self, _from: &Location, _to: &Location, _options: CopyOptions) -> object_store::Result<()> {
        Err(unsupported("copying an object"))
    }
}
