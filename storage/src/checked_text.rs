//! Small JSON files that notice a flipped byte.
//!
//! The file is JSON for people to read, followed by one line `sha256 <64 hexadecimal digits>` over all bytes before it.
//! SHA-256 in every digest suite, so that `sha256sum` can check it by hand.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::digest::{Digest, DigestSuite};

/// The longest file, in bytes.
const MAX_LENGTH: usize = 64 << 10;

const PREFIX: &str = "sha256 ";
/// `sha256 `, 64 digits and a line feed.
const LAST_LINE_LENGTH: usize = PREFIX.len() + 64 + 1;

/// The way in which a file differs from the one that was written.
#[derive(Debug, Error)]
pub enum CheckedTextError {
    /// Empty, cut off, or far too long.
    #[error("{length} bytes are too few or too many: the file is cut short, or is another file")]
    Length {
        /// The length in bytes.
        length: usize,
    },
    /// The last line does not fit the lines before it.
    #[error("the checksum in the last line does not match")]
    Checksum,
    /// The checksum matches, but the content is not understood: another version wrote it.
    #[error("the content is not understood: {0}")]
    Content(#[from] serde_json::Error),
}

/// Writes `value` with its checksum.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CheckedTextError> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let checksum = DigestSuite::Sha256.digest(&text);
    text.extend_from_slice(format!("{PREFIX}{checksum}\n").as_bytes());
    Ok(text)
}

/// Reads a file that [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CheckedTextError> {
    let length = bytes.len();
    let split = length
        .checked_sub(LAST_LINE_LENGTH)
        .filter(|_| length <= MAX_LENGTH)
        .ok_or(CheckedTextError::Length { length })?;
    let (body, last_line) = bytes.split_at(split);
    let checksum: Digest = std::str::from_utf8(last_line)
        .ok()
        .and_then(|line| line.strip_prefix(PREFIX)?.strip_suffix('\n'))
        .and_then(|digits| digits.parse().ok())
        .ok_or(CheckedTextError::Checksum)?;
    if DigestSuite::Sha256.digest(body) != checksum {
        return Err(CheckedTextError::Checksum);
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&("text", 17)).unwrap();
        assert_eq!(decode::<(String, u32)>(&bytes).unwrap(), ("text".into(), 17));
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                assert!(decode::<(String, u32)>(&damaged).is_err(), "byte {index}, bit {bit}");
            }
            assert!(decode::<(String, u32)>(&bytes[..index]).is_err(), "cut at {index}");
        }
        let mut longer = bytes;
        longer.push(b'\n');
        assert!(decode::<(String, u32)>(&longer).is_err());
    }
}
