//! Errors of a repository, sorted by their remedy: retry, read elsewhere, or give up.

use std::error::Error as StdError;

use thiserror::Error;

use crate::checked_text::CheckedTextError;
use crate::envelope::EnvelopeError;
use crate::keys::KeyError;
use crate::payload::PayloadError;

/// The underlying error; its type depends on the kind of store.
pub type Cause = Box<dyn StdError + Send + Sync + 'static>;

/// Why an operation on a repository failed. Paths are relative to the repository's root.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store is in order, and it has no such object (invariant 7).
    #[error("{path} is not in the repository")]
    NotFound {
        /// The object.
        path: String,
    },
    /// The object exists, but not as it was written: report it, and read another replica (invariant 6).
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The object.
        path: String,
        /// The damage.
        what: Damage,
    },
    /// A put found its name taken by a damaged object: report that object and write the next generation.
    #[error("{path} exists already and is damaged: {what}")]
    DamagedExists {
        /// The object.
        path: String,
        /// The damage.
        what: Damage,
    },
    /// The repository gave no answer, or a senseless one: try again later, or try another repository.
    #[error("{action} {path}: {source}")]
    Unavailable {
        /// The operation: `reading`, `writing`, ….
        action: &'static str,
        /// The object.
        path: String,
        /// The store's error.
        source: Cause,
    },
    /// The repository has no room left.
    #[error("{action} {path}: no space is left: {source}")]
    Full {
        /// The operation.
        action: &'static str,
        /// The object.
        path: String,
        /// The store's error.
        source: Cause,
    },
    /// The repository refuses this program: credentials, permissions, or a read-only file system.
    #[error("{action} {path}: refused: {source}")]
    Denied {
        /// The operation.
        action: &'static str,
        /// The object.
        path: String,
        /// The store's error.
        source: Cause,
    },
    /// The options do not fit the place: no such bucket, no trusted certificate, another region or server.
    #[error("{action} {path}: {source}")]
    Misplaced {
        /// The operation.
        action: &'static str,
        /// The object.
        path: String,
        /// The store's error.
        source: Cause,
    },
    /// The object cannot be deleted (yet): it is under object lock, or the credentials do not allow it. It stays, and
    /// the repository is in order.
    #[error("{path} was not deleted: {why}")]
    Retained {
        /// The object.
        path: String,
        /// The reason: the lock, the retention policy, `delete=n`.
        why: String,
    },
    /// The repository's options cannot be used as they are.
    #[error("{what} cannot be used: {source}")]
    Unusable {
        /// The option, or the part of the configuration.
        what: String,
        /// The reason.
        source: Cause,
    },
    /// There is no `pgmesh.repo`: nothing has been created here.
    #[error("there is no repository here: {path} is missing")]
    NotARepository {
        /// The object looked for.
        path: String,
    },
    /// A repository cannot be created over another one, nor over the objects of another one.
    #[error("there is a repository here already: {path} exists")]
    AlreadyARepository {
        /// The object that was found.
        path: String,
    },
    /// The repository was written by a program with another format.
    #[error("the repository has format {format}, this program reads format {known}")]
    UnknownFormat {
        /// The repository's format.
        format: u16,
        /// The format that this program reads.
        known: u16,
    },
    /// The repository is encrypted and no passphrase was given.
    #[error("the repository is encrypted: its passphrase is needed")]
    PassphraseNeeded,
    /// A passphrase was given for a repository that is not encrypted. The user must not believe that it protects.
    #[error("the repository is not encrypted, but a passphrase is configured for it")]
    PassphraseNotNeeded,
    /// The passphrase opens none of the repository's keys.
    #[error("the passphrase is wrong: it opens none of the keys of repository {uuid}")]
    WrongPassphrase {
        /// The repository's id.
        uuid: String,
    },
    /// No key object of the repository can be read, so the passphrase has no key to open.
    #[error("the repository is encrypted, but no key of it can be read{}", .damaged.as_deref().map(|first| format!(": {first}")).unwrap_or_default())]
    NoKey {
        /// The first damage of a key object, if there is any.
        damaged: Option<String>,
    },
    /// The key is wrapped in a way that this program does not know.
    #[error("opening the repository's key {path}: {source}")]
    Key {
        /// The key object.
        path: String,
        /// The reason.
        source: KeyError,
    },
    /// The caller put a payload under a name that belongs to another content.
    #[error("the content to write does not belong under the name {path}: {what}")]
    WrongPayload {
        /// The object.
        path: String,
        /// The mismatch.
        what: String,
    },
}

/// The damage of a stored object.
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
    #[error("{length} bytes are longer than any object of a repository")]
    TooLong {
        /// The length in bytes.
        length: u64,
    },
    /// A part of a file with a length that it cannot have.
    #[error("it has {length} bytes of plaintext, a length that this part of a file cannot have")]
    PartLength {
        /// The length in bytes.
        length: u64,
    },
    /// No object of a repository can have this path.
    #[error("no object of a repository has such a name")]
    Path,
}

/// The remedy for an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Repeat the request later.
    Retry,
    /// Give up: the request fails until an administrator changes the options, the permissions or the repository.
    GiveUp,
    /// Read the same object in another repository. This repository is usable.
    Elsewhere,
}

impl StoreError {
    /// The remedy. Requests that may be repeated have been repeated already, within bounds.
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
}
