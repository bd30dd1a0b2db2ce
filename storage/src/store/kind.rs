use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The type of a repository's storage (`repoN-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKind {
    /// A directory, which only one node reaches.
    Posix,
    /// A bucket of S3 or of a server that speaks its protocol.
    S3,
    /// A container of Azure Blob Storage.
    Azure,
    /// A bucket of Google Cloud Storage.
    Gcs,
}

/// A type of storage that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{0}' is no type of repository: posix, s3, azure or gcs")]
pub struct ParseStoreKindError(String);

impl StoreKind {
    /// All types.
    pub const ALL: [Self; 4] = [Self::Posix, Self::S3, Self::Azure, Self::Gcs];

    /// Whether every node with the credentials reaches it, as opposed to one node that hosts it.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Posix
    }

    /// The type as the option names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Posix => "posix",
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::Gcs => "gcs",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for StoreKind {
    type Err = ParseStoreKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| ParseStoreKindError(text.to_owned()))
    }
}
