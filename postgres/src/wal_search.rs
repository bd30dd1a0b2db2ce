//! Finds a text in WAL, without decoding records.

use crate::{WalHeader, WalHeaderError};

/// The header of every page but a segment's first: `SizeOfXLogShortPHD` in xlog_internal.h.
const SHORT_HEADER: usize = 24;

/// Looks for a text in the records of consecutive segments, and skips the page headers that may stand in the middle of
/// a record. The bytes come in pieces; at most as many bytes are kept as the text has.
#[derive(Clone, Debug)]
pub struct WalSearch {
    wanted: Vec<u8>,
    /// The last bytes of records, too few to be the text.
    last: Vec<u8>,
    /// The bytes of a page, and the position in the segment.
    segment: Option<(usize, usize)>,
    found: bool,
}

impl WalSearch {
    /// A search for this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            wanted: text.as_bytes().to_vec(),
            last: Vec::new(),
            segment: None,
            found: false,
        }
    }

    /// Begins the next segment.
    pub fn begin_segment(&mut self) {
        self.segment = None;
    }

    /// Takes the next bytes of the segment. The first ones hold its header.
    ///
    /// # Errors
    /// The segment does not begin with a segment's header.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), WalHeaderError> {
        let (page, mut position) = match self.segment {
            Some(place) => place,
            None => (WalHeader::parse(bytes)?.block_size as usize, 0),
        };
        while !bytes.is_empty() {
            let within = position % page;
            let (piece, rest) = bytes.split_at((page - within).min(bytes.len()));
            let header = if position - within == 0 {
                WalHeader::LENGTH
            } else {
                SHORT_HEADER
            };
            self.look(piece.get(header.saturating_sub(within)..).unwrap_or_default());
            position += piece.len();
            bytes = rest;
        }
        self.segment = Some((page, position));
        Ok(())
    }

    /// Looks at the next bytes of records.
    fn look(&mut self, records: &[u8]) {
        let length = self.wanted.len();
        if length == 0 || self.found {
            return;
        }
        self.last.extend_from_slice(records);
        self.found = self.last.windows(length).any(|found| found == self.wanted);
        let spare = self.last.len().saturating_sub(length - 1);
        self.last.drain(..spare);
    }

    /// Whether the text was found.
    #[must_use]
    pub fn found(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 8192;

    /// A segment of 1 MiB of PostgreSQL 15 without records.
    fn segment() -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        bytes[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        bytes[2..4].copy_from_slice(&2_u16.to_le_bytes());
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    /// The result of the search, which must not depend on the length of the pieces.
    fn found(segments: &[Vec<u8>]) -> bool {
        let in_pieces = |length: usize| {
            let mut search = WalSearch::new("restore point");
            for segment in segments {
                search.begin_segment();
                for piece in segment.chunks(length) {
                    search.feed(piece).unwrap();
                }
            }
            search.found()
        };
        let whole = in_pieces(usize::MAX);
        for length in [100, PAGE, PAGE + 3, 65_536] {
            assert_eq!(in_pieces(length), whole, "{length}");
        }
        whole
    }

    #[test]
    fn a_text_is_found_wherever_a_page_cuts_it() {
        assert!(!found(&[segment()]));
        let mut whole = segment();
        whole[500..513].copy_from_slice(b"restore point");
        assert!(found(&[whole]));

        let mut cut = segment();
        cut[PAGE - 7..PAGE].copy_from_slice(b"restore");
        cut[PAGE + SHORT_HEADER..PAGE + SHORT_HEADER + 6].copy_from_slice(b" point");
        assert!(found(&[cut]));

        let (mut first, mut second) = (segment(), segment());
        let end = first.len();
        first[end - 7..].copy_from_slice(b"restore");
        second[WalHeader::LENGTH..WalHeader::LENGTH + 6].copy_from_slice(b" point");
        assert!(found(&[first.clone(), second.clone()]));
        assert!(!found(&[second, first]));
    }

    #[test]
    fn nothing_is_kept_of_what_was_looked_at() {
        let mut search = WalSearch::new("restore point");
        search.feed(&segment()).unwrap();
        assert_eq!(search.last.len(), "restore point".len() - 1);
        assert!(!WalSearch::new("").found());
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        assert!(WalSearch::new("x").feed(b"no WAL").is_err());
    }
}
