//! Parts of a record that crosses pages or segments.

use super::error::WalProblem;
use super::record::{HEADER_LENGTH, header_checksum};

/// Consecutive bytes of a record: the first ones, and the checksum of all of them. The needed fields of a long record
/// are at its beginning, and the checksums of the parts give the checksum of the whole; so page images need not be
/// kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of bytes.
    pub length: u32,
    /// The CRC-32C of all bytes.
    pub checksum: u32,
    /// The first bytes.
    pub kept: Vec<u8>,
}

impl Piece {
    /// Adds the bytes that follow, and keeps them up to `limit` bytes in all.
    pub fn add(&mut self, bytes: &[u8], limit: usize) {
        if self.is_complete() {
            let room = limit.saturating_sub(self.kept.len()).min(bytes.len());
            self.kept.extend(bytes.iter().take(room));
        }
        self.length = self
            .length
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
    }

    /// Adds the next piece of the same record.
    pub fn join(&mut self, next: &Self, limit: usize) {
        if self.is_complete() {
            let room = limit.saturating_sub(self.kept.len()).min(next.kept.len());
            self.kept.extend(next.kept.iter().take(room));
        }
        self.checksum = crc32c::crc32c_combine(self.checksum, next.checksum, next.length as usize);
        self.length = self.length.saturating_add(next.length);
    }

    /// The same piece with at most `limit` bytes kept.
    pub fn cut(mut self, limit: usize) -> Self {
        self.kept.truncate(limit);
        self.kept.shrink_to_fit();
        self
    }

    /// Whether every byte was kept.
    pub fn is_complete(&self) -> bool {
        self.kept.len() == self.length as usize
    }

    /// Checks that this is a whole record with the right checksum.
    pub fn check(&self) -> Result<(), WalProblem> {
        let (Some(header), Some(body)) = (self.kept.get(..HEADER_LENGTH), self.kept.get(HEADER_LENGTH..)) else {
            return Err(WalProblem::RecordLength { length: self.length });
        };
        let body = if self.is_complete() {
            crc32c::crc32c(body)
        } else {
            // The checksum of the whole is the header's, moved on by the body's length, xor the body's.
            let body_length = self.length as usize - HEADER_LENGTH;
            crc32c::crc32c_combine(crc32c::crc32c(header), self.checksum, body_length)
        };
        header_checksum(header, body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::writer::record;
    use super::*;

    proptest! {
        #[test]
        fn pieces_give_the_checksum_of_the_whole(
            data in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(0..400usize, 0..4),
            limit in 24..400usize,
            flip in prop::option::of(0..400usize),
        ) {
            let mut whole = record(10, 0, &[], &data);
            if let Some(byte) = flip.and_then(|flip| whole.get_mut(flip)) {
                *byte ^= 1;
            }
            let mut joined = Piece::default();
            let mut rest = whole.as_slice();
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                let mut piece = Piece::default();
                piece.add(part, limit);
                joined.join(&piece, limit);
                rest = after;
            }
            let mut piece = Piece::default();
            piece.add(rest, limit);
            joined.join(&piece, limit);
            let mut added = Piece::default();
            added.add(&whole, limit);
            prop_assert_eq!(joined.length, added.length);
            prop_assert_eq!(joined.checksum, added.checksum);
            prop_assert!(added.kept.starts_with(&joined.kept));
            if joined.kept.len() >= HEADER_LENGTH {
                prop_assert_eq!(joined.check().is_err(), flip.is_some_and(|flip| flip < whole.len()));
            }
        }
    }
}
