//! The one binary codec: bincode with variable-length little-endian integers.
//!
//! Used for manifest parts, Raft log entries, catalog values and messages between peers. Every decode is bounded: its
//! input by the caller's limit, its allocations by a small multiple of the input's length, so that a length field of
//! garbage cannot exhaust memory. Trailing bytes are an error. Types that are decoded from untrusted bytes must not be
//! recursive: depth is bounded by the type alone.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why bytes could not be decoded.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The input is longer than the caller allows.
    #[error("{length} encoded bytes, at most {limit} are allowed")]
    TooLong {
        /// The input's length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The value ended before the input did.
    #[error("{count} bytes follow the encoded value")]
    TrailingBytes {
        /// The number of bytes that follow.
        count: usize,
    },
    /// The bytes are no encoding of this type.
    #[error("the bytes are not a valid encoding: {0}")]
    Malformed(bincode::error::DecodeError),
    /// A value in them is larger than its type allows, as [`beyond`] says.
    #[error("{0}")]
    Beyond(String),
}

/// Marks the errors of [`beyond`] on their way through bincode, which knows only texts.
const BEYOND: &str = "beyond its bound: ";

/// The error of a type with a bound, whose value is larger, while it is decoded: [`decode`] answers with
/// [`DecodeError::Beyond`] and this text.
pub fn beyond<E: serde::de::Error>(what: String) -> E {
    E::custom(format!("{BEYOND}{what}"))
}

impl From<bincode::error::DecodeError> for DecodeError {
    fn from(error: bincode::error::DecodeError) -> Self {
        match &error {
            bincode::error::DecodeError::OtherString(text) => match text.strip_prefix(BEYOND) {
                Some(what) => Self::Beyond(what.to_owned()),
                None => Self::Malformed(error),
            },
            _ => Self::Malformed(error),
        }
    }
}

/// Encodes a value.
///
/// # Panics
/// When the type cannot be encoded without field names or lengths known beforehand (serde's `flatten`, `untagged`,
/// `skip_serializing_if`): that is a fault of the program, not of the data.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match bincode::serde::encode_to_vec(value, bincode::config::standard()) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{} cannot be encoded: {error}", std::any::type_name::<T>()),
    }
}

/// Decodes a value from all of `bytes`, of which there may be at most `limit`.
///
/// # Errors
/// Input that is too long, malformed, or followed by more bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong {
            length: bytes.len(),
            limit,
        });
    }
    let (value, used) = decode_bounded(bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}

/// Decodes with a claim limit that suits the input's length.
///
/// bincode counts a number by its size in memory, up to 16 times its size encoded, so the limit is the input's length
/// times 16, rounded up to the next of a few constants: bincode takes its limit as a constant only.
fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const AMPLIFICATION: usize = 16;
    match bytes.len().saturating_mul(AMPLIFICATION) {
        0..=0x1_0000 => decode_with::<T, 0x1_0000>(bytes),
        0x1_0001..=0x10_0000 => decode_with::<T, 0x10_0000>(bytes),
        0x10_0001..=0x40_0000 => decode_with::<T, 0x40_0000>(bytes),
        0x40_0001..=0x100_0000 => decode_with::<T, 0x100_0000>(bytes),
        0x100_0001..=0x400_0000 => decode_with::<T, 0x400_0000>(bytes),
        0x400_0001..=0x1000_0000 => decode_with::<T, 0x1000_0000>(bytes),
        0x1000_0001..=0x4000_0000 => decode_with::<T, 0x4000_0000>(bytes),
        _ => decode_with::<T, 0x10_0000_0000>(bytes),
    }
}

fn decode_with<T: DeserializeOwned, const LIMIT: usize>(
    bytes: &[u8],
) -> Result<(T, usize), bincode::error::DecodeError> {
    let configuration: Configuration<LittleEndian, Varint, Limit<LIMIT>> =
        bincode::config::standard().with_limit::<LIMIT>();
    bincode::serde::decode_from_slice(bytes, configuration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_field_of_garbage_allocates_nothing_and_fails() {
        // 0xfd: a 64-bit length follows.
        let bytes = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, b'a'];
        assert!(matches!(decode::<String>(&bytes, 1024), Err(DecodeError::Malformed(_))));
        assert!(matches!(
            decode::<Vec<u64>>(&bytes, 1024),
            Err(DecodeError::Malformed(_))
        ));
    }

    #[test]
    fn small_numbers_do_not_run_into_the_limit() {
        let numbers = vec![1_u64; 100_000];
        let bytes = encode(&numbers);
        assert!(bytes.len() < 100_010);
        assert_eq!(
            decode::<Vec<u64>>(&bytes, 1 << 20).unwrap(),
            numbers,
            "u64 of one byte each"
        );
        let wide = vec![1_u128; 100_000];
        assert_eq!(decode::<Vec<u128>>(&encode(&wide), 1 << 20).unwrap(), wide);
    }

    #[test]
    fn trailing_and_excess_bytes_are_refused() {
        let mut bytes = encode(&(1_u32, "a"));
        assert!(matches!(
            decode::<(u32, String)>(&bytes, 1),
            Err(DecodeError::TooLong { limit: 1, .. })
        ));
        bytes.push(0);
        assert!(matches!(
            decode::<(u32, String)>(&bytes, 100),
            Err(DecodeError::TrailingBytes { count: 1 })
        ));
    }

    proptest! {
        #[test]
        fn round_trip(value: (u64, i64, String, Vec<Option<u16>>, [u8; 32])) {
            let bytes = encode(&value);
            prop_assert_eq!(decode::<(u64, i64, String, Vec<Option<u16>>, [u8; 32])>(&bytes, bytes.len()).unwrap(), value);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = decode::<Vec<(String, Option<u64>, Vec<u8>)>>(&bytes, 1 << 20);
        }
    }
}
