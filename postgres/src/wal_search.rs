//! Finding a text in WAL, without decoding records.

use crate::{WalHeader, WalHeaderError};

/// The header of every page but a segment's first: `SizeOfXLogShortPHD` in xlog_internal.h.
const SHORT_HEADER: usize = 24;

/// The records of segments that follow each other, without the page headers that may stand in the middle of one.
#[derive(Clone, Debug, Default)]
pub struct WalSearch {
    records: Vec<u8>,
}

impl WalSearch {
    /// Adds the next segment.
    ///
    /// # Errors
    /// When it does not begin as a segment does.
    pub fn add(&mut self, segment: &[u8]) -> Result<(), WalHeaderError> {
        let page = WalHeader::parse(segment)?.block_size as usize;
        for (number, page) in segment.chunks(page).enumerate() {
            let header = if number == 0 { WalHeader::LENGTH } else { SHORT_HEADER };
            self.records.extend_from_slice(page.get(header..).unwrap_or_default());
        }
        Ok(())
    }

    /// Whether the records hold this text.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        let wanted = text.as_bytes();
        !wanted.is_empty() && self.records.windows(wanted.len()).any(|found| found == wanted)
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

    fn found(segments: &[Vec<u8>]) -> bool {
        let mut search = WalSearch::default();
        for segment in segments {
            search.add(segment).unwrap();
        }
        search.holds("restore point")
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
    fn what_is_no_segment_is_refused() {
        assert!(WalSearch::default().add(b"no WAL").is_err());
    }
}
