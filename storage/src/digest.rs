//! Digests and message authentication codes: one suite for the whole mesh.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

/// The length of a [`Digest`] and of a MAC, in bytes.
pub const DIGEST_LENGTH: usize = 32;

/// A digest of plaintext: the identity of a chunk, a segment or a manifest.
///
/// As text 64 lower-case hexadecimal digits; in [`wire`](crate::wire) 32 raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; DIGEST_LENGTH]);

impl Digest {
    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; DIGEST_LENGTH] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; DIGEST_LENGTH * 2];
        // The buffer has the exact length, so this cannot fail.
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        formatter.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({self})")
    }
}

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a digest of 64 lower-case hexadecimal digits: {text:?}")]
pub struct ParseDigestError {
    text: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let error = || ParseDigestError {
            text: text.chars().take(80).collect(),
        };
        // One spelling only: names are compared as text.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut bytes = [0; DIGEST_LENGTH];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| error())?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            <[u8; DIGEST_LENGTH]>::deserialize(deserializer).map(Self)
        }
    }
}

/// The functions that a mesh uses for digests and MACs, chosen at `node init` and recorded in every repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestSuite {
    /// BLAKE3 digests and keyed BLAKE3 MACs.
    #[default]
    Blake3,
    /// SHA-256 digests and HMAC-SHA-256 MACs, for sites that must use approved algorithms.
    Sha256,
}

impl DigestSuite {
    /// The suite's number in an object's header.
    pub(crate) fn id(self) -> u8 {
        match self {
            Self::Blake3 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The suite with this number.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Blake3),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Blake3 => Digest(*blake3::hash(bytes).as_bytes()),
            Self::Sha256 => Digest(Sha256::digest(bytes).into()),
        }
    }

    /// A hasher for bytes that come in pieces.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Blake3 => HasherState::Blake3(Box::default()),
            Self::Sha256 => HasherState::Sha256(Sha256::new()),
        })
    }

    /// The MAC of the concatenation of `parts` under `key`.
    ///
    /// Parts are not framed: where their borders matter, the caller writes lengths.
    #[must_use]
    pub fn mac(self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; DIGEST_LENGTH] {
        match self {
            Self::Blake3 => {
                let mut hasher = blake3::Hasher::new_keyed(key);
                for part in parts {
                    hasher.update(part);
                }
                *hasher.finalize().as_bytes()
            }
            Self::Sha256 => {
                // HMAC pads a key shorter than a block with zeros (RFC 2104, section 2).
                let mut block = Zeroizing::new([0_u8; 64]);
                block[..key.len()].copy_from_slice(key);
                let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
                for part in parts {
                    mac.update(part);
                }
                mac.finalize().into_bytes().into()
            }
        }
    }
}

impl fmt::Display for DigestSuite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        })
    }
}

/// A name that is no digest suite.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no such digest suite: {text:?} (blake3 and sha256 are known)")]
pub struct ParseDigestSuiteError {
    text: String,
}

impl FromStr for DigestSuite {
    type Err = ParseDigestSuiteError;

    fn from_str(text: &str) -> Result<Self, ParseDigestSuiteError> {
        match text {
            "blake3" => Ok(Self::Blake3),
            "sha256" => Ok(Self::Sha256),
            _ => Err(ParseDigestSuiteError { text: text.to_owned() }),
        }
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone)]
pub struct Hasher(HasherState);

#[derive(Clone)]
enum HasherState {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HasherState::Blake3(hasher) => {
                hasher.update(bytes);
            }
            HasherState::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finalize(self) -> Digest {
        match self.0 {
            HasherState::Blake3(hasher) => Digest(*hasher.finalize().as_bytes()),
            HasherState::Sha256(hasher) => Digest(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    const SUITES: [DigestSuite; 2] = [DigestSuite::Blake3, DigestSuite::Sha256];

    #[test]
    fn known_answers() {
        // The published digests of the empty input, and RFC 4231's first case widened to a key of 32 bytes.
        assert_eq!(
            DigestSuite::Blake3.digest(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            DigestSuite::Sha256.digest(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        // printf 'Hi There' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0b0b…0b (32 bytes)
        assert_eq!(
            hex::encode(DigestSuite::Sha256.mac(&[0x0b; 32], &[b"Hi", b" There"])),
            "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7"
        );
    }

    #[test]
    fn digests_have_one_spelling() {
        let text = DigestSuite::Blake3.digest(b"x").to_string();
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<Digest>().is_err());
        assert!(text[1..].parse::<Digest>().is_err());
        assert!(format!("{text}0").parse::<Digest>().is_err());
    }

    #[test]
    fn a_digest_is_32_bytes_on_the_wire_and_text_in_json() {
        let digest = DigestSuite::Blake3.digest(b"x");
        let bytes = wire::encode(&digest);
        assert_eq!(bytes, digest.0);
        assert_eq!(wire::decode::<Digest>(&bytes, 32).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn names_round_trip() {
        for suite in SUITES {
            assert_eq!(suite.to_string().parse::<DigestSuite>().unwrap(), suite);
            assert_eq!(DigestSuite::from_id(suite.id()), Some(suite));
        }
        assert!("md5".parse::<DigestSuite>().is_err());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes: Vec<u8>, cut: prop::sample::Index, key: [u8; 32]) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            for suite in SUITES {
                let mut hasher = suite.hasher();
                hasher.update(head);
                hasher.update(tail);
                prop_assert_eq!(hasher.finalize(), suite.digest(&bytes));
                prop_assert_eq!(suite.mac(&key, &[head, tail]), suite.mac(&key, &[&bytes]));
                prop_assert_ne!(suite.mac(&key, &[&bytes]), suite.digest(&bytes).0);
            }
        }
    }
}
