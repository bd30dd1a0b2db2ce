//! Payloads: the content of an object, and the body of a message between host and node.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{Codec, CodecError};
use crate::digest::{Digest, DigestSuite};

/// The longest archived file, in bytes: a WAL segment of the largest size. It lies in parts.
pub const MAX_FILE_LENGTH: u64 = 1 << 30;
/// The most plaintext that one object may hold, in bytes: the largest kind is a manifest.
pub const MAX_PLAIN_LENGTH: u64 = 64 << 20;

/// Plaintext of one chunk, segment or manifest, named by its digest and compressed once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The digest of the plaintext.
    pub digest: Digest,
    /// The compression of `bytes`.
    pub codec: Codec,
    /// The length of the plaintext, in bytes.
    pub plain_length: u64,
    /// The compressed plaintext.
    pub bytes: Bytes,
}

/// A [`Payload`] without its bytes: its announcement, sent before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadHead {
    /// The digest of the plaintext.
    pub digest: Digest,
    /// The compression of the bytes.
    pub codec: Codec,
    /// The length of the plaintext, in bytes.
    pub plain_length: u64,
    /// The length of the compressed bytes.
    pub length: u64,
}

/// Why a payload cannot be made or opened.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// More plaintext than an object may hold.
    #[error("{plain_length} bytes of plaintext, at most {MAX_PLAIN_LENGTH} are possible")]
    TooLong {
        /// The length in bytes.
        plain_length: u64,
    },
    /// The length differs from the head's, or is more than the plaintext could need.
    #[error(
        "{length} bytes of payload do not fit {plain_length} bytes of plaintext with codec {codec} ({expected} announced)"
    )]
    Length {
        /// The codec.
        codec: Codec,
        /// The length of the plaintext.
        plain_length: u64,
        /// The length of the payload.
        length: u64,
        /// The length that was announced.
        expected: u64,
    },
    /// The error of the codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The plaintext has another digest than expected.
    #[error("the content's digest is {found} where {expected} was expected")]
    Digest {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of the plaintext.
        found: Digest,
    },
}

impl Payload {
    /// Digests and compresses `plain`.
    ///
    /// # Errors
    /// More than [`MAX_PLAIN_LENGTH`] bytes, or a level that the codec does not have.
    ///
    /// ```
    /// use pgmesh_storage::{Codec, DigestSuite, Payload};
    ///
    /// let page = [7; 8192];
    /// let payload = Payload::pack(DigestSuite::Blake3, Codec::Zst, None, &page)?;
    /// assert!(payload.bytes.len() < page.len());
    /// assert_eq!(payload.open(DigestSuite::Blake3)?, page.as_slice());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pack(suite: DigestSuite, codec: Codec, level: Option<i32>, plain: &[u8]) -> Result<Self, PayloadError> {
        Self::pack_known(suite.digest(plain), codec, level, plain)
    }

    /// Compresses `plain`, whose digest is known. If compression does not make it smaller, it stays uncompressed.
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub fn pack_known(digest: Digest, codec: Codec, level: Option<i32>, plain: &[u8]) -> Result<Self, PayloadError> {
        let plain_length = plain.len() as u64;
        check_plain_length(plain_length)?;
        let compressed = match codec {
            Codec::None => None,
            codec => Some(codec.compress(level, plain)?).filter(|bytes| bytes.len() < plain.len()),
        };
        Ok(match compressed {
            Some(bytes) => Self {
                digest,
                codec,
                plain_length,
                bytes: bytes.into(),
            },
            None => Self {
                digest,
                codec: Codec::None,
                plain_length,
                bytes: Bytes::copy_from_slice(plain),
            },
        })
    }

    /// Joins a head with the bytes that followed it.
    ///
    /// # Errors
    /// Lengths that contradict each other.
    pub fn from_parts(head: PayloadHead, bytes: Bytes) -> Result<Self, PayloadError> {
        let payload = Self {
            digest: head.digest,
            codec: head.codec,
            plain_length: head.plain_length,
            bytes,
        };
        payload.check_lengths(head.length)?;
        Ok(payload)
    }

    /// The payload without its bytes.
    #[must_use]
    pub fn head(&self) -> PayloadHead {
        PayloadHead {
            digest: self.digest,
            codec: self.codec,
            plain_length: self.plain_length,
            length: self.bytes.len() as u64,
        }
    }

    /// Decompresses and checks the digest. An uncompressed payload is not copied.
    ///
    /// # Errors
    /// Impossible lengths, bytes that the codec cannot read, another digest.
    pub fn open(&self, suite: DigestSuite) -> Result<Bytes, PayloadError> {
        let plain = self.decompress()?;
        // Invariant 6: the digest is checked after decompression, before the plaintext is handed out.
        let found = suite.digest(&plain);
        if found == self.digest {
            Ok(plain)
        } else {
            Err(PayloadError::Digest {
                expected: self.digest,
                found,
            })
        }
    }

    /// Decompresses without checking the digest: for a payload whose digest is not known yet.
    pub(crate) fn decompress(&self) -> Result<Bytes, PayloadError> {
        self.check_lengths(self.bytes.len() as u64)?;
        match self.codec {
            Codec::None => Ok(self.bytes.clone()),
            codec => {
                let plain_length = usize::try_from(self.plain_length).map_err(|_| too_long(self.plain_length))?;
                Ok(Bytes::from(codec.decompress(&self.bytes, plain_length)?))
            }
        }
    }

    /// Checks the lengths: an uncompressed payload is as long as the plaintext, a compressed one is shorter.
    pub(crate) fn check_lengths(&self, announced: u64) -> Result<(), PayloadError> {
        check_plain_length(self.plain_length)?;
        let length = self.bytes.len() as u64;
        let fits = match self.codec {
            Codec::None => length == self.plain_length,
            _ => length < self.plain_length,
        };
        if fits && length == announced {
            Ok(())
        } else {
            Err(PayloadError::Length {
                codec: self.codec,
                plain_length: self.plain_length,
                length,
                expected: announced,
            })
        }
    }
}

