use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::DigestSuite;

/// A repository's master key and naming key of one epoch, encrypted under a passphrase.
///
/// Safe to store anywhere: without the passphrase, the keys cannot be read from it (invariant 9). It lies in the
/// repository as an object of its own (invariant 8) and in the catalog. Byte fields are hexadecimal in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The format of this record: 1.
    pub format: u16,
    /// The repository's unique id; the key opens no other.
    pub repository: String,
    /// The suite that the tag is made with.
    pub suite: DigestSuite,
    /// The key epoch, from 1.
    pub epoch: u32,
    /// The number of this wrapping of the epoch's keys, from 1: one more with each new passphrase.
    pub wrap: u32,
    /// How the passphrase becomes a key.
    pub derivation: KeyDerivation,
    /// The initialisation vector: 16 bytes.
    pub iv: HexBytes,
    /// Master key and naming key, AES-256-CBC.
    pub ciphertext: HexBytes,
    /// The MAC of all other fields: 32 bytes.
    pub tag: HexBytes,
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "WrappedKey(repository {}, epoch {}, wrap {})",
            self.repository, self.epoch, self.wrap
        )
    }
}

/// Argon2id's parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDerivation {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// The salt: 16 bytes.
    pub salt: HexBytes,
}

/// A short byte string: hexadecimal in JSON, raw in [`wire`](crate::wire).
#[derive(Clone, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(&self.0))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            hex::decode(String::deserialize(deserializer)?)
                .map(Self)
                .map_err(serde::de::Error::custom)
        } else {
            Vec::deserialize(deserializer).map(Self)
        }
    }
}
