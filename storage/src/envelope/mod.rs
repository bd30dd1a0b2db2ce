//! The envelope that every object is stored in.
//!
//! ```text
//!   offset  length
//!        0      36  header (see [`header`])
//!       36      16  initialisation vector           (absent without a cipher)
//!       52       n  payload, AES-256-CBC with PKCS #7 padding (plain without a cipher)
//!     52+n      32  tag
//! ```
//!
//! The tag is the MAC, under the epoch's MAC key, of: the length of the object's path (4 bytes, little endian), the
//! path relative to the repository's root, and everything before the tag. So it binds the content to the name: if an
//! object lies under another object's name, its tag does not match. Without a cipher the tag is the plain digest of the
//! same bytes.

mod header;

use std::ops::RangeInclusive;

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use bytes::{Bytes, BytesMut};
use subtle::ConstantTimeEq;
use thiserror::Error;

use self::header::{HEADER_LENGTH, Header};
use crate::codec::Codec;
use crate::digest::DigestSuite;
use crate::identity::Cipher;
use crate::keys::{EpochKeys, KeyRing};
use crate::object::ObjectKind;
use crate::payload::Payload;
use crate::random::{self, RandomError};

const IV_LENGTH: usize = 16;
const TAG_LENGTH: usize = 32;
const BLOCK_LENGTH: usize = 16;

/// The version of the envelope that this program writes, and the only one it reads.
pub const ENVELOPE_FORMAT: u8 = header::VERSION;

/// The longest object of a kind, in bytes.
pub(crate) const fn max_object_length(kind: ObjectKind) -> u64 {
    kind.max_plain_length() + (HEADER_LENGTH + IV_LENGTH + BLOCK_LENGTH + TAG_LENGTH) as u64
}

/// The way in which stored bytes differ from the object that was written.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// Too short for an envelope.
    #[error("{length} bytes are too few for an object")]
    Truncated {
        /// The length in bytes.
        length: u64,
    },
    /// The length differs from the header's.
    #[error("it is {length} bytes long, its header says {expected}")]
    Length {
        /// The length in bytes.
        length: u64,
        /// The length that follows from the header.
        expected: u64,
    },
    /// The bytes do not begin with the magic number.
    #[error("it does not begin as an object of a pgmesh repository")]
    Magic,
    /// A version that this program does not read.
    #[error("it has format version {version}, this program reads version {known}")]
    Version {
        /// The version found.
        version: u8,
        /// The version known.
        known: u8,
    },
    /// A field of the header has a value that it cannot have in this repository.
    #[error("its header is invalid: {field} is {value}")]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The repository has no key of this epoch.
    #[error("it was written with key epoch {epoch}, and the repository has no key of that epoch")]
    Epoch {
        /// The epoch.
        epoch: u32,
    },
    /// The MAC differs: a byte has changed, or the object lies under another object's name.
    #[error("its authentication tag does not match: bytes have changed, or it belongs elsewhere")]
    Tag,
    /// The decrypted bytes have no valid padding, or another length than the header says.
    #[error("it does not decrypt to the length that its header says")]
    Padding,
}

/// Seals payloads into objects of one repository and opens them again: the one place where bytes are encrypted.
#[derive(Debug)]
pub(crate) struct Envelope {
    suite: DigestSuite,
    keys: Option<KeyRing>,
}

/// The content of an object. It has no digest: the caller knows it from the name, or computes it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) codec: Codec,
    pub(crate) plain_length: u64,
    pub(crate) bytes: Bytes,
}

impl Envelope {
    pub(crate) fn new(suite: DigestSuite, keys: Option<KeyRing>) -> Self {
        Self { suite, keys }
    }

    pub(crate) fn naming_key(&self) -> Option<&[u8; 32]> {
        self.keys.as_ref().map(KeyRing::naming)
    }

    /// The possible lengths of the payload of an object of this length; with a cipher, the padding leaves several.
    /// `None` for a length that no object of the repository has.
    pub(crate) fn payload_bounds(&self, object: u64) -> Option<RangeInclusive<u64>> {
        let around = (HEADER_LENGTH + TAG_LENGTH) as u64;
        if self.keys.is_none() {
            return object.checked_sub(around).map(|payload| payload..=payload);
        }
        let block = BLOCK_LENGTH as u64;
        let ciphertext = object.checked_sub(around + IV_LENGTH as u64)?;
        (ciphertext >= block && ciphertext.is_multiple_of(block)).then(|| ciphertext - block..=ciphertext - 1)
    }

    /// The object for `payload` at `path`, as pieces to be written one after the other.
    pub(crate) fn seal(&self, path: &str, kind: ObjectKind, payload: &Payload) -> Result<Vec<Bytes>, RandomError> {
        let header = Header {
            kind,
            suite: self.suite,
            cipher: Cipher::None,
            epoch: 0,
            codec: payload.codec,
            plain_length: payload.plain_length,
            payload_length: payload.bytes.len() as u64,
        };
        match self.keys.as_ref().and_then(KeyRing::current) {
            Some((epoch, keys)) => {
                let header = Header {
                    cipher: Cipher::Aes256Cbc,
                    epoch,
                    ..header
                };
                Ok(vec![self.encrypt(path, &header, keys, &payload.bytes)?])
            }
            None => {
                // Not copied: the payload stays where it is, between header and tag.
                let header = Bytes::copy_from_slice(&header.encode());
                let tag = self.plain_tag(path, &[&header, &payload.bytes]);
                Ok(vec![header, payload.bytes.clone(), Bytes::copy_from_slice(&tag)])
            }
        }
    }