fn check_plain_length(plain_length: u64) -> Result<(), PayloadError> {
    if plain_length <= MAX_PLAIN_LENGTH {
        Ok(())
    } else {
        Err(too_long(plain_length))
    }
}

fn too_long(plain_length: u64) -> PayloadError {
    PayloadError::TooLong { plain_length }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUITE: DigestSuite = DigestSuite::Blake3;

    #[test]
    fn what_does_not_shrink_is_kept_as_it_is() {
        let payload = Payload::pack(SUITE, Codec::Zst, None, b"x").unwrap();
        assert_eq!(payload.codec, Codec::None);
        assert_eq!(payload.bytes, &b"x"[..]);
        let empty = Payload::pack(SUITE, Codec::Gz, None, b"").unwrap();
        assert_eq!(empty.open(SUITE).unwrap(), &b""[..]);
    }

    #[test]
    fn other_content_under_a_digest_is_refused() {
        let payload = Payload::pack(SUITE, Codec::None, None, b"right").unwrap();
        let other = Payload {
            bytes: Bytes::from_static(b"wrong"),
            ..payload
        };
        assert!(matches!(other.open(SUITE), Err(PayloadError::Digest { .. })));
    }

    #[test]
    fn lengths_that_cannot_be_right_are_refused() {
        let payload = Payload::pack(SUITE, Codec::Zst, None, &[0; 1000]).unwrap();
        let mut head = payload.head();
        head.length += 1;
        assert!(Payload::from_parts(head, payload.bytes.clone()).is_err());
        let mut head = payload.head();
        head.plain_length = MAX_PLAIN_LENGTH + 1;
        assert!(matches!(
            Payload::from_parts(head, payload.bytes.clone()),
            Err(PayloadError::TooLong { .. })
        ));
        let mut head = payload.head();
        head.plain_length = 3;
        assert!(Payload::from_parts(head, payload.bytes).is_err());
    }

    proptest! {
        #[test]
        fn pack_and_open(plain in prop::collection::vec(0_u8..8, 0..3000)) {
            for suite in [DigestSuite::Blake3, DigestSuite::Sha256] {
                for codec in Codec::ALL {
                    let payload = Payload::pack(suite, codec, None, &plain).unwrap();
                    prop_assert_eq!(&payload.open(suite).unwrap(), &plain);
                    let again = Payload::from_parts(payload.head(), payload.bytes.clone()).unwrap();
                    prop_assert_eq!(again, payload);
                }
            }
        }
    }
}
