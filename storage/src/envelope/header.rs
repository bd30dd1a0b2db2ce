//! The header of an object, 36 bytes, all numbers little endian:
//!
//! ```text
//!   0  8  magic: 0x89 "pgmesh" 0x0a
//!   8  1  format version: 1
//!   9  1  kind: 1 chunk, 2 archived file, 3 manifest, 4 stanza info
//!  10  1  digest suite: 1 blake3, 2 sha256
//!  11  1  cipher: 0 none, 1 aes-256-cbc
//!  12  4  key epoch, from 1; 0 without a cipher
//!  16  1  codec: 0 none, 1 lz4, 2 zst, 3 gz, 4 bz2
//!  17  3  zero
//!  20  8  length of the plaintext
//!  28  8  length of the payload: compressed, before encryption
//! ```

use super::{BLOCK_LENGTH, EnvelopeError, IV_LENGTH, TAG_LENGTH};
use crate::codec::Codec;
use crate::digest::DigestSuite;
use crate::identity::Cipher;
use crate::object::ObjectKind;

pub(super) const HEADER_LENGTH: usize = 36;

/// Made like PNG's: its non-ASCII byte and its line feed show whether a file was treated as text.
const MAGIC: [u8; 8] = *b"\x89pgmesh\n";
pub(super) const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: ObjectKind,
    pub(super) suite: DigestSuite,
    pub(super) cipher: Cipher,
    pub(super) epoch: u32,
    pub(super) codec: Codec,
    pub(super) plain_length: u64,
    pub(super) payload_length: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = VERSION;
        bytes[9] = self.kind.id();
        bytes[10] = self.suite.id();
        bytes[11] = self.cipher_id();
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16] = self.codec.id();
        bytes[20..28].copy_from_slice(&self.plain_length.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.payload_length.to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of `object`, which must be long enough for header and tag.
    pub(super) fn decode(object: &[u8]) -> Result<Self, EnvelopeError> {
        if object.len() < HEADER_LENGTH + TAG_LENGTH {
            return Err(EnvelopeError::Truncated {
                length: object.len() as u64,
            });
        }
        let mut fields = Fields(object);
        let magic: [u8; 8] = fields.take()?;
        let [version, kind, suite, cipher] = fields.take()?;
        let epoch = u32::from_le_bytes(fields.take()?);
        let [codec, reserved @ ..]: [u8; 4] = fields.take()?;
        let plain_length = u64::from_le_bytes(fields.take()?);
        let payload_length = u64::from_le_bytes(fields.take()?);
        if magic != MAGIC {
            return Err(EnvelopeError::Magic);
        }
        if version != VERSION {
            return Err(EnvelopeError::Version {
                version,
                known: VERSION,
            });
        }
        let cannot_be = |field, value: u8| EnvelopeError::Header {
            field,
            value: value.into(),
        };
        if let Some(byte) = reserved.into_iter().find(|byte| *byte != 0) {
            return Err(cannot_be("reserved byte", byte));
        }
        Ok(Self {
            kind: ObjectKind::from_id(kind).ok_or_else(|| cannot_be("kind", kind))?,
            suite: DigestSuite::from_id(suite).ok_or_else(|| cannot_be("digest suite", suite))?,
            cipher: match cipher {
                0 => Cipher::None,
                1 => Cipher::Aes256Cbc,
                _ => return Err(cannot_be("cipher", cipher)),
            },
            epoch,
            codec: Codec::from_id(codec).ok_or_else(|| cannot_be("codec", codec))?,
            plain_length,
            payload_length,
        })
    }

    pub(super) fn cipher_id(&self) -> u8 {
        match self.cipher {
            Cipher::None => 0,
            Cipher::Aes256Cbc => 1,
        }
    }

    /// The length of an object with this header, in bytes. The lengths in it must have been bounded.
    pub(super) fn object_length(&self) -> u64 {
        let body = match self.cipher {
            Cipher::None => self.payload_length,
            Cipher::Aes256Cbc => {
                let block = BLOCK_LENGTH as u64;
                IV_LENGTH as u64 + (self.payload_length / block + 1) * block
            }
        };
        HEADER_LENGTH as u64 + body + TAG_LENGTH as u64
    }
}

/// Takes fields of a fixed length from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(EnvelopeError::Truncated {
            length: self.0.len() as u64,
        })?;
        self.0 = rest;
        Ok(*field)
    }
}
