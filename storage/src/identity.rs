//! A repository's identity: the object `pgmesh.repo`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checked_text::{self, CheckedTextError};
use crate::digest::DigestSuite;
use crate::random::{self, RandomError};

/// The format that this program writes, and the only one it reads.
pub const REPOSITORY_FORMAT: u16 = 2;

/// How the objects of a repository are encrypted. The names are pgBackRest's `cipher-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// No encryption; objects carry an unkeyed digest, which finds damage but not a forger.
    #[serde(rename = "none")]
    None,
    /// AES-256-CBC, then a MAC.
    #[serde(rename = "aes-256-cbc")]
    Aes256Cbc,
}

impl fmt::Display for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::None => "none",
            Self::Aes256Cbc => "aes-256-cbc",
        })
    }
}

/// A name that is no cipher.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no such cipher type: {text:?} (none and aes-256-cbc are known)")]
pub struct ParseCipherError {
    text: String,
}

impl FromStr for Cipher {
    type Err = ParseCipherError;

    fn from_str(text: &str) -> Result<Self, ParseCipherError> {
        match text {
            "none" => Ok(Self::None),
            "aes-256-cbc" => Ok(Self::Aes256Cbc),
            _ => Err(ParseCipherError { text: text.to_owned() }),
        }
    }
}

/// The content of `pgmesh.repo`: no secrets, and checksummed so that a flipped byte is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryIdentity {
    /// The format of the whole repository: 2.
    pub format: u16,
    /// The repository's unique id (a random UUID).
    pub uuid: String,
    /// The id of the mesh that made the repository.
    pub mesh: String,
    /// The mesh's digest suite.
    pub suite: DigestSuite,
    /// The encryption of the objects.
    pub cipher: Cipher,
    /// The time of its creation, in seconds since 1970.
    pub created: i64,
}

impl RepositoryIdentity {
    /// The identity of a new repository, with a fresh random id.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate(
        mesh: impl Into<String>,
        suite: DigestSuite,
        cipher: Cipher,
        created: i64,
    ) -> Result<Self, RandomError> {
        Ok(Self {
            format: REPOSITORY_FORMAT,
            uuid: random_uuid()?,
            mesh: mesh.into(),
            suite,
            cipher,
            created,
        })
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CheckedTextError> {
        checked_text::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CheckedTextError> {
        checked_text::decode(bytes)
    }
}

/// A random (version 4) UUID as text, RFC 9562.
fn random_uuid() -> Result<String, RandomError> {
    let mut bytes: [u8; 16] = random::bytes()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    let (first, rest) = digits.split_at(8);
    let (second, rest) = rest.split_at(4);
    let (third, rest) = rest.split_at(4);
    let (fourth, fifth) = rest.split_at(4);
    Ok(format!("{first}-{second}-{third}-{fourth}-{fifth}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_and_differ() {
        let make = || RepositoryIdentity::generate("mesh", DigestSuite::Sha256, Cipher::Aes256Cbc, 17).unwrap();
        let identity = make();
        assert_eq!(
            RepositoryIdentity::decode(&identity.encode().unwrap()).unwrap(),
            identity
        );
        assert_ne!(make().uuid, identity.uuid);
        assert_eq!(identity.uuid.len(), 36);
        assert_eq!(identity.uuid.as_bytes()[14], b'4');
    }

    #[test]
    fn ciphers() {
        for cipher in [Cipher::None, Cipher::Aes256Cbc] {
            assert_eq!(cipher.to_string().parse::<Cipher>().unwrap(), cipher);
        }
        assert!("aes-128-cbc".parse::<Cipher>().is_err());
    }
}