    /// Encrypts into one allocation that holds the whole object.
    fn encrypt(&self, path: &str, header: &Header, keys: &EpochKeys, payload: &[u8]) -> Result<Bytes, RandomError> {
        let iv: [u8; IV_LENGTH] = random::bytes()?;
        let ciphertext_length = (payload.len() / BLOCK_LENGTH + 1) * BLOCK_LENGTH;
        let body_start = HEADER_LENGTH + IV_LENGTH;
        let mut object = vec![0; body_start + ciphertext_length + TAG_LENGTH];
        let (authenticated, tag) = object.split_at_mut(body_start + ciphertext_length);
        let (head, ciphertext) = authenticated.split_at_mut(body_start);
        head[..HEADER_LENGTH].copy_from_slice(&header.encode());
        head[HEADER_LENGTH..].copy_from_slice(&iv);
        let encrypted = cbc::Encryptor::<Aes256>::new((&*keys.encryption).into(), (&iv).into())
            .encrypt_padded_b2b::<Pkcs7>(payload, ciphertext);
        assert!(
            encrypted.is_ok_and(|bytes| bytes.len() == ciphertext_length),
            "the ciphertext fills the space computed for it"
        );
        tag.copy_from_slice(
            &self
                .suite
                .mac(&keys.mac, &[&path_length(path), path.as_bytes(), authenticated]),
        );
        Ok(object.into())
    }

    /// Checks and decrypts the object found at `path`, which must be of `kind`.
    pub(crate) fn open(&self, path: &str, kind: ObjectKind, object: Bytes) -> Result<Opened, EnvelopeError> {
        let header = Header::decode(&object)?;
        self.check_header(&header, kind, object.len() as u64)?;
        let (authenticated, tag) = object.split_at(object.len() - TAG_LENGTH);
        // Invariant 6: the MAC is checked before anything is decrypted.
        let bytes = match header.cipher {
            Cipher::None => {
                check_tag(&self.plain_tag(path, &[authenticated]), tag)?;
                object.slice(HEADER_LENGTH..authenticated.len())
            }
            Cipher::Aes256Cbc => {
                let keys = self
                    .keys
                    .as_ref()
                    .and_then(|ring| ring.epoch(header.epoch))
                    .ok_or(EnvelopeError::Epoch { epoch: header.epoch })?;
                let expected = self
                    .suite
                    .mac(&keys.mac, &[&path_length(path), path.as_bytes(), authenticated]);
                check_tag(&expected, tag)?;
                decrypt(keys, object)?
            }
        };
        if bytes.len() as u64 != header.payload_length {
            return Err(EnvelopeError::Padding);
        }
        Ok(Opened {
            codec: header.codec,
            plain_length: header.plain_length,
            bytes,
        })
    }

    /// Checks the header's fields against the repository, the kind, and the object's length.
    fn check_header(&self, header: &Header, kind: ObjectKind, length: u64) -> Result<(), EnvelopeError> {
        let cannot_be = |field, value| Err(EnvelopeError::Header { field, value });
        if header.kind != kind {
            return cannot_be("kind", u64::from(header.kind.id()));
        }
        if header.suite != self.suite {
            return cannot_be("digest suite", u64::from(header.suite.id()));
        }
        // An unencrypted object in an encrypted repository is a forgery: its tag needs no key.
        if (header.cipher == Cipher::Aes256Cbc) != self.keys.is_some() {
            return cannot_be("cipher", u64::from(header.cipher_id()));
        }
        if header.cipher == Cipher::None && header.epoch != 0 {
            return cannot_be("key epoch", u64::from(header.epoch));
        }
        if header.plain_length > kind.max_plain_length() {
            return cannot_be("plaintext length", header.plain_length);
        }
        if header.payload_length > kind.max_plain_length() {
            return cannot_be("payload length", header.payload_length);
        }
        let expected = header.object_length();
        if length != expected {
            return Err(EnvelopeError::Length { length, expected });
        }
        Ok(())
    }

    fn plain_tag(&self, path: &str, pieces: &[&[u8]]) -> [u8; TAG_LENGTH] {
        let mut hasher = self.suite.hasher();
        hasher.update(&path_length(path));
        hasher.update(path.as_bytes());
        for piece in pieces {
            hasher.update(piece);
        }
        hasher.finalize().0
    }
}

/// Decrypts the body of an object whose length and tag have been checked. In place, unless the bytes are shared.
fn decrypt(keys: &EpochKeys, object: Bytes) -> Result<Bytes, EnvelopeError> {
    let mut object = object
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let end = object.len() - TAG_LENGTH;
    let (head, ciphertext) = object[..end].split_at_mut(HEADER_LENGTH + IV_LENGTH);
    let iv = <&[u8; IV_LENGTH]>::try_from(&head[HEADER_LENGTH..]).map_err(|_| EnvelopeError::Padding)?;
    let length = cbc::Decryptor::<Aes256>::new((&*keys.encryption).into(), iv.into())
        .decrypt_padded::<Pkcs7>(ciphertext)
        .map_err(|_| EnvelopeError::Padding)?
        .len();
    let start = HEADER_LENGTH + IV_LENGTH;
    Ok(object.freeze().slice(start..start + length))
}

fn check_tag(expected: &[u8; TAG_LENGTH], found: &[u8]) -> Result<(), EnvelopeError> {
    if bool::from(expected.ct_eq(found)) {
        Ok(())
    } else {
        Err(EnvelopeError::Tag)
    }
}

/// The path's length as it goes into the tag: it keeps path and header apart.
fn path_length(path: &str) -> [u8; 4] {
    u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests;
