//! Errors of disks and stores, sorted into the classes of [`StoreError`].

use crate::error::{Cause, StoreError};
use crate::store::Trouble;
use std::error::Error as StdError;
use std::io;

impl StoreError {
    /// Sorts an I/O error into a class.
    pub(crate) fn from_io(action: &'static str, path: &str, error: io::Error) -> Self {
        Self::classify(action, path, Box::new(error))
    }

    /// Sorts a store's error into a class.
    pub(crate) fn from_store(action: &'static str, path: &str, error: object_store::Error) -> Self {
        if let Some(trouble) = Trouble::of(&error) {
            return trouble.clone().into_store_error(action, path);
        }
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound { path: path.to_owned() },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied {
                    action,
                    path: path.to_owned(),
                    source: Box::new(error),
                }
            }
            error => Self::classify(action, path, Box::new(error)),
        }
    }

    fn classify(action: &'static str, path: &str, source: Cause) -> Self {
        let path = path.to_owned();
        match io_kind(source.as_ref()) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Self::Full { action, path, source },
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                Self::Denied { action, path, source }
            }
            _ => Self::Unavailable { action, path, source },
        }
    }
}

/// The kind of the I/O error that an error comes from, if it comes from one.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}
