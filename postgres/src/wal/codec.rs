//! Numbers and byte strings of a stored map: numbers as varints, seven bits a byte, the lowest first.

use thiserror::Error;

/// Why bytes are no stored map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapFormatError {
    /// The first byte names another format: a newer one, or the bytes are no map.
    #[error("a change map of the unknown format {format}")]
    Format {
        /// The first byte.
        format: u8,
    },
    /// The bytes are more than any map has.
    #[error("a change map of {length} bytes is too long")]
    TooLong {
        /// Their number.
        length: usize,
    },
    /// The bytes end too early, or have a value that no map has.
    #[error("a damaged change map: {part} cannot be so")]
    Malformed {
        /// The field.
        part: &'static str,
    },
}

/// Appends a number.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low_bits(number));
}

/// Appends bytes with their length before them.
pub(super) fn put_bytes(bytes: &mut Vec<u8>, some: &[u8]) {
    put(bytes, some.len() as u64);
    bytes.extend_from_slice(some);
}

#[allow(clippy::cast_possible_truncation)] // Seven bits are taken on purpose.
fn low_bits(number: u64) -> u8 {
    (number & 0x7F) as u8
}

/// The bytes of a stored map that are not read yet.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn u8(&mut self, part: &'static str) -> Result<u8, MapFormatError> {
        let (first, rest) = self.rest.split_first().ok_or(MapFormatError::Malformed { part })?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn u64(&mut self, part: &'static str) -> Result<u64, MapFormatError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(part)?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(MapFormatError::Malformed { part })
    }

    pub fn u32(&mut self, part: &'static str) -> Result<u32, MapFormatError> {
        u32::try_from(self.u64(part)?).map_err(|_| MapFormatError::Malformed { part })
    }

    /// Reads bytes with their length before them, at most `limit`.
    pub fn bytes(&mut self, part: &'static str, limit: usize) -> Result<&'a [u8], MapFormatError> {
        let length = usize::try_from(self.u64(part)?).unwrap_or(usize::MAX);
        if length > limit || length > self.rest.len() {
            return Err(MapFormatError::Malformed { part });
        }
        let (some, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_bytes_come_back(numbers in prop::collection::vec(any::<u64>(), 0..9), some in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            for number in &numbers {
                put(&mut bytes, *number);
                put(&mut bytes, *number & 0x3FFF);
            }
            put_bytes(&mut bytes, &some);
            let mut input = Input::new(&bytes);
            for number in &numbers {
                prop_assert_eq!(input.u64("number"), Ok(*number));
                prop_assert_eq!(input.u32("number").map(u64::from), Ok(*number & 0x3FFF));
            }
            prop_assert_eq!(input.bytes("some", 300), Ok(some.as_slice()));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let mut input = Input::new(&bytes);
            let _ = input.u64("a");
            let _ = input.u32("b");
            let _ = input.bytes("c", 7);
        }
    }
}
