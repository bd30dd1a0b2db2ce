use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of a repository in the mesh, 1 to 256: the `2` of `repo2-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct RepoKey(u16);

impl RepoKey {
    /// The highest repository number.
    pub const MAX: u16 = 256;

    /// The repository with this number.
    ///
    /// # Errors
    /// Numbers other than 1 to 256.
    pub fn new(number: u16) -> Result<Self, ParseRepoKeyError> {
        if (1..=Self::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(ParseRepoKeyError {
                text: number.to_string(),
            })
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for RepoKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A number that no repository can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a repository number from 1 to 256: {text:?}")]
pub struct ParseRepoKeyError {
    text: String,
}

impl FromStr for RepoKey {
    type Err = ParseRepoKeyError;

    /// Accepts `2`; leading zeros and signs are refused, so that a repository has one spelling.
    fn from_str(text: &str) -> Result<Self, ParseRepoKeyError> {
        let error = || ParseRepoKeyError {
            text: text.chars().take(20).collect(),
        };
        if text.starts_with(['0', '+']) {
            return Err(error());
        }
        text.parse::<u16>()
            .ok()
            .and_then(|number| Self::new(number).ok())
            .ok_or_else(error)
    }
}

impl TryFrom<u16> for RepoKey {
    type Error = ParseRepoKeyError;

    fn try_from(number: u16) -> Result<Self, ParseRepoKeyError> {
        Self::new(number)
    }
}

impl From<RepoKey> for u16 {
    fn from(key: RepoKey) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn numbers_from_1_to_256() {
        assert_eq!("1".parse::<RepoKey>().unwrap().get(), 1);
        assert_eq!("256".parse::<RepoKey>().unwrap().to_string(), "256");
        for bad in ["", "0", "01", "+1", "257", "-1", "70000", "x"] {
            assert!(bad.parse::<RepoKey>().is_err(), "{bad:?}");
        }
        assert!(wire::decode::<RepoKey>(&wire::encode(&0_u16), 8).is_err());
    }
}
