//! What can go wrong with a repository, by what the caller should do about it.

use std::error::Error as StdError;
use std::io;

use thiserror::Error;

use crate::checked_text::CheckedTextError;
use crate::envelope::EnvelopeError;
use crate::keys::KeyError;
use crate::payload::PayloadError;
use crate::store::Trouble;

/// A cause from below, whatever the kind of store.
pub type Source = Box<dyn StdError + Send + Sync + 'static>;

/// Why an operation on a repository failed. Paths are relative to the repository's root.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no such object, and the repository could be asked.
    #[error("{path} is not in the repository")]
    NotFound {
        /// The object.
        path: String,
    },
    /// The object is there but not as it was written: report it, read elsewhere (invariant 6).
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The object.
        path: String,
        /// What was found.
        what: Damage,
    },
    /// A put found its name taken by a damaged object: report that one and write the next generation.
    #[error("{path} exists already and is damaged: {what}")]
    DamagedExists {
        /// The object.
        path: String,
        /// What was found.
        what: Damage,
    },
    /// The repository did not answer, or not sensibly: try again later or elsewhere.
    #[error("{action} {path}: {source}")]
    Unavailable {
        /// What was being done.
        action: &'static str,
        /// To which object.
        path: String,
        /// What the store said.
        source: Source,
    },
    /// The repository has no room left.
    #[error("{action} {path}: no space is left: {source}")]
    Full {
        /// What was being done.
        action: &'static str,
        /// To which object.
        path: String,
        /// What the store said.
        source: Source,
    },
    /// The repository refuses this program: credentials, permissions, or a read-only file system.
    #[error("{action} {path}: refused: {source}")]
    Denied {
        /// What was being done.
        action: &'static str,
        /// To which object.
        path: String,
        /// What the store said.
        source: Source,
    },
    /// The place is not as the options say: no such bucket, no trusted certificate, another region or server.
    #[error("{action} {path}: {source}")]
    Misplaced {
        /// What was being done.
        action: &'static str,
        /// To which object.
        path: String,
        /// What was met.
        source: Source,
    },
    /// The object may not be deleted (yet): it is under object lock, or the credentials cannot. It stays, and nothing
    /// is wrong.
    #[error("{path} is kept: {why}")]
    Retained {
        /// The object.
        path: String,
        /// What keeps it.
        why: String,
    },
    /// The repository's options cannot be used as they are.
    #[error("{what} cannot be used: {source}")]
    Unusable {
        /// Which option, or what of the place.
        what: String,
        /// Why.
        source: Source,
    },
    /// There is no `pgmesh.repo`: nothing has been created here.
    #[error("there is no repository here: {path} is missing")]
    NotARepository {
        /// The object looked for.
        path: String,
    },
    /// A repository cannot be created where one is, or where objects of one lie.
    #[error("there is a repository here already: {path} exists")]
    AlreadyARepository {
        /// What was found.
        path: String,
    },
    /// The repository was written by a program that uses another format.
    #[error("the repository has format {format}, this program reads format {known}")]
    UnknownFormat {
        /// The repository's format.
        format: u16,
        /// The format that is known.
        known: u16,
    },
    /// The repository is encrypted and no passphrase was given.
    #[error("the repository is encrypted: its passphrase is needed")]
    PassphraseNeeded,
    /// The repository is not encrypted and a passphrase was given: nobody should believe that it protects.
    #[error("the repository is not encrypted, but a passphrase is configured for it")]
    PassphraseNotNeeded,
    /// The passphrase opens none of the repository's keys.
    #[error("the passphrase is wrong: it opens none of the keys of repository {uuid}")]
    WrongPassphrase {
        /// The repository's id.
        uuid: String,
    },
    /// No key object of the repository can be read, so not even the passphrase helps.
    #[error("the repository is encrypted, but no key of it can be read{}", .damaged.as_deref().map(|first| format!(": {first}")).unwrap_or_default())]
    NoKey {
        /// What is wrong with the first key object that is there.
        damaged: Option<String>,
    },
    /// A key is wrapped in a way that is not understood.
    #[error("opening the repository's key {path}: {source}")]
    Key {
        /// The key object.
        path: String,
        /// What is wrong.
        source: KeyError,
    },
    /// The caller put a payload under a name that is not its own.
    #[error("the payload is not that of {path}: {what}")]
    WrongPayload {
        /// The object.
        path: String,
        /// What does not fit.
        what: String,
    },
}

/// What is wrong with a stored object.
#[derive(Debug, Error)]
pub enum Damage {
    /// The envelope: length, header, MAC or padding.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The content: codec, length or digest.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// `pgmesh.repo` or a key object.
    #[error(transparent)]
    Text(#[from] CheckedTextError),
    /// The content belongs under another name.
    #[error("its content belongs under another name")]
    Name,
    /// No object of a repository can be this long.
    #[error("{length} bytes are more than any object has")]
    TooLong {
        /// The length in bytes.
        length: u64,
    },
    /// A part of a file with a length that it cannot have.
    #[error("it has {length} bytes of plaintext, which this part of a file cannot have")]
    PartLength {
        /// The length in bytes.
        length: u64,
    },
    /// The path is none that an object of a repository can have.
    #[error("no object of a repository has such a name")]
    Path,
}

/// What helps against an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same again, later.
    Retry,
    /// Nothing, until somebody changes something.
    GiveUp,
    /// The same object in another repository: this one is well, or well enough.
    Elsewhere,
}

impl StoreError {
    /// What helps. Requests that may be repeated have been, within bounds.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unavailable { .. } => Advice::Retry,
            Self::NotFound { .. } | Self::Damaged { .. } | Self::DamagedExists { .. } => Advice::Elsewhere,
            _ => Advice::GiveUp,
        }
    }

    /// Whether the object itself is bad, as opposed to the way to it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::DamagedExists { .. })
    }

    /// Whether the fault lies with the repository as a whole, so that other objects will meet it too.
    #[must_use]
    pub fn is_of_the_repository(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. }
                | Self::Damaged { .. }
                | Self::DamagedExists { .. }
                | Self::Retained { .. }
                | Self::WrongPayload { .. }
        )
    }

    pub(crate) fn damaged(path: &str, what: impl Into<Damage>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }

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

    fn classify(action: &'static str, path: &str, source: Source) -> Self {
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
